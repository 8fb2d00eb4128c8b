"""The postprocessing that belongs to a prediction, applied to its labels, and what it removed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg3d.ops.components import value_boxes
from autoseg3d.ops.postprocessing import apply_postprocessing
from autoseg3d.prediction.flags import Flag
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
) -> tuple[tuple[StepRecord, ...], tuple[Flag, ...]]:
    """Applies the steps to label values (Z, Y, X) on the scan's own grid, in place.

    Says what each step removed, and flags every label of which nothing is left.
    """
    if postprocessing is None or not postprocessing.steps:
        return (), ()
    before = set(value_boxes(labels))
    removed = apply_postprocessing(labels, postprocessing, voxel_volume_ml=voxel_volume_ml)
    gone = before - set(value_boxes(labels))
    records = tuple(
        StepRecord(step=sentence, parts=one.components, removed_ml=one.voxels * voxel_volume_ml)
        for sentence, one in zip(postprocessing.sentences(table), removed, strict=True)
    )
    names = [label.name for label in table.labels if label.paint in gone]
    return records, tuple(Flag(code="EMPTIED", reason=f"postprocessing removed all that was predicted of {name}") for name in names)
