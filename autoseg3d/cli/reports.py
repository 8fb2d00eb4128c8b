"""autoseg3d report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoseg3d.cli import options


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or the folder of label maps that autoseg3d predict wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page to write. Default: FOLDER/report.html.")] = None,
    scans: Annotated[
        Path | None,
        typer.Option(
            help="For label maps: the scans they were made from, to show outlines on them. For a run: the dataset folder, if it has moved."
        ),
    ] = None,
    viewer: Annotated[
        bool,
        typer.Option("--viewer/--no-viewer", help="Embed scans that open in 3D with a click, or make a smaller page with pictures only."),
    ] = True,
    workers: options.Workers = None,
) -> None:
    """Write one HTML page that people can look at: offline, on a phone, or printed.

    Of a run it shows scores, labels that may be wrong, the lowest cases, learning curves, the dataset and the plan with its
    reasons. Of label maps it shows failed and flagged scans first, then volumes and every scan with its outlines. The page
    holds parts of the scans: keep it where you may keep those.

    Examples:

      autoseg3d report runs/hippocampus

      autoseg3d report segmentations/ --scans scans/ -o monday.html
    """
    from autoseg3d import api
    from autoseg3d.cli import show

    with show.progress() as progress:
        written = api.report(folder, out, scans=scans, viewer=viewer, workers=workers, progress=progress)
    show.output.print(f"{written} ({show.size(written.stat().st_size)}). Open it in a browser.")


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to the application."""
    app.command()(report)
