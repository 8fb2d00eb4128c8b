"""Topology: how deep a network goes along each axis and which kernels it needs there (nnU-Net's rule 5).

Everything here takes two or three axes alike, so that slices are planned by the same code as volumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Extent = tuple[int, ...]

LEAST_EDGE = 4
ISOTROPIC = 2.0


@dataclass(frozen=True)
class Topology:
    """Patch, strides and kernels; entry 0 is the finest stage, whose stride is 1. `patch` is divisible by `divisor`."""

    patch: Extent
    strides: tuple[Extent, ...]
    kernels: tuple[Extent, ...]

    @property
    def divisor(self) -> Extent:
        """Product of the strides per axis."""
        return tuple(math.prod(column) for column in zip(*self.strides, strict=True))

    @property
    def voxels(self) -> int:
        """Voxels of the patch."""
        return math.prod(self.patch)

    @property
    def stages(self) -> int:
        """Number of resolutions."""
        return len(self.strides)

    def stage_voxels(self) -> list[int]:
        """Voxels of the feature maps at each stage, finest first."""
        voxels, sizes = self.voxels, []
        for stride in self.strides:
            voxels //= math.prod(stride)
            sizes.append(voxels)
        return sizes


def plan_topology(
    spacing: Sequence[float], patch: Sequence[float], *, kernel: int = 3, exact: bool = False, least_stages: int = 1
) -> Topology:
    """Pools until the smallest edge is about four voxels; axes much coarser than the finest wait until they are not.

    A stage halves every axis that has at least eight voxels left and whose spacing is less than twice the finest of
    those; a single such axis needs twelve. Kernels are 1 along an axis until its spacing is less than twice the finest of all,
    then `kernel`; the deepest stage has full kernels. The patch, which may hold halves, is padded to what the strides
    divide; with `exact` it is kept, and axes are only halved as often as it divides. `least_stages` = 2 adds a
    second stage to patches too small for one by the rule, halving axes of at least four voxels.
    """
    sizes, current = [float(size) for size in patch], [float(mm) for mm in spacing]
    dims = len(sizes)
    divisor, wide = [1] * dims, [False] * dims
    strides, kernels = [(1,) * dims], []
    while axes := _poolable(sizes, current, patch if exact else None, divisor):
        kernels.append(_kernels(current, wide, kernel))
        strides.append(tuple(2 if axis in axes else 1 for axis in range(dims)))
        for axis in axes:
            sizes[axis] = math.ceil(sizes[axis] / 2)
            current[axis] *= 2
            divisor[axis] *= 2
    if len(strides) < least_stages:
        kernels.append(_kernels(current, wide, kernel))
        strides.append(tuple(2 if size >= LEAST_EDGE and not (exact and size % 2) else 1 for size in sizes))
        divisor = list(strides[-1])
    kernels.append((kernel,) * dims)
    padded = tuple(math.ceil(size / step) * step for size, step in zip(patch, divisor, strict=True))
    return Topology(patch=padded, strides=tuple(strides), kernels=tuple(kernels))


def _poolable(sizes: Sequence[float], spacing: Sequence[float], exact: Sequence[float] | None, divisor: Sequence[int]) -> list[int]:
    """Axes the next stage halves; none where pooling ends."""
    axes = [axis for axis, size in enumerate(sizes) if size >= 2 * LEAST_EDGE]
    if exact is not None:
        axes = [axis for axis in axes if exact[axis] % (2 * divisor[axis]) == 0]
    if not axes:
        return []
    finest = min(spacing[axis] for axis in axes)
    axes = [axis for axis in axes if spacing[axis] / finest < ISOTROPIC]
    return [] if len(axes) == 1 and sizes[axes[0]] < 3 * LEAST_EDGE else axes


def _kernels(spacing: Sequence[float], wide: list[bool], kernel: int) -> Extent:
    """The kernel at this depth; `wide` remembers the axes that have had the full kernel once."""
    finest = min(spacing)
    for axis, mm in enumerate(spacing):
        wide[axis] = wide[axis] or mm / finest < ISOTROPIC
    return tuple(kernel if full else 1 for full in wide)
