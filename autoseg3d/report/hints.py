"""hints: in which plain way a reference label map may be wrong, tried out against the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from scipy import ndimage

from autoseg3d.geometry import Geometry, turn
from planners.labels import LabelTable

# A guess is told where it raises the agreement by at least this much Dice, and brings it to something like agreement.
_GAIN = 0.15
_AGREEMENT = 0.5
_WORDS = (("down", "up"), ("backwards", "forwards"), ("to the left", "to the right"))


def hints(reference: np.ndarray, prediction: np.ndarray, geometry: Geometry, labels: LabelTable) -> tuple[str, ...]:
    """What would make the reference agree with the prediction, as sentences; none where nothing simple does.

    Args:
        reference, prediction: label maps (Z, Y, X) on one grid.
        geometry: that grid.
        labels: for the names.
    """
    axes, flips = geometry.to_canonical()
    grid = geometry.turned(axes, flips)
    truth, found = turn(reference, axes, flips), turn(prediction, axes, flips)
    if labels.ignore is not None:
        found = np.where(truth == labels.ignore, 0, found)
        truth = np.where(truth == labels.ignore, 0, truth)
    absent = tuple(_absent(truth, found, grid, labels))
    before = mean_dice(truth, found)
    guesses = [*_swapped(truth, found, labels), *_mirrored(truth, found), *_shifted(truth, found, grid)]
    if guesses:
        after, words = max(guesses)
        if after >= max(before + _GAIN, _AGREEMENT):
            return (*absent, f"{words}: the mean Dice would rise from {before:.2f} to {after:.2f}")
    return absent


def mean_dice(truth: np.ndarray, found: np.ndarray) -> float:
    """Mean Dice over the values above 0 that either map holds; 1 where neither holds any."""
    size = int(max(truth.max(), found.max())) + 1
    both = np.bincount(truth[truth == found].ravel(), minlength=size)[1:]
    total = (np.bincount(truth.ravel(), minlength=size) + np.bincount(found.ravel(), minlength=size))[1:]
    return float((2 * both[total > 0] / total[total > 0]).mean()) if (total > 0).any() else 1.0


def _absent(truth: np.ndarray, found: np.ndarray, grid: Geometry, labels: LabelTable) -> Iterator[str]:
    for label in labels.labels:
        there, seen = (int(np.isin(array, label.values).sum()) for array in (truth, found))
        if seen and not there:
            yield f"{label.name} is not in the reference; the model finds {seen * grid.voxel_volume_ml:.3g} mL of it"
        if there and not seen:
            yield f"{label.name} has {there * grid.voxel_volume_ml:.3g} mL in the reference; the model finds none of it"


def _swapped(truth: np.ndarray, found: np.ndarray, labels: LabelTable) -> Iterator[tuple[float, str]]:
    """Every pair of values that meet each other: exchanged in the reference."""
    names = {label.paint: label.name for label in labels.labels}
    present = [value for value in labels.values if (truth == value).any()]
    for a, b in combinations(present, 2):
        if (found[truth == a] == b).any() and (found[truth == b] == a).any():
            exchanged = np.where(truth == a, b, np.where(truth == b, a, truth))
            yield mean_dice(exchanged, found), f"{names.get(a, a)} and {names.get(b, b)} look exchanged"


def _mirrored(truth: np.ndarray, found: np.ndarray) -> Iterator[tuple[float, str]]:
    for axis, words in enumerate(("upside down", "back to front", "left to right")):
        yield mean_dice(np.flip(truth, axis), found), f"the reference looks mirrored {words}"


def _shifted(truth: np.ndarray, found: np.ndarray, grid: Geometry) -> Iterator[tuple[float, str]]:
    """The reference moved so that the middles of both foregrounds meet."""
    if not (truth > 0).any() or not (found > 0).any():
        return
    offset = [round(b - a) for a, b in zip(ndimage.center_of_mass(truth > 0), ndimage.center_of_mass(found > 0), strict=True)]
    if any(offset):
        moved = ndimage.shift(truth, offset, order=0, mode="constant", cval=0)
        parts = [
            f"{abs(n) * spacing:.0f} mm {words[n < 0]}" for n, spacing, words in zip(offset, grid.spacing_mm, _WORDS, strict=True) if n
        ]
        yield mean_dice(moved, found), f"the reference looks moved {', '.join(parts)}"
