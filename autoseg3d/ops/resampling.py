"""Resizing of images and label maps by the rules of nnU-Net, as small matrix products instead of spline evaluations.

A spline resize with half-pixel centres is linear in the voxels and separable in the axes, so each axis is one matrix
(`operator`), equal to what scipy makes of the identity, without the time that loading scipy takes. Rules: nnU-Net 2.8.1
(Isensee et al., Nature Methods 18, 2021): order 3 for images, clipped to the range of what was resized; order 1 for label
scores; an axis much coarser than the others is resized on its own, by nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from planners.contract import Triple

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

ANISOTROPY = 3.0
_SLAB_BYTES = 8 * 2**20
_MIXED_CHUNK = 16384
_BLOCK_ROWS = 64
_NEGLIGIBLE_WEIGHT = 1e-9
# Edge voxels are repeated so often before a cubic spline is laid through them: the number that scipy takes.
_REPEATED = 12


def separate_axis(spacing: Sequence[float], target_spacing: Sequence[float]) -> int | None:
    """The axis that is resized on its own because it is more than three times coarser than the finest, or None.

    The spacing the array has is asked first, the spacing it is to get only where the first is not anisotropic. None
    also where the coarsest axis is not unique.
    """
    anisotropic = next((s for s in (spacing, target_spacing) if max(s) / min(s) > ANISOTROPY), None)
    if anisotropic is None:
        return None
    coarsest = [axis for axis, value in enumerate(anisotropic) if value == max(anisotropic)]
    return coarsest[0] if len(coarsest) == 1 else None


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target_spacing: Sequence[float]) -> Triple:
    """Voxels per axis when an array of `shape` voxels of `spacing` gets `target_spacing`: round half to even, at least 1."""
    sizes = [max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, target_spacing, strict=True)]
    return (sizes[0], sizes[1], sizes[2])


def source_positions(source: int, target: int) -> np.ndarray:
    """Where the centres of `target` voxels lie among `source` voxels of the same extent, float64; ends may lie outside."""
    # Written in the order of scipy.ndimage.zoom(grid_mode=True), so that ties fall on the same side to the last bit.
    positions: np.ndarray = (np.arange(target) + 0.5) * (source / target) - 0.5
    return positions


def nearest_index(source: int, target: int) -> np.ndarray:
    """For each of `target` voxels the nearest of `source` voxels, int64; the higher one of two equally near."""
    return np.floor(source_positions(source, target) + 0.5).astype(np.int64).clip(0, source - 1)


@lru_cache(maxsize=128)
def operator(source: int, target: int, order: int) -> np.ndarray:
    """The (target, source) float32 matrix that resizes one axis by a spline of `order` 0, 1 or 3, edges repeated."""
    weights = {0: _nearest_weights, 1: _linear_weights, 3: _cubic_weights}[order](source, target)
    matrix = weights.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def _nearest_weights(source: int, target: int) -> np.ndarray:
    weights = np.zeros((target, source))
    weights[np.arange(target), nearest_index(source, target)] = 1
    return weights


def _linear_weights(source: int, target: int) -> np.ndarray:
    weights, rows, corners = np.zeros((target, source)), np.arange(target), _corners(source, target, nearest=False)
    weights[rows, corners.low] += corners.weight_low
    weights[rows, corners.high] += corners.weight_high
    return weights


def _cubic_weights(source: int, target: int) -> np.ndarray:
    """Cubic B-splines at the target's positions, each made of the coefficients that let the spline pass through the voxels."""
    coefficients = _cubic_coefficients(source)
    position = source_positions(source, target) + _REPEATED
    first = np.floor(position).astype(np.int64) - 1
    t = (position - np.floor(position))[:, None]
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights: np.ndarray = np.zeros((target, source))
    for k, piece in enumerate(pieces):
        weights += piece / 6 * coefficients[first + k]
    return weights


def _cubic_coefficients(source: int) -> np.ndarray:
    """(source + 2 × _REPEATED, source) float64: the spline coefficients of each voxel alone being 1, with repeated edges.

    At a voxel the splines of its neighbours have weights 1/6, 4/6, 1/6: a system of three diagonals, solved from the top
    down and back up. At the far ends of the repeated edges it goes on as in a mirror, which no longer matters there.
    Source: Unser, IEEE Signal Processing Magazine 16(6), 1999.
    """
    size = source + 2 * _REPEATED
    rows = np.zeros((size, source))
    rows[np.arange(size), (np.arange(size) - _REPEATED).clip(0, source - 1)] = 6
    ratios = np.empty(size)
    before, above = 0.0, np.zeros(source)
    for i in range(size):
        pivot = (5.0 if i in (0, size - 1) else 4.0) - before
        rows[i] -= above
        rows[i] /= pivot
        before, above = 1 / pivot, rows[i]
        ratios[i] = before
    for i in reversed(range(size - 1)):
        rows[i] -= ratios[i] * rows[i + 1]
    return rows


