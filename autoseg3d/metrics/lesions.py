"""Lesion-wise measures: which connected components of the reference were found, and which predicted ones are false.

A reference and a predicted component match where their intersection over union reaches a threshold. Each takes part in
one match at most; matches are made by falling IoU (greedy matching by localisation score, Metrics Reloaded).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from autoseg3d.metrics.boxes import crop_to_union

_CONNECTED = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class LesionMatch:
    """Numbers of components (26-connected) in the reference and the prediction, and of matched pairs."""

    reference: int
    prediction: int
    matched: int

    @property
    def f1(self) -> float:
        """2 matched / (reference + prediction); NaN where there are no components at all, 0 where only one side has some."""
        total = self.reference + self.prediction
        return 2 * self.matched / total if total else math.nan

    @property
    def sensitivity(self) -> float:
        """The part of the reference's components that was found; NaN where there are none."""
        return self.matched / self.reference if self.reference else math.nan

    @property
    def precision(self) -> float:
        """The part of the predicted components that is right; NaN where there are none."""
        return self.matched / self.prediction if self.prediction else math.nan

    def __add__(self, other: LesionMatch) -> LesionMatch:
        return LesionMatch(self.reference + other.reference, self.prediction + other.prediction, self.matched + other.matched)


def match_lesions(prediction: np.ndarray, reference: np.ndarray, *, min_iou: float = 0.1) -> LesionMatch:
    """Matches the components of two boolean masks (Z, Y, X).

    Args:
        prediction, reference: masks of one shape.
        min_iou: the overlap that counts as found, above 0 and at most 1. 0.1 asks for real overlap and forgives an
            outline that is too wide or too narrow, as is usual for small lesions; above 0.5 matches are unique.

    Raises ValueError where the masks are not boolean and of one shape, or `min_iou` is out of range.
    """
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou must be above 0 and at most 1, got {min_iou}")
    cropped = crop_to_union(prediction, reference)
    (predicted, n_predicted), (referred, n_referred) = (ndimage.label(mask, structure=_CONNECTED) for mask in cropped)
    pairs, overlap = _overlaps(predicted, referred, n_referred)
    union = np.bincount(predicted.ravel())[pairs[:, 0]] + np.bincount(referred.ravel())[pairs[:, 1]] - overlap
    return LesionMatch(n_referred, n_predicted, _greedy(pairs, overlap / union, min_iou))


def _overlaps(predicted: np.ndarray, referred: np.ndarray, n_referred: int) -> tuple[np.ndarray, np.ndarray]:
    """(pairs (n, 2) of touching component numbers, voxels they share (n,))."""
    both = (predicted > 0) & (referred > 0)
    joint = predicted[both].astype(np.int64) * (n_referred + 1) + referred[both]
    keys, overlap = np.unique(joint, return_counts=True)
    return np.column_stack(np.divmod(keys, n_referred + 1)), overlap


def _greedy(pairs: np.ndarray, scores: np.ndarray, least: float) -> int:
    taken_predicted: set[int] = set()
    taken_referred: set[int] = set()
    for i in np.argsort(-scores, kind="stable"):
        predicted, referred = (int(n) for n in pairs[i])
        if scores[i] >= least and predicted not in taken_predicted and referred not in taken_referred:
            taken_predicted.add(predicted)
            taken_referred.add(referred)
    return len(taken_predicted)
