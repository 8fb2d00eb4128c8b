"""The low-resolution stage: for data that a full-resolution patch sees too little of (nnU-Net's rule 11)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from planners.spacing import Grid

SEEN_SHARE = 0.25
STEP = 1.03
COARSER = 2.0
WORTHWHILE = 2.0


@dataclass(frozen=True)
class LowResolution:
    """The coarser grid, or None where a low-resolution stage would not help, and why."""

    grid: Grid | None
    reason: str


def low_resolution(full: Grid, patch_voxels: int, replanned: Callable[[Grid], int | None]) -> LowResolution:
    """Coarsens the grid by 3 % a step until a patch sees a quarter of the median case.

    Axes finer than half the coarsest are coarsened alone until they are not. `replanned` plans a grid anew and tells
    its patch's voxels (None where nothing fits). The stage is dropped where its median case has more than half the
    voxels of full resolution: it would see hardly more.
    """
    seen = patch_voxels / full.median_voxels
    if seen >= SEEN_SHARE:
        return LowResolution(None, f"a patch sees {seen:.0%} of the median case, and {SEEN_SHARE:.0%} is enough")
    grid, voxels = full, full.median_voxels
    while patch_voxels / voxels < SEEN_SHARE:
        grid, voxels = _coarser(full, grid)
        planned = replanned(grid)
        if planned is None:
            return LowResolution(None, "at a coarser spacing no patch fits")
        patch_voxels = planned
    gain = full.median_voxels / voxels
    if gain < WORTHWHILE:
        return LowResolution(None, f"a patch sees {seen:.0%} of the median case, and a quarter with only {gain:.2f} times fewer voxels")
    reason = (
        f"a full-resolution patch sees {seen:.1%} of the median case; spacing grows by {STEP - 1:.0%} a step until it sees "
        f"{SEEN_SHARE:.0%}, which leaves {gain:.1f} times fewer voxels"
    )
    return LowResolution(grid, reason)


def _coarser(full: Grid, grid: Grid) -> tuple[Grid, float]:
    """The grid one step coarser, and the voxels of its median case before rounding."""
    coarsest = max(grid.spacing)
    fine = [coarsest / mm > COARSER for mm in grid.spacing]
    spacing = tuple(mm * STEP if is_fine or not any(fine) else mm for mm, is_fine in zip(grid.spacing, fine, strict=True))
    sizes = [s / mm * size for s, mm, size in zip(full.spacing, spacing, full.median_shape, strict=True)]
    voxels = math.prod(sizes)
    shape = tuple(float(max(1, round(size))) for size in sizes)
    return replace(grid, spacing=spacing, median_shape=shape, dataset_voxels=voxels * full.cases), voxels
