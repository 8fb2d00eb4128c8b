"""Measures of overlap and volume, from the counts of voxels. Empty masks: see the table at the head of the package."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autoseg3d.metrics.boxes import check_masks


@dataclass(frozen=True)
class Counts:
    """Voxels of a prediction against a reference.

    tp  in both
    fp  in the prediction only
    fn  in the reference only
    """

    tp: int
    fp: int
    fn: int

    @property
    def prediction(self) -> int:
        """Voxels of the prediction."""
        return self.tp + self.fp

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.tp + self.fn

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def count_overlap(prediction: np.ndarray, reference: np.ndarray) -> Counts:
    """The Counts of two boolean masks (Z, Y, X). Raises ValueError where they are not boolean and of one shape."""
    check_masks(prediction, reference)
    tp = int(np.count_nonzero(prediction & reference))
    return Counts(tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(reference)) - tp)


def dice(counts: Counts) -> float:
    """2 TP / (2 TP + FP + FN): 1 agreement, 0 none, NaN where both are empty (nnU-Net's rule)."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def iou(counts: Counts) -> float:
    """TP / (TP + FP + FN), the Jaccard index; NaN where both are empty."""
    return _ratio(counts.tp, counts.tp + counts.fp + counts.fn)


def sensitivity(counts: Counts) -> float:
    """TP / (TP + FN), the part of the reference that was found (recall); NaN where the reference is empty."""
    return _ratio(counts.tp, counts.reference)


def precision(counts: Counts) -> float:
    """TP / (TP + FP), the part of the prediction that is right (positive predictive value); NaN where it is empty."""
    return _ratio(counts.tp, counts.prediction)


def volume_difference_ml(counts: Counts, *, voxel_volume_ml: float) -> float:
    """Predicted minus reference volume in mL: above 0 where too much was segmented."""
    return (counts.prediction - counts.reference) * voxel_volume_ml


def volume_difference_percent(counts: Counts) -> float:
    """Predicted minus reference volume in percent of the reference; NaN where the reference is empty."""
    return 100 * _ratio(counts.prediction - counts.reference, counts.reference)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
