"""autoseg3d package, autoseg3d info, autoseg3d import-nnunet and autoseg3d export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def package(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, NAME.a3d.")],
    licence: Annotated[str | None, typer.Option(help='What others may do with the model, such as "CC BY 4.0"; goes into its card.')] = None,
) -> None:
    """Put a trained model into one file that can be given away.

    Example: autoseg3d package runs/hippocampus -o hippocampus.a3d
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    written = api.package(run, out, licence=licence)
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

    notes: list[str] = []
    with show.progress() as report:
        written = api.import_nnunet(source, out, checkpoint=checkpoint, progress=report, note=notes.append)
    for line in notes:
        show.console.print(f"note: {line}", soft_wrap=True)
    show.output.print(f"Written to {written}. Next: autoseg3d predict SCANS --model {written} --out OUT")


def export(
    model: Annotated[Path, typer.Argument(help="A run folder, a model folder, or a .a3d file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, for instance liver.onnx or liver.pt2.")],
    format: Annotated[str, typer.Option(help="onnx (needs the extra autoseg3d[onnx]) or torch-export.")] = "onnx",
    configuration: Annotated[str | None, typer.Option(help="Default: 3d_fullres, else 2d.")] = None,
    fold: Annotated[str | None, typer.Option(help="Folds to fuse in the file, such as 0 or 0,1,4. Default: all that are there.")] = None,
) -> None:
    """Write the network of a model to one file for other programs, with its plan and the meaning of its labels inside.

    The file is run and compared with torch before it is kept. It holds the network alone: bringing scans to its
    grid and intensities, and its logits back to the scan, is up to the program that uses it.

    Example: autoseg3d export liver.a3d --format onnx -o liver.onnx
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    folds = [part.strip() for part in fold.split(",")] if fold else None
    done = api.export(model, out, format=format, configuration=configuration, folds=folds)
    show.output.print(
        f"{done.path} ({show.size(done.path.stat().st_size)}): {done.configuration}, folds {', '.join(done.folds)}. "
        f"Run against torch: logits differ by at most {done.difference:.1e} of the largest, "
        f"{done.equal:.3%} of the voxels get the same class.",
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(package)
    app.command()(info)
    app.command("import-nnunet")(import_nnunet)
    app.command()(export)
