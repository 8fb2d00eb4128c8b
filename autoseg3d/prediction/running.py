"""Running prepared cases through one or several predictors, with less memory where the first way does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg3d.prediction.attempts import Attempt, first_that_fits
from autoseg3d.prediction.computation import Progress
from autoseg3d.prediction.fold_counts import FoldCounts
from autoseg3d.prediction.fusion import Sink, fuse

if TYPE_CHECKING:
    from autoseg3d.prediction.predictor import Predictor, Prepared


_TOUCHED = "labels reach the edge of the box that was computed around the body; predict without --crop body"


@dataclass(frozen=True)
class Prediction:
    """A predicted case.

    labels     (Z, Y, X) uint8 or uint16 on the grid of the case
    precision  "fp32" or "bf16", as it was computed; "mixed" where members differ
    device     where it was computed
    agreement  of bfloat16, that the precision was chosen by, the lowest of all members; None where none was looked at
    seconds    wall-clock time of "network" and "export"
    notes      what went another way than asked for
    counts     per member how far its networks agree; None where that was not asked for
    """

    labels: np.ndarray
    precision: str
    device: str
    agreement: float | None
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    counts: tuple[FoldCounts | None, ...] = ()


def run_members(
    predictors: Sequence[Predictor],
    prepared: Sequence[Prepared],
    *,
    on_probabilities: Sink | None = None,
    spill_folder: Path | None = None,
    apart: bool = False,
    progress: Progress | None = None,
) -> Prediction:
    """Labels of a case that each predictor has prepared, on the scan's own grid; see `fuse` for the arguments.

    `apart` counts how far the networks of each predictor agree. Where the device runs out of memory the case is computed
    again with fewer windows at a time, then with the slab on the CPU, then wholly on the CPU, then in narrow bands; labels
    stay the same up to rounding, and a note says so.
    """

    def compute(attempt: Attempt) -> Prediction:
        members = [p.computation(case, attempt, apart=apart) for p, case in zip(predictors, prepared, strict=True)]
        fused = fuse(members, on_probabilities=on_probabilities, spill_folder=spill_folder, progress=progress)
        precisions = {member.precision for member in members}
        measured = [member.agreement for member in members if member.agreement is not None]
        return Prediction(
            labels=fused.labels,
            precision=precisions.pop() if len(precisions) == 1 else "mixed",
            device=str(attempt.device),
            agreement=min(measured, default=None),
            seconds=fused.seconds,
            counts=fused.counts,
            notes=(_TOUCHED,) if any(member.body is not None and member.body.touched for member in members) else (),
        )

    prediction, notes = first_that_fits(predictors[0].attempts(), compute)
    return replace(prediction, notes=(*notes, *prediction.notes))
