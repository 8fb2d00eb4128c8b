"""Carrying a volume from one voxel grid to another through patient space."""

from __future__ import annotations

from itertools import product

import numpy as np

from autoseg3d.geometry import Geometry
from autoseg3d.io.grids import SHEAR_REPAIRED, shear, straightened

# (i, j, k) = (x, y, z) of an affine, and (z, y, x) of an array.
_SWAP = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)


def resample(array: np.ndarray, source: Geometry, target: Geometry, *, order: int, fill: float) -> np.ndarray:
    """A (Z, Y, X) `array` on `source` interpolated at the voxel centres of `target`, in the array's dtype.

    `order` 1 is linear, 0 takes the nearest voxel (for labels). Points more than half a voxel outside take `fill`;
    within that half voxel the border is continued. One plane of coordinates is held at a time.
    """
    from scipy import ndimage  # 0.2 s to import, and few cases need it

    to_source = _SWAP @ np.linalg.inv(source.matrix) @ target.matrix @ _SWAP
    _, height, width = target.shape
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    in_plane = to_source[:3, 1, None, None] * y + to_source[:3, 2, None, None] * x + to_source[:3, 3, None, None]
    last = np.array(source.shape).reshape(3, 1, 1) - 1
    result = np.empty(target.shape, dtype=array.dtype)
    for z in range(target.shape[0]):
        places = in_plane + to_source[:3, 0, None, None] * z
        plane = ndimage.map_coordinates(array, places, order=order, mode="nearest", output=array.dtype, prefilter=False)
        outside = ((places < -0.5) | (places > last + 0.5)).any(axis=0)
        result[z] = np.where(outside, np.asarray(fill, dtype=array.dtype), plane)
    return result


def is_sheared(geometry: Geometry) -> bool:
    """Whether the axes lean so far that the grid must be straightened before anything is computed on it."""
    return shear(geometry.matrix) > SHEAR_REPAIRED


def straight_grid(geometry: Geometry) -> Geometry:
    """The right-angled grid that holds a sheared one: same planes, same spacing in them, large enough for all corners."""
    straight = straightened(geometry.matrix)
    corners = np.array([(x, y, z, 1) for z, y, x in product(*((0, n - 1) for n in geometry.shape))], dtype=np.float64)
    places = (np.linalg.inv(straight) @ geometry.matrix @ corners.T)[:3]
    low, high = np.floor(places.min(axis=1) + 1e-3), np.ceil(places.max(axis=1) - 1e-3)
    straight[:3, 3] += straight[:3, :3] @ low
    x, y, z = (int(n) for n in high - low + 1)
    return Geometry.from_affine((z, y, x), straight)
