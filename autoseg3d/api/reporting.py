"""Reports as pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str, int, int], None]


def report(
    folder: Path,
    out: Path | None = None,
    *,
    scans: Path | None = None,
    viewer: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes one HTML page about a run or a batch of predictions and returns where it is; see autoseg3d.report.make_report."""
    from autoseg3d.report import make_report
    from autoseg3d.workers import worker_count

    return make_report(folder, out, scans=scans, viewer=viewer, workers=worker_count(workers), progress=progress)
