"""Positions: where in a case a patch lies, and which samples of a batch must show foreground.

nnU-Net cuts an oversized crop, large enough for rotations, and augments its centre. Its rules place that crop. We keep
them, so that patches are distributed as its are, but read only what a drawn transform needs, from the scan itself: what
a rotated patch shows beyond nnU-Net's crop is the scan's own voxels here, not zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from planners.contract import Triple
from planners.plan import AugmentationPlan, Configuration

# The smallest zoom that nnU-Net makes its crop large enough for.
_CROP_ZOOM = 0.85
# The key of `locations` under which all annotated voxels lie, where a dataset has an ignore label.
ANNOTATED = -1


def loader_crop(configuration: Configuration) -> Triple:
    """Shape of the crop that nnU-Net loads for a training patch of this configuration, in voxels."""
    return loader_crop_shape(configuration.patch_size, configuration.augmentation, slicewise=configuration.slicewise)


def loader_crop_shape(patch: Triple, plan: AugmentationPlan, *, slicewise: bool) -> Triple:
    """The same from a patch and its augmentation: room for the largest rotation (at most 90°), over a zoom of 0.85."""
    a, b, c = (float(n) for n in patch)
    angle = math.radians(min(90.0, max(plan.rotation_degrees)))
    cos, sin = math.cos(angle), math.sin(angle)
    if slicewise:
        height, width = max(b, b * cos + c * sin), max(c, abs(c * cos - b * sin))
        return (patch[0], int(height / _CROP_ZOOM), int(width / _CROP_ZOOM))
    depth = max(a, a * cos + b * sin, abs(a * cos - c * sin))
    height = max(b, b * cos + c * sin, abs(b * cos - a * sin))
    width = max(c, a * sin + c * cos, abs(c * cos - b * sin))
    return (patch[0] if plan.dummy_2d else int(depth / _CROP_ZOOM), int(height / _CROP_ZOOM), int(width / _CROP_ZOOM))


def first_forced(batch_size: int, foreground_fraction: float) -> int:
    """The first sample of a batch that must show foreground; those after it must as well."""
    return round(batch_size * (1 - foreground_fraction))


def start_bounds(shape: Triple, patch: Triple, crop: Triple) -> tuple[tuple[int, int], ...]:
    """Per axis the lowest and the highest first voxel of a randomly placed patch, both included.

    The crop around the patch may stick out of the case by half of what it is larger than the patch, or than the case.
    """
    bounds = []
    for n, p, c in zip(shape, patch, crop, strict=True):
        excess = max(c - p, c - n)
        half = -(-excess // 2)
        to_patch = c // 2 - p // 2
        bounds.append((to_patch - half, n + half - c + to_patch))
    return tuple(bounds)


def draw_start(rng: np.random.Generator, bounds: tuple[tuple[int, int], ...], *, centre: np.ndarray | None, patch: Triple) -> Triple:
    """First voxel of a patch: uniform within the bounds, or such that `centre` (3,) is its middle voxel.

    A centred patch is moved up to the lower bound where it would start before it; above it may run into padding.
    """
    if centre is None:
        z, y, x = (int(rng.integers(low, high, endpoint=True)) for low, high in bounds)
    else:
        z, y, x = (max(low, int(v) - p // 2) for (low, _), v, p in zip(bounds, centre, patch, strict=True))
    return (z, y, x)


def draw_centre(rng: np.random.Generator, locations: Mapping[int, np.ndarray], *, forced: bool, has_ignore: bool) -> np.ndarray | None:
    """The voxel (3,) that a sample must be centred on, None where it may lie anywhere.

    A forced sample takes one class, uniformly among those the case has, and one of its voxels; annotated background
    serves only where there is nothing else. Where the dataset has an ignore label, the other samples are centred on
    an annotated voxel.
    """
    if forced:
        present = sorted(key for key, voxels in locations.items() if key != ANNOTATED and len(voxels))
        if not present and len(locations.get(ANNOTATED, ())):
            present = [ANNOTATED]
    else:
        present = [ANNOTATED] if has_ignore and len(locations.get(ANNOTATED, ())) else []
    if not present:
        return None
    voxels = locations[present[int(rng.integers(len(present)))]]
    return np.asarray(voxels[int(rng.integers(len(voxels)))])
