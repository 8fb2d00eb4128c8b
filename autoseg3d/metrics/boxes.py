"""Boxes around masks: measures are taken inside them, which is most of their speed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]


def label_boxes(label_map: np.ndarray) -> dict[int, Box]:
    """The smallest box around each value above 0 of an integer map (Z, Y, X), in one pass; absent values are left out."""
    found = ndimage.find_objects(label_map)
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def merge_boxes(boxes: Iterable[Box]) -> Box | None:
    """The smallest box around several; None for none."""
    held = list(boxes)
    if not held:
        return None
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*held, strict=True))


def grow_box(box: Box, shape: tuple[int, ...]) -> Box:
    """The box one voxel wider on every side, as far as the array of `shape` goes.

    A mask cut out so keeps its surface, and is one voxel thick only where the whole array is.
    """
    return tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, shape, strict=True))


def crop_to_union(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of both masks (Z, Y, X) in the smallest box around their union; of shape (0, 0, 0) where both are empty.

    Raises ValueError where they are not boolean, three-dimensional and of one shape.
    """
    check_masks(prediction, reference)
    box = merge_boxes(box for box in (_box(prediction), _box(reference)) if box is not None)
    if box is None:
        box = (slice(0, 0),) * 3
    return prediction[box], reference[box]


def check_masks(prediction: np.ndarray, reference: np.ndarray) -> None:
    """Raises ValueError where two masks are not boolean, three-dimensional and of one shape."""
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != bool or mask.ndim != 3:
            raise ValueError(f"{name} must be a boolean array (Z, Y, X), got {mask.dtype} of shape {mask.shape}")
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must share one shape, got {prediction.shape} and {reference.shape}")


def _box(mask: np.ndarray) -> Box | None:
    """Axis by axis, each in what the former left, so that a big array is read about once."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        hit = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not hit.size:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)
