"""autoseg3d doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg3d.cli import options


def doctor(
    folder: Annotated[Path, typer.Argument(help="Where results would be written; tried, and left as it was.")] = Path(),
    device: options.Device = "auto",
) -> None:
    """Check this installation and this machine, and say in plain words what will fail.

    Looks at memory, disk, write rights, clock, processes and devices, then segments a small scan whose right answer is
    known, stored in several orientations. Exit code 3 when something is at fault. Takes a few seconds.

    Example: autoseg3d doctor /data/results
    """
    from autoseg3d import api
    from autoseg3d.cli import show
    from autoseg3d.doctor import worst

    found = api.doctor(folder, device=device)
    rows = [(finding.what, finding.verdict, f"{finding.said}. {finding.remedy}".rstrip(". ") + ".") for finding in found]
    show.table("", ("", "", "what it means"), rows)
    verdict = worst(found)
    faults = sum(finding.verdict == "fault" for finding in found)
    closing = {
        "fine": "All is well.",
        "warning": "It works; see the warnings.",
        "fault": f"{faults} {'thing is' if faults == 1 else 'things are'} at fault: mend them before you rely on results.",
    }
    show.output.print(closing[verdict], style="red" if verdict == "fault" else None)
    raise typer.Exit(3 if verdict == "fault" else 0)


def register(app: typer.Typer) -> None:
    """Adds the command of this file to the application."""
    app.command()(doctor)
