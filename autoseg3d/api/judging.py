"""After training: choosing among what was trained, and comparing predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg3d.api.planning import label_table_of

if TYPE_CHECKING:
    from autoseg3d.evaluation import Comparison
    from autoseg3d.evaluation.scoring import Tolerance
    from autoseg3d.package import Selection

Progress = Callable[[str, int, int], None]


def select(
    run: Path, *, configurations: Sequence[str] | None = None, workers: int | None = None, progress: Progress | None = None
) -> Selection:
    """Chooses configuration or ensemble and postprocessing from a run's out-of-fold predictions; see autoseg3d.select."""
    from autoseg3d.select import select_run
    from autoseg3d.workers import worker_count

    return select_run(run, configurations=configurations, workers=worker_count(workers), progress=progress)


def compare(
    a: Path,
    b: Path,
    *,
    reference: Path | None = None,
    names: tuple[str, str] | None = None,
    out: Path | None = None,
    dataset: Path | None = None,
    tolerance_mm: Tolerance = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Two predictions or evaluations of the same cases, paired; see autoseg3d.evaluation.compare."""
    from autoseg3d.evaluation import compare as compare_paths
    from autoseg3d.workers import worker_count

    labels, count = None if dataset is None else label_table_of(dataset), worker_count(workers)
    return compare_paths(
        a, b, reference=reference, names=names, out=out, labels=labels, tolerance_mm=tolerance_mm, workers=count, progress=progress
    )
