"""Applying a Postprocessing to a label map: connected parts that are too small, or not the largest, become background."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autoseg3d.ops.components import Removed, remove_components, value_boxes
from planners.postprocessing import KeepLargest, Postprocessing

Step = Callable[[np.ndarray], np.ndarray]

_ROUNDING = 1e-6
"""Spacings come from float32 headers: a part this little below the size asked for is as large."""


def apply_postprocessing(label_map: np.ndarray, postprocessing: Postprocessing, *, voxel_volume_ml: float) -> tuple[Removed, ...]:
    """Applies the steps in order to a label map (Z, Y, X) of non-negative integers, in place.

    Memory beside the map is bounded (see `remove_components`), whatever the size of the scan. Returns what each step
    removed. Raises ValueError where the voxel volume is not above 0.
    """
    if not voxel_volume_ml > 0:
        raise ValueError(f"voxel_volume_ml must be above 0, got {voxel_volume_ml}")
    removed, boxes = [], value_boxes(label_map) if postprocessing.steps else {}
    for step in postprocessing.steps:
        keep = _largest if isinstance(step, KeepLargest) else _at_least(step.minimal_ml / voxel_volume_ml)
        removed.append(remove_components(label_map, step.values, keep=keep, boxes=boxes))
    return tuple(removed)


def _largest(sizes: np.ndarray) -> np.ndarray:
    kept: np.ndarray = sizes == sizes.max()
    return kept


def _at_least(voxels: float) -> Step:
    return lambda sizes: sizes >= voxels * (1 - _ROUNDING)
