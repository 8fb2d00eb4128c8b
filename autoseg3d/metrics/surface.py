"""Distances between two surfaces in mm, computed once per pair of masks, and the measures read from them.

The definition of the surface is that of `surfels`; for empty masks see the table at the head of the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from autoseg3d.metrics import surfels
from autoseg3d.metrics.boxes import crop_to_union

_NEAR_OFFSETS = 200
"""About how many steps are tried around an element before the tree is asked: most surfaces lie within three voxels."""

_ROUNDING_MM = 1e-6
"""Spacings come from float32 headers: a distance this little above a tolerance is within it."""


@dataclass(frozen=True)
class SurfaceDistances:
    """For each surface element of a mask the distance to the nearest element of the other, ascending, and its area.

    prediction_mm, prediction_mm2   distances from the prediction to the reference, areas: float64 (n,)
    reference_mm, reference_mm2     distances from the reference to the prediction, areas: float64 (m,)

    Distances are infinite where the other mask is empty.
    """

    prediction_mm: np.ndarray
    prediction_mm2: np.ndarray
    reference_mm: np.ndarray
    reference_mm2: np.ndarray

    @property
    def both_empty(self) -> bool:
        """Whether neither mask has a surface."""
        return not self.prediction_mm.size and not self.reference_mm.size

    @property
    def one_empty(self) -> bool:
        """Whether exactly one mask has a surface."""
        return bool(self.prediction_mm.size) != bool(self.reference_mm.size)


def surface_distances(prediction: np.ndarray, reference: np.ndarray, *, spacing_mm: tuple[float, float, float]) -> SurfaceDistances:
    """The distances between the surfaces of two boolean masks (Z, Y, X) with a spacing in mm (z, y, x).

    What lies outside the array is background, so a mask that touches a face has a surface there. An axis of one voxel
    is no direction, so that a single slice is measured by its outline; cut crops out with a margin (`grow_box`).
    Raises ValueError where the masks are not boolean and of one shape, or a spacing is not above 0.

    The nearest element is looked for step by step around each, and from three voxels on in a k-d tree: exact like a
    distance transform, but the work goes with the area of the surfaces and not with the volume of the box.
    """
    if not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing must be above 0, got {spacing_mm}")
    flat = tuple(n == 1 for n in prediction.shape)
    cropped = crop_to_union(prediction, reference)
    predicted, referred = (_Surface.of(mask, spacing_mm, flat) for mask in cropped)
    return SurfaceDistances(*predicted.distances_to(referred), *referred.distances_to(predicted))


def hd95(distances: SurfaceDistances) -> float:
    """The 95th percentile of the Hausdorff distance in mm: the larger of the two one-sided percentiles, by area.

    A one-sided percentile is the distance at which 95 % of the area of that surface is reached.
    """
    if distances.both_empty:
        return math.nan
    if distances.one_empty:
        return math.inf
    return max(
        _percentile(distances.prediction_mm, distances.prediction_mm2, 0.95),
        _percentile(distances.reference_mm, distances.reference_mm2, 0.95),
    )


def assd(distances: SurfaceDistances) -> float:
    """The average symmetric surface distance in mm: the mean over both surfaces together, by area."""
    if distances.both_empty:
        return math.nan
    if distances.one_empty:
        return math.inf
    total = distances.prediction_mm @ distances.prediction_mm2 + distances.reference_mm @ distances.reference_mm2
    return float(total / (distances.prediction_mm2.sum() + distances.reference_mm2.sum()))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """The normalised surface distance (surface Dice): the part of both surfaces' area within `tolerance_mm` of the other.

    1 where all of it is, 0 where one mask is empty, NaN where both are. Raises ValueError for a negative tolerance.
    """
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance_mm must not be negative, got {tolerance_mm}")
    if distances.both_empty:
        return math.nan
    limit = tolerance_mm + _ROUNDING_MM
    within = (
        distances.prediction_mm2[distances.prediction_mm <= limit].sum() + distances.reference_mm2[distances.reference_mm <= limit].sum()
    )
    return float(within / (distances.prediction_mm2.sum() + distances.reference_mm2.sum()))


@dataclass(frozen=True)
class _Surface:
    """The surface elements of a mask.

    here         map of where they are: boolean (Z, Y, X)
    indices      their places in it: (n, 3)
    areas_mm2    float64 (n,)
    spacing_mm   of the map
    """

    here: np.ndarray
    indices: np.ndarray
    areas_mm2: np.ndarray
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, mask: np.ndarray, spacing_mm: tuple[float, float, float], flat: tuple[bool, ...]) -> _Surface:
        # Along an axis of one voxel the slice is repeated, so that its two sides are no surface.
        padded = np.pad(mask, 1)
        for axis, one in enumerate(flat):
            if one and mask.size:
                padded = np.repeat(np.take(padded, [1], axis=axis), 2, axis=axis)
        codes = surfels.codes(padded)
        here = codes + np.uint8(1) > 1  # neither all unset (0) nor all set (255 wraps to 0)
        return cls(here, np.argwhere(here), surfels.area_table(spacing_mm)[codes[here]], spacing_mm)

    def distances_to(self, other: _Surface) -> tuple[np.ndarray, np.ndarray]:
        """(distances, areas) of this surface's elements, ascending by distance."""
        distances = np.full(len(self.areas_mm2), np.inf)
        if len(other.areas_mm2):
            far = self._search_near(other, distances)
            if far.size:
                tree = cKDTree(other.indices * self.spacing_mm, balanced_tree=False, compact_nodes=False)
                distances[far] = tree.query(self.indices[far] * self.spacing_mm)[0]
        order = np.argsort(distances, kind="stable")
        return distances[order], self.areas_mm2[order]

    def _search_near(self, other: _Surface, distances: np.ndarray) -> np.ndarray:
        """Fills in `distances` of the elements that have one of `other` close by; gives the numbers of those that have none."""
        offsets, lengths = _near_offsets(self.spacing_mm)
        margin = offsets.max(axis=0)
        there = np.pad(other.here, [(m, m) for m in margin])
        strides = np.array([there.shape[1] * there.shape[2], there.shape[2], 1])
        flat, places, waiting = there.ravel(), (self.indices + margin) @ strides, np.arange(len(self.indices))
        for step, length in zip(offsets @ strides, lengths, strict=True):
            hit = flat[places + step]
            distances[waiting[hit]] = length
            places, waiting = places[~hit], waiting[~hit]
            if not waiting.size:
                break
        return waiting


@lru_cache(maxsize=64)
def _near_offsets(spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """All steps between voxels up to some length, shortest first: whole numbers (n, 3), and their lengths in mm (n,)."""
    reach = (_NEAR_OFFSETS * math.prod(spacing_mm) * 3 / (4 * math.pi)) ** (1 / 3)
    z, y, x = (np.arange(-int(reach / s), int(reach / s) + 1) for s in spacing_mm)
    offsets = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.sqrt(((offsets * spacing_mm) ** 2).sum(axis=1))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= reach]
    return offsets[order], lengths[order]


def _percentile(distances: np.ndarray, areas: np.ndarray, part: float) -> float:
    reached = np.cumsum(areas) / areas.sum()
    return float(distances[min(int(np.searchsorted(reached, part)), len(distances) - 1)])
