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
    model: Annotated[
        list[Path], typer.Option(help="A run folder, a model folder, or a .a3d file. Give it several times to average several models.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the label maps; may not lie inside the folder of the scans.")],
    configuration: Annotated[
        str | None,
        typer.Option(help="One, or several such as 2d,3d_fullres to average. Default: what select chose, else 3d_fullres."),
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Folds to fuse, such as 0,1,4 or full. Default: all that are there.")] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="No mirrored copies and wider steps: many times faster, and labels may change a little.")
    ] = False,
    best: Annotated[bool, typer.Option("--best", help="Narrower steps and full precision: several times slower.")] = False,
    seconds_per_case: Annotated[
        float | None,
        typer.Option(min=0.1, help="As thorough as fits into this time per scan, by the speed of one window on this machine."),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Average over mirrored copies, along the axes the model was trained to flip: up to eight times slower. Default: yes.",
        ),
    ] = None,
    step: Annotated[
        float | None, typer.Option(min=0.1, max=1.0, help="Distance between windows as a share of their size. Default: 0.5.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16. auto takes bf16 only where it was seen to agree with fp32.")] = "auto",
    device: options.Device = "auto",
    backend: Annotated[
        str, typer.Option(help="torch, or openvino: often faster on a processor; needs the extra autoseg3d[openvino].")
    ] = "torch",
    crop: Annotated[
        str, typer.Option(help="none, or body: leave out the air around the body in CT; faster, and labels may change a little.")
    ] = "none",
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also write OUT/CASE.npz with the probability of each class.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write OUT/CASE_entropy.nii.gz, and compare the folds with each other.")
    ] = False,
    postprocess: Annotated[
        bool, typer.Option("--postprocess/--no-postprocess", help="Remove the parts that the model was seen to invent (autoseg3d select).")
    ] = True,
    max_memory: Annotated[
        str | None, typer.Option(help="Stay below this much memory, such as 8GB; a scan that cannot is refused with what it needs.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds that one scan may take before it is given up.")] = None,
    geometry: options.Geometry = "auto",
) -> None:
    """Segment scans with a trained model; each label map lies on its scan's own grid.

    One unusable scan never stops the others: results.json and results.csv list every case as done, flagged for
    review, or failed with the cause. Exit code 3 when a case failed. Run again, finished cases are kept.

    Examples:

      autoseg3d predict scans/ --model runs/hippocampus --out segmentations/

      autoseg3d predict scan.nii.gz --model liver.a3d --out out/ --fast

      autoseg3d predict scans/ --model a.a3d --model b.a3d --out out/ --max-memory 8GB
    """
    from autoseg3d import api
    from autoseg3d.cli import show
    from autoseg3d.prediction import PredictOptions

    if fast and best:
        raise typer.BadParameter("give --fast or --best, not both")
    chosen = PredictOptions.of_preset(
        "fast" if fast else "best" if best else "default",
        configurations=options.names(configuration),
        folds=options.names(folds),
        mirror=mirror,
        step=step,
        precision=None if precision == "auto" else options.precision_choice(precision),
        device=device,
        backend=options.backend_choice(backend),
        crop=options.crop_choice(crop),
        save_probabilities=save_probabilities,
        uncertainty=uncertainty,
        postprocess=postprocess,
        seconds_per_case=seconds_per_case,
        timeout_seconds=timeout,
        max_memory_bytes=options.memory_bytes(max_memory, "--max-memory"),
        geometry=options.geometry_choice(geometry),
    )
    with show.progress() as report:
        results = api.predict(scans, model, out, options=chosen, progress=report)
    rows = [(r.case, r.status, "; ".join(r.reasons), "; ".join(r.remedies)) for r in results if r.status != "done"]
    if rows:
        show.table("Look at these", ("case", "status", "why", "what to do"), rows)
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
    tolerance: options.Tolerance = None,
    workers: options.Workers = None,
) -> None:
    """Compare label maps with a reference: Dice, surface distances and volumes per case and label.

    Example: autoseg3d evaluate segmentations/ labelsTs/ --out scores/
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    with show.progress() as report:
        scores = api.evaluate(
            predictions,
            reference,
            out,
            dataset=dataset,
            tolerance_mm=options.tolerances(tolerance),
            workers=workers,
            progress=report,
        )
    show.table("Scores", scores.columns, scores.table)
    show.output.print(f"Written to {out}.")
    for note in scores.notes:
        show.output.print(note, soft_wrap=True)
    for line in scores.failure_lines():
        show.finding("not scored", line, style="red")
    if scores.failures:
        raise typer.Exit(3)


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(predict)
    app.command()(evaluate)
