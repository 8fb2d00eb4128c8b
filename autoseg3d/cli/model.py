"""autoseg3d package, autoseg3d info and autoseg3d import-nnunet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def package(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, NAME.a3d.")],
) -> None:
    """Put a trained model into one file that can be given away.

    Example: autoseg3d package runs/hippocampus -o hippocampus.a3d
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    written = api.package(run, out)
    show.output.print(f"{written} ({show.size(written.stat().st_size)}). Try: autoseg3d info {written}")


def info(model: Annotated[Path, typer.Argument(help="A run folder, a model folder, or a .a3d file.")]) -> None:
    """Show what a model segments, what it was trained on, and how well it did.

    Example: autoseg3d info hippocampus.a3d
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    show.table(str(model), ("", ""), api.info(model))


def import_nnunet(
    source: Annotated[Path, typer.Argument(help="Trained-model folder of nnU-Net v2, a results folder above it, or an exported zip.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model to write: NAME.a3d for one file, else a folder.")],
    checkpoint: Annotated[str, typer.Option(help="final, best or latest, where a fold has several.")] = "final",
) -> None:
    """Make a model of a trained nnU-Net v2 model; it predicts the same labels. Nothing in the foreign files is executed.

    Example: autoseg3d import-nnunet nnUNet_results/Dataset004_Hippocampus -o hippocampus.a3d
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    with show.progress() as report:
        written = api.import_nnunet(source, out, checkpoint=checkpoint, progress=report)
    show.output.print(f"Written to {written}. Next: autoseg3d predict SCANS --model {written} --out OUT")


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(package)
    app.command()(info)
    app.command("import-nnunet")(import_nnunet)
