"""The postprocessing that belongs to a prediction, applied to its labels, and what it removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg3d.ops.postprocessing import apply_postprocessing
from autoseg3d.prediction.members import Member
from autoseg3d.prediction.records import StepRecord
from planners.labels import LabelTable
from planners.postprocessing import Postprocessing


def postprocessing_of(members: Sequence[Member]) -> Postprocessing | None:
    """What the model says for exactly these configurations; None for nothing, and where several models are averaged."""
    first, *others = (member.package for member in members)
    if any(package.sha256 != first.sha256 for package in others):
        return None
    return first.postprocessing(tuple(member.configuration for member in members))


def postprocess(
    labels: np.ndarray, postprocessing: Postprocessing | None, *, table: LabelTable, voxel_volume_ml: float
) -> tuple[StepRecord, ...]:
    """Applies the steps to label values (Z, Y, X) on the scan's own grid, in place, and says what each removed."""
    if postprocessing is None:
        return ()
    removed = apply_postprocessing(labels, postprocessing, voxel_volume_ml=voxel_volume_ml)
    return tuple(
        StepRecord(step=sentence, parts=one.components, removed_ml=one.voxels * voxel_volume_ml)
        for sentence, one in zip(postprocessing.sentences(table), removed, strict=True)
    )