def resize_image(image: Array, shape: Triple, *, order: int = 3, separate: int | None = None) -> Array:
    """An image (C, Z, Y, X) resized to (C, *shape), each channel clipped to its own range.

    Takes a float32 numpy array or a torch tensor on any device and returns the same kind. With `separate`, slices
    across that axis are resized one by one, each clipped to its own range, and the axis itself by nearest neighbour.
    An image that has the shape already is returned untouched. Besides the result, one channel at a size between
    input and output and a slab of 16 MiB are needed.
    """
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    resized = _empty(image, (image.shape[0], *shape))
    for channel, out in zip(image, resized, strict=True):
        if separate is None:
            _resize_volume(channel, out, order)
            _clip(out, channel.min(), channel.max())
        else:
            _resize_slices(channel, out, order, separate)
    return resized


def _resize_volume(volume: Array, out: Array, order: int) -> None:
    """Writes a (Z, Y, X) volume, resized by the spline of `order`, into `out`, without clipping."""
    source, target = volume.shape[0], out.shape[0]
    if source == target:
        _resize_planes(volume, out, order)
    elif target < source:
        shorter = _empty(volume, (target, *volume.shape[1:]))
        _contract(volume, shorter, 0, order)
        _resize_planes(shorter, out, order)
    else:
        planes = _empty(volume, (source, *out.shape[1:]))
        _resize_planes(volume, planes, order)
        _contract(planes, out, 0, order)


def _resize_planes(volume: Array, out: Array, order: int) -> None:
    """Writes a (Z, Y, X) volume with axes 1 and 2 resized into `out`, a slab of planes at a time."""
    steps: _Steps = _plane_steps(volume.shape[1:], out.shape[1:])
    planes = max(1, _SLAB_BYTES // (4 * max(volume.shape[1], out.shape[1]) * max(volume.shape[2], out.shape[2])))
    for start in range(0, volume.shape[0], planes):
        slab, resized = volume[start : start + planes], out[start : start + planes]
        if not steps.both:
            _contract(slab, resized, steps.first, order)
        else:
            half = _empty(volume, (slab.shape[0], *steps.between))
            _contract(slab, half, steps.first, order)
            _contract(half, resized, steps.second, order)


class _Steps(NamedTuple):
    """Which of axes 1 and 2 is resized first, which second (where both are), and the plane's shape in between."""

    first: int
    second: int
    both: bool
    between: tuple[int, int]


def _plane_steps(source: Sequence[int], target: Sequence[int]) -> _Steps:
    """The axis that shrinks more (or grows less) goes first, so that the second has less to do."""
    (height, width), (new_height, new_width) = source, target
    both = height != new_height and width != new_width
    if width == new_width or (both and new_height / height < new_width / width):
        return _Steps(1, 2, both, (new_height, width))
    return _Steps(2, 1, both, (height, new_width))


def _contract(volume: Array, out: Array, axis: int, order: int) -> None:
    """Writes a (Z, Y, X) volume with one axis resized into `out`; equal sizes are copied."""
    if volume.shape[axis] == out.shape[axis]:
        out[...] = volume
        return
    for block in _blocks(volume.shape[axis], out.shape[axis], order):
        matrix = block.matrix if isinstance(volume, np.ndarray) else volume.new_tensor(block.matrix)
        if axis == 2:
            out[:, :, block.target] = volume[:, :, block.source] @ matrix.T
        elif axis == 1:
            out[:, block.target] = matrix @ volume[:, block.source]
        else:
            part = volume[block.source]
            out[block.target] = (matrix @ part.reshape(part.shape[0], -1)).reshape(-1, *part.shape[1:])


class _Block(NamedTuple):
    """Some rows of an operator and the columns they need."""

    target: slice
    source: slice
    matrix: np.ndarray


@lru_cache(maxsize=128)
def _blocks(source: int, target: int, order: int) -> tuple[_Block, ...]:
    """An operator cut into blocks of rows, each without the columns that hold nothing but rounding.

    The weights of a cubic spline fall to a quarter with every voxel of distance, so most of a large operator is zero.
    """
    matrix, blocks = operator(source, target, order), []
    for start in range(0, target, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, target))
        used = np.flatnonzero(np.abs(matrix[rows]).max(axis=0) > _NEGLIGIBLE_WEIGHT)
        columns = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append(_Block(rows, columns, np.array(matrix[rows, columns])))
    return tuple(blocks)


def _resize_slices(volume: Array, out: Array, order: int, axis: int) -> None:
    """Writes a volume into `out` with the slices across `axis` resized and clipped one by one, the axis by nearest neighbour."""
    to_front = (axis, *(a for a in range(3) if a != axis))
    slices: Array = _permuted(volume, to_front)
    target: Array = _permuted(out, to_front)
    chosen, place = np.unique(nearest_index(slices.shape[0], target.shape[0]), return_inverse=True)
    used = slices if len(chosen) == slices.shape[0] else slices[chosen]
    resized = _empty(volume, (len(chosen), *target.shape[1:]))
    _resize_planes(used, resized, order)
    for before, after in zip(used, resized, strict=True):
        _clip(after, before.min(), before.max())
    target[...] = resized if len(place) == len(chosen) else resized[place]


