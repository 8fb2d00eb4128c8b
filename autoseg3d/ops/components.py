"""Connected components of masks, and the removal of some of them from a label map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Box = tuple[slice, ...]

_SLAB_VOXELS = 2**23


@dataclass(frozen=True)
class Removed:
    """What a removal took away: connected parts and voxels."""

    components: int = 0
    voxels: int = 0


def count_components(mask: np.ndarray) -> int:
    """Number of 26-connected parts of a bool (Z, Y, X) mask."""
    return label_components(mask)[1]


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """A (Z, Y, X) int32 map that numbers the 26-connected parts of a bool mask from 1, and how many there are."""
    from scipy import ndimage  # kept out of the start-up of processes that count nothing

    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    return parts, int(count)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """A bool mask reduced to its largest 26-connected part; equally large ones all stay (nnU-Net's rule)."""
    parts, count = label_components(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    keep: np.ndarray = np.concatenate([[False], sizes == sizes.max()])
    return keep.take(parts)


def value_boxes(label_map: np.ndarray) -> dict[int, Box]:
    """The smallest box around each value above 0 of a (Z, Y, X) map of integers, by value, in one pass."""
    depth, height, width = label_map.shape
    count = max(0, int(label_map.max(initial=0))) + 1
    planes, rows = np.zeros((count, depth), dtype=bool), np.zeros((count, height), dtype=bool)
    first, last = np.full(count, width), np.zeros(count, dtype=np.int64)
    for start, stop in _slabs(label_map.shape, _SLAB_VOXELS):
        runs = _Runs.of(label_map[start:stop].reshape(-1, width))
        z, y = np.divmod(runs.row, height)
        planes[runs.value, start + z] = True
        rows[runs.value, y] = True
        np.minimum.at(first, runs.value, runs.start)
        np.maximum.at(last, runs.value, runs.stop)
    found = (int(value) for value in np.flatnonzero(planes.any(axis=1)) if value > 0)
    return {value: (_span(planes[value]), _span(rows[value]), slice(int(first[value]), int(last[value]))) for value in found}


class _Runs(NamedTuple):
    """The runs of one value above 0 along the rows of a plane: value, row, first column and the column behind the last."""

    value: np.ndarray
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, plane: np.ndarray) -> _Runs:
        begins = np.ones(plane.shape, dtype=bool)
        np.not_equal(plane[:, 1:], plane[:, :-1], out=begins[:, 1:])
        row, start = np.nonzero(begins)
        stop = np.append(start[1:], 0)
        stop[stop == 0] = plane.shape[1]  # the next run begins a row
        value = plane[row, start].astype(np.int64)
        kept = value > 0
        return cls(value[kept], row[kept], start[kept], stop[kept])


def _span(occupied: np.ndarray) -> slice:
    indices = np.flatnonzero(occupied)
    return slice(int(indices[0]), int(indices[-1]) + 1)


def remove_components(
    label_map: np.ndarray,
    values: Sequence[int],
    *,
    keep: Callable[[np.ndarray], np.ndarray],
    boxes: Mapping[int, Box] | None = None,
    slab_voxels: int = _SLAB_VOXELS,
) -> Removed:
    """Sets 26-connected parts of the union of some label values to 0, in place.

    Args:
        label_map: (Z, Y, X) non-negative integers.
        values: the label values whose union is looked at.
        keep: given the sizes of all parts in voxels (n,), says which of them stay (n,); not asked where there is none.
        boxes: `value_boxes` of the map, where they are known; they may be too wide.
        slab_voxels: parts are numbered in slabs of about this size along axis 0, so that memory does not grow with the
            map: about ten bytes for each voxel of a slab.
    """
    held = value_boxes(label_map) if boxes is None else boxes
    found = [held[value] for value in values if value in held]
    if not found:
        return Removed()
    around = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*found, strict=True))
    region = label_map[around]
    member = np.zeros(int(region.max()) + 1, dtype=bool)
    member[[value for value in values if value < len(member)]] = True
    numbering = _Numbering.of(region, member, slab_voxels)
    if not len(numbering.sizes):
        return Removed()
    kept = keep(numbering.sizes)
    if kept.all():
        return Removed()
    # Last slab first: each is numbered again together with the last row of the one before, which must still be as it was.
    for (start, stop), component in reversed(list(zip(numbering.slabs, numbering.components, strict=True))):
        parts = _numbered(region, member, start, stop)
        gone = np.concatenate([[False], ~kept[component]])[parts[min(start, 1) :]]
        region[start:stop][gone] = 0
    return Removed(int((~kept).sum()), int(numbering.sizes[~kept].sum()))


@dataclass(frozen=True)
class _Numbering:
    """The connected parts of a mask, numbered slab by slab.

    slabs       (start, stop) along axis 0
    components  for each slab: which part of the whole its local parts 1, 2, … belong to, counted from 0
    sizes       voxels of each part of the whole: int64 (n,)
    """

    slabs: tuple[tuple[int, int], ...]
    components: tuple[np.ndarray, ...]
    sizes: np.ndarray

    @classmethod
    def of(cls, region: np.ndarray, member: np.ndarray, slab_voxels: int) -> _Numbering:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        slabs = tuple(_slabs(region.shape, slab_voxels))
        counts: list[int] = [0]
        sizes: list[np.ndarray] = []
        pairs: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
        last: np.ndarray | None = None
        for start, stop in slabs:
            parts = _numbered(region, member, start, stop)
            own = np.bincount(parts[min(start, 1) :].ravel(), minlength=int(parts.max()) + 1)[1:]
            if last is not None:
                both = last > 0
                pairs.append(np.unique(np.column_stack([last[both] - 1 + counts[-2], parts[0][both] - 1 + counts[-1]]), axis=0))
            counts.append(counts[-1] + len(own))
            sizes.append(own)
            last = parts[-1].copy()
        first, second = np.concatenate(pairs).T
        joined = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(counts[-1], counts[-1]))
        count, component = connected_components(joined, directed=False)
        total = np.bincount(component, weights=np.concatenate(sizes), minlength=count).astype(np.int64)
        return cls(slabs, tuple(component[a:b] for a, b in pairwise(counts)), total)


def _slabs(shape: tuple[int, ...], voxels: int) -> Iterator[tuple[int, int]]:
    rows = max(1, voxels // max(1, shape[1] * shape[2]))
    return ((start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def _numbered(region: np.ndarray, member: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The parts in rows [start, stop) and in the row before them, which joins them to the slab before."""
    return label_components(member[region[max(start - 1, 0) : stop]])[0]
