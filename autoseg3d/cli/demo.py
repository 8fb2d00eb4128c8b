"""autoseg3d demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Argument(help="Where the example is put; made if it is not there.")] = Path("demo_run"),
    minutes: Annotated[float, typer.Option(min=0.05, help="Training time.")] = 3.2,
) -> None:
    """Run the whole way on a small synthetic dataset: plan, train, predict, evaluate, pictures. Under five minutes.

    Example: autoseg3d demo
    """
    from autoseg3d.cli import show
    from autoseg3d.cli.watching import watch
    from autoseg3d.demo import run_demo

    with show.progress() as report, watch() as watching:
        result = run_demo(folder, minutes=minutes, watch=watching, progress=report)
    show.table("Scores on scans the model never saw", result.scores.columns, result.scores.table)
    show.output.print(f"Look at the pictures: {result.sheet} and the others beside it.", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Adds the command of this file to the application."""
    app.command()(demo)