def _empty(like: Array, shape: Sequence[int]) -> Array:
    return np.empty(shape, dtype=like.dtype) if isinstance(like, np.ndarray) else like.new_empty(tuple(shape))


def _permuted(volume: Array, axes: tuple[int, ...]) -> Array:
    return volume.transpose(axes) if isinstance(volume, np.ndarray) else volume.permute(axes)


def _clip(array: Array, low: Any, high: Any) -> None:
    if isinstance(array, np.ndarray):
        np.clip(array, low, high, out=array)
    else:
        array.clamp_(low, high)


def resize_labels(labels: np.ndarray, shape: Triple, *, separate: int | None = None) -> np.ndarray:
    """A label map (Z, Y, X) of any integer type, resized to `shape`: each voxel takes the label of the highest order-1 score.

    The score of a label is its 0/1 map resized with order 1. Of labels with exactly equal scores the one of the
    nearest voxel wins where it is among them, else the lowest. `separate` as in `resize_image`. Only voxels whose
    eight (four) neighbours disagree are scored: elsewhere their common label has score 1, however many labels there are.
    """
    if labels.shape == tuple(shape):
        return labels
    axes = [_corners(n, m, nearest=axis == separate) for axis, (n, m) in enumerate(zip(labels.shape, shape, strict=True))]
    z, y, x = (nearest_index(n, m) for n, m in zip(labels.shape, shape, strict=True))
    resized = labels.take(x, 2).take(y, 1).take(z, 0)
    planes = max(1, _SLAB_BYTES // (4 * max(labels.shape[1] * labels.shape[2], shape[1] * shape[2])))
    for start in range(0, shape[0], planes):
        slab = Corners(*(part[start : start + planes] for part in axes[0]))
        _settle_mixed(labels, (slab, axes[1], axes[2]), resized[start : start + planes])
    return resized


class Corners(NamedTuple):
    """For each target voxel of one axis the two source voxels around it (int64) and their weights (float64)."""

    low: np.ndarray
    high: np.ndarray
    weight_low: np.ndarray
    weight_high: np.ndarray


def _corners(source: int, target: int, *, nearest: bool) -> Corners:
    """The Corners of one axis; both are the same voxel where the nearest one is taken, or nothing is to be resized."""
    if nearest or source == target:
        index = nearest_index(source, target)
        return Corners(index, index, np.ones(target), np.zeros(target))
    position = source_positions(source, target)
    low = np.floor(position).astype(np.int64)
    weight_low = 1.0 - (position - low)
    # The last weight is what the others leave of 1, and beyond an edge both weights fall on its voxel, as in scipy: so
    # the sums that decide ties are its own to the last bit.
    return Corners(low.clip(0), (low + 1).clip(0, source - 1), weight_low, 1.0 - weight_low)


def _settle_mixed(labels: np.ndarray, axes: tuple[Corners, Corners, Corners], nearest: np.ndarray) -> None:
    """Overwrites `nearest`, the nearest-neighbour labels of one slab, where the surrounding source voxels disagree."""
    first = int(axes[0].low[0])
    cells = _mixed_cells(labels[first : int(axes[0].high[-1]) + 1], axes)
    mixed = np.nonzero(cells.take(axes[2].low, 2).take(axes[1].low, 1).take(axes[0].low - first, 0))
    for start in range(0, len(mixed[0]), _MIXED_CHUNK):
        where = tuple(index[start : start + _MIXED_CHUNK] for index in mixed)
        nearest[where] = _best_labels(labels, axes, where, nearest[where])


def _mixed_cells(labels: np.ndarray, axes: tuple[Corners, Corners, Corners]) -> np.ndarray:
    """Bool like `labels`: whether a voxel and its next neighbours along the interpolated axes hold different labels."""
    low, high = labels.copy(), labels.copy()
    for axis, corners in enumerate(axes):
        if not corners.weight_high.any():
            continue
        here, there = (tuple(slice(None) if a != axis else part for a in range(3)) for part in (slice(None, -1), slice(1, None)))
        np.minimum(low[here], low[there], out=low[here])
        np.maximum(high[here], high[there], out=high[here])
    mixed: np.ndarray = low != high
    return mixed


def _best_labels(
    labels: np.ndarray, axes: tuple[Corners, Corners, Corners], where: tuple[np.ndarray, ...], nearest: np.ndarray
) -> np.ndarray:
    """The winning label of each of N voxels, given by their target indices and nearest labels."""
    sides = [((a.low[i], a.weight_low[i]), (a.high[i], a.weight_high[i])) for a, i in zip(axes, where, strict=True)]
    corners = [(z, y, x) for z in sides[0] for y in sides[1] for x in sides[2]]
    values = np.stack([labels[z[0], y[0], x[0]] for z, y, x in corners])
    weights = np.stack([z[1] * y[1] * x[1] for z, y, x in corners])
    scores = np.where(values[:, None] == values[None], weights[:, None], 0.0).sum(axis=0)
    top = scores == scores.max(axis=0)
    lowest = np.where(top, values, np.iinfo(values.dtype).max).min(axis=0)
    best: np.ndarray = np.where((top & (values == nearest)).any(axis=0), nearest, lowest)
    return best
