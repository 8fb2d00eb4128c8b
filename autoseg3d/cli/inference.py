"""autoseg3d predict and autoseg3d evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg3d.cli import options


def predict(
    scans: Annotated[
        Path, typer.Argument(help="A scan, a folder of scans (CASE_0000.nii.gz, CASE_0001.nii.gz for several channels), or DICOM folders.")
    ],
    model: Annotated[Path, typer.Option(help="A run folder, a model folder, or a .a3d file.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps; may not lie inside the folder of the scans.")],
    configuration: Annotated[str | None, typer.Option(help="Default: 3d_fullres, else 2d.")] = None,
    folds: Annotated[str | None, typer.Option(help="Folds to fuse, such as 0,1,4 or full. Default: all that are there.")] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror/--no-mirror", help="Average over mirrored copies: better, and up to eight times slower.")
    ] = True,
    step: Annotated[float, typer.Option(min=0.1, max=1.0, help="Distance between windows as a share of their size.")] = 0.5,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16. auto takes bf16 only where it was seen to agree with fp32.")] = "auto",
    device: options.Device = "auto",
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write OUT/CASE.npz with the probability of each class.")
    ] = False,
    geometry: options.Geometry = "auto",
) -> None:
    """Segment scans with a trained model; each label map lies on its scan's own grid.

    One unusable scan never stops the others: results.json and results.csv list every case as done, flagged for
    review, or failed with the cause. Exit code 3 when a case failed. Run again, finished cases are kept.

    Examples:

      autoseg3d predict scans/ --model runs/hippocampus --out segmentations/

      autoseg3d predict scan.nii.gz --model liver.a3d --out out/ --no-mirror
    """
    from autoseg3d import api
    from autoseg3d.cli import show
    from autoseg3d.prediction import PredictOptions

    chosen = PredictOptions(
        configuration=configuration,
        folds=tuple(part.strip() for part in folds.split(",")) if folds else None,
        mirror=mirror,
        step=step,
        precision=options.precision_choice(precision),
        device=device,
        save_probabilities=save_probabilities,
        geometry=options.geometry_choice(geometry),
    )
    with show.progress() as report:
        results = api.predict(scans, model, out, options=chosen, progress=report)
    rows = [(result.case, result.status, "; ".join(result.reasons)) for result in results if result.status != "done"]
    if rows:
        show.table("Look at these", ("case", "status", "why"), rows)
    failed = sum(result.status == "failed" for result in results)
    flagged = sum(result.status == "review" for result in results)
    show.output.print(f"{len(results) - failed} of {len(results)} scans segmented into {out}, {flagged} to review, {failed} failed.")
    if failed:
        raise typer.Exit(3)


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted label maps.")],
    reference: Annotated[Path, typer.Argument(help="Folder of reference label maps with the same names.")],
    out: Annotated[Path, typer.Option(help="Folder for scores.csv and the summary.")],
    dataset: Annotated[
        Path | None, typer.Option(help="dataset.json with the label names. Default: looked for beside the reference.")
    ] = None,
    workers: options.Workers = None,
) -> None:
    """Compare label maps with a reference: Dice, surface distances and volumes per case and label.

    Example: autoseg3d evaluate segmentations/ labelsTs/ --out scores/
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    with show.progress() as report:
        scores = api.evaluate(predictions, reference, out, dataset=dataset, workers=workers, progress=report)
    show.table("Scores", scores.columns, scores.table)
    show.output.print(f"Written to {out}.")
    for line in scores.failure_lines():
        show.output.print(f"[red]not scored[/] {line}", soft_wrap=True)
    if scores.failures:
        raise typer.Exit(3)


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(predict)
    app.command()(evaluate)
