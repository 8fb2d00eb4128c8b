"""Calibration: whether a probability of 0.8 is right in 80 % of the voxels. Counts of parts of a scan add up to the whole.

Background far from any structure is easy and drowns the rest: pass the voxels in question, for instance those within a
few millimetres of predicted or true foreground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CalibrationCounts:
    """Sums over voxels, in equal bins of predicted probability from 0 to 1.

    voxels         number of voxels: int64 (bins,)
    probability    sum of predicted probabilities: float64 (bins,)
    events         number of voxels in which the event was true: int64 (bins,)
    squared_error  sum over all voxels of (probability - event)²
    """

    voxels: np.ndarray
    probability: np.ndarray
    events: np.ndarray
    squared_error: float

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        if len(self.voxels) != len(other.voxels):
            raise ValueError(f"counts must have as many bins as each other, got {len(self.voxels)} and {len(other.voxels)}")
        return CalibrationCounts(
            self.voxels + other.voxels,
            self.probability + other.probability,
            self.events + other.events,
            self.squared_error + other.squared_error,
        )

    @property
    def brier(self) -> float:
        """Mean squared error of the probability (Brier score): 0 perfect, 0.25 a coin's; NaN without voxels."""
        total = int(self.voxels.sum())
        return self.squared_error / total if total else math.nan

    @property
    def ece(self) -> float:
        """Expected calibration error: mean gap between probability and frequency, bins weighted by voxels; NaN without any."""
        total = int(self.voxels.sum())
        return float(np.abs(self.probability - self.events).sum()) / total if total else math.nan


def calibration_counts(probability: np.ndarray, event: np.ndarray, *, bins: int = 15) -> CalibrationCounts:
    """Counts of predicted probabilities against a binary event.

    Args:
        probability: any shape, floats in [0, 1].
        event: same shape, boolean: true where the class in question is present.
        bins: number of equal bins; a probability on an edge falls into the bin above, 1 into the last.

    Raises ValueError for unlike shapes and for probabilities that are not finite or not in [0, 1].
    """
    if probability.shape != event.shape:
        raise ValueError(f"probability and event must share one shape, got {probability.shape} and {event.shape}")
    p = probability.ravel().astype(np.float64)
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"probabilities must lie in [0, 1], got {p.min()} to {p.max()}")
    e = event.ravel().astype(bool)
    index = np.minimum((p * bins).astype(np.intp), bins - 1)
    return CalibrationCounts(
        voxels=np.bincount(index, minlength=bins),
        probability=np.bincount(index, weights=p, minlength=bins),
        events=np.bincount(index[e], minlength=bins),
        squared_error=float(((p - e) ** 2).sum()),
    )


def top_label_counts(probabilities: np.ndarray, truth: np.ndarray, *, bins: int = 15) -> CalibrationCounts:
    """Counts of the winning class's probability against whether it is the true one (top-label calibration).

    Args:
        probabilities: (K, ...) floats in [0, 1], classes first.
        truth: (...) integers 0..K-1.
    """
    confidence = probabilities.max(axis=0)
    return calibration_counts(confidence, probabilities.argmax(axis=0) == truth, bins=bins)
