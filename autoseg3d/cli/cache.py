"""autoseg3d cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cache(
    run: Annotated[Path, typer.Argument(help="Run folder made by autoseg3d plan.")],
    clean: Annotated[bool, typer.Option("--clean", help="Remove prepared cases that no configuration of the plan uses.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="With --clean: remove those that are used, too.")] = False,
) -> None:
    """List the prepared cases of a run with their size, or remove those that are not needed.

    Prepared cases are copies of the scans as the network sees them. They can always be removed: the next training makes
    them again. What a training reads at this moment stays.

    Examples:

      autoseg3d cache runs/hippocampus

      autoseg3d cache runs/hippocampus --clean
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    if everything and not clean:
        raise typer.BadParameter("--all goes with --clean")
    if clean:
        done = api.clean_cache(run, everything=everything)
        show.output.print(f"{show.size(done.bytes_freed)} freed")
        for name in done.busy:
            show.finding("stays", f"{name}: another process uses it", style="yellow")
    found = api.cache(run)
    if not found:
        show.output.print("The cache is empty.")
        return
    rows = [(p.name, p.what, "" if p.cases is None else p.cases, show.size(p.bytes), ", ".join(p.used_by) or "nothing") for p in found]
    show.table(f"{run / 'cache'}: {show.size(sum(part.bytes for part in found))}", ("folder", "holds", "cases", "size", "used by"), rows)


def register(app: typer.Typer) -> None:
    """Adds the command of this file to the application."""
    app.command()(cache)
