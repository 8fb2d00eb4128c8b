"""The patch: as large as the data and the memory allow, with the physical proportions of a cube (nnU-Net's rules 4 and 9)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from planners.spacing import Grid
from planners.topology import Topology, plan_topology

FULL_EDGE = 256


def full_volume(dims: int, edge: int = FULL_EDGE) -> int:
    """Voxels a patch starts from before data and memory cut it: edge³, or (8 × edge)² for slices; they agree at edge 64."""
    return edge**3 if dims == 3 else (8 * edge) ** 2


def initial_patch(grid: Grid, volume: int) -> tuple[float, ...]:
    """A physically cubic patch of about `volume` voxels, cut to the median shape, so it may hold halves."""
    dims = len(grid.spacing)
    density = [1 / mm for mm in grid.spacing]
    scale = (volume / math.prod(density)) ** (1 / dims)
    edges = [max(1, round(d * scale)) for d in density]
    return tuple(float(min(edge, size)) for edge, size in zip(edges, grid.median_shape, strict=True))


def shrink(
    topology: Topology, grid: Grid, fits: Callable[[Topology], bool], *, kernel: int = 3, least_voxels: int = 1, least_stages: int = 1
) -> Topology | None:
    """The patch cut step by step until `fits`; None where it would fall below `least_voxels` first.

    Each step takes from the axis that covers most of the median shape (of equals, the last) as much as the strides
    of the smaller patch divide.
    """
    while not fits(topology):
        axis = _widest(topology.patch, grid.median_shape)
        smaller = _smaller(topology, axis, grid.spacing, kernel, least_stages)
        if smaller is None or smaller.voxels < least_voxels:
            return None
        topology = smaller
    return topology


def _widest(patch: Sequence[int], median_shape: Sequence[float]) -> int:
    shares = [size / median for size, median in zip(patch, median_shape, strict=True)]
    return max(range(len(shares)), key=lambda axis: (shares[axis], axis))


def _smaller(topology: Topology, axis: int, spacing: Sequence[float], kernel: int, least_stages: int) -> Topology | None:
    """The next smaller patch along `axis`; None where nothing is left to take.

    How much to take depends on the strides of the smaller patch: they are looked up on a trial cut by today's divisor.
    A cut that padding undoes is repeated, since the rule alone would then never end.
    """
    trial = list(topology.patch)
    trial[axis] -= topology.divisor[axis]
    if trial[axis] < 1:
        return None
    step = plan_topology(spacing, trial, kernel=kernel, least_stages=least_stages).divisor[axis]
    patch = list(topology.patch)
    while patch[axis] > step:
        patch[axis] -= step
        cut = plan_topology(spacing, patch, kernel=kernel, least_stages=least_stages)
        if cut.voxels < topology.voxels:
            return cut
    return None
