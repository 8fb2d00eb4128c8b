"""Rotation and scaling: which voxels a drawn transform needs, and how image and labels are sampled from them.

The voxel at offset d from the patch centre shows what lies at M·d from it, M = Rz·Ry·Rx·S in voxel units, as in
nnU-Net. Images are interpolated linearly. Each label's indicator is too, and the label with the largest score wins.
Scores are linear weights of the corners around a sampling point, so where all corners agree their label has won
already: only the other points, a few percent, are counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoseg3d.augment.drawing import Drawn
from planners.contract import Triple

# On a CPU about this many voxels are worked on at a time, so that coordinates, weights and indices stay in its cache.
_CHUNK_VOXELS = 131072
# Sampling points are computed in float32. The box is this much wider than they reach, so that rounding never leaves it.
_MARGIN_VOXELS = 1e-3
# Label scores that differ by less than this are tied: rounding must not decide.
_TIE = 1e-5


def transform_matrix(drawn: Drawn) -> np.ndarray:
    """M (3, 3) float64: offset from the patch centre in the output -> offset of the voxel shown there."""
    turns = np.deg2rad(drawn.rotation_degrees or (0.0, 0.0, 0.0))
    (cx, cy, cz), (sx, sy, sz) = np.cos(turns), np.sin(turns)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    scale = 1.0 if drawn.scale is None else drawn.scale
    matrix: np.ndarray = rz @ ry @ rx @ np.diag([1.0 if drawn.in_plane else scale, scale, scale])
    return matrix


def read_box(drawn: Drawn) -> tuple[Triple, Triple]:
    """(offset, shape) of the voxels that `apply` needs: `offset` is counted from the first voxel of the patch.

    Without rotation and scaling that is the patch itself, offset (0, 0, 0). With them it is the smallest box that
    holds every corner that is interpolated from; it may be smaller than the patch where objects grow.
    """
    if not drawn.is_spatial:
        return (0, 0, 0), drawn.patch_size
    matrix = transform_matrix(drawn)
    half = (np.array(drawn.patch_size) - 1) / 2
    reach = np.abs(matrix) @ half
    offset, shape = [], []
    for axis in range(3):
        if _keeps(matrix, axis):
            low, high = 0, drawn.patch_size[axis] - 1
        else:
            low = math.floor(half[axis] - reach[axis] - _MARGIN_VOXELS)
            high = math.floor(half[axis] + reach[axis] + _MARGIN_VOXELS) + 1
        offset.append(low)
        shape.append(high - low + 1)
    return (offset[0], offset[1], offset[2]), (shape[0], shape[1], shape[2])


def sample(image: torch.Tensor, label_maps: torch.Tensor, drawn: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns and scales images and label maps together.

    Args:
        image: (C, *box) float32, the box that `read_box(drawn)` names.
        label_maps: (N, *box) int16 label maps, none of them holding -32768.
        drawn: a record with a rotation, a scale or both.

    Returns:
        (C, *patch_size) float32 and (N, *patch_size) int16. Ties between labels go to the nearest voxel's label if it
        is among the tied, else to the lowest.
    """
    grid = _Grid.of(drawn)
    maps = [_narrow(labels).reshape(-1) for labels in label_maps]
    cells = [_cells(flat, grid.strides) for flat in maps]
    images = image.new_empty((image.shape[0], *drawn.patch_size))
    labels = [flat.new_empty(drawn.patch_size) for flat in maps]
    height, width = drawn.patch_size[1:]
    rows = max(1, _CHUNK_VOXELS // (height * width)) if image.device.type == "cpu" else drawn.patch_size[0]
    for first in range(0, drawn.patch_size[0], rows):
        block = (min(rows, drawn.patch_size[0] - first), height, width)
        index, weights = grid.locate(_steps(first, block, image.device))
        index = index.expand(block).reshape(-1)
        for source, target in zip(image, images, strict=True):
            target[first : first + rows] = _blend(source.reshape(-1), index, block, list(zip(grid.strides, weights, strict=True)))
        for cell, target in zip(cells, labels, strict=True):
            target[first : first + rows] = cell.index_select(0, index).view(block)
    for source, target in zip(maps, labels, strict=True):
        _vote(source, target, grid)
    return images, torch.stack([target.to(torch.int16) for target in labels]) if labels else label_maps.new_empty((0, *drawn.patch_size))


@dataclass(frozen=True)
class _Grid:
    """Where the voxels of a patch are sampled from in its box.

    matrix, origin  the voxel (z, y, x) of the patch lies at origin + matrix·(z, y, x) in the box
    axes            the axes that are interpolated along: the transform moves their coordinate
    strides         step to the next voxel along each of these in the flat box
    """

    matrix: np.ndarray
    origin: np.ndarray
    axes: tuple[int, ...]
    strides: tuple[int, ...]
    box_strides: Triple

    @classmethod
    def of(cls, drawn: Drawn) -> _Grid:
        matrix, (offset, shape) = transform_matrix(drawn), read_box(drawn)
        centre = (np.array(drawn.patch_size) - 1) / 2
        axes = tuple(axis for axis in range(3) if not _keeps(matrix, axis))
        strides = (shape[1] * shape[2], shape[2], 1)
        return cls(matrix, centre - matrix @ centre - np.array(offset), axes, tuple(strides[axis] for axis in axes), strides)

    def locate(self, steps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """For patch voxels at `steps` (z, y, x; float32, shapes that broadcast): the flat index of the box voxel below
        each sampling point, and the distance above it along each interpolated axis."""
        index: torch.Tensor | None = None
        weights = []
        for axis in range(3):
            place = torch.full_like(steps[0], float(self.origin[axis]))
            for step, slope in zip(steps, self.matrix[axis], strict=True):
                if slope != 0:
                    place = place + step * float(slope)
            below = place.floor()
            whole = below.to(torch.int32).mul_(self.box_strides[axis])
            index = whole if index is None else index + whole
            if axis in self.axes:
                weights.append(place.sub_(below))
        assert index is not None
        return index, weights


def _steps(first: int, block: Triple, device: torch.device) -> list[torch.Tensor]:
    """Voxel coordinates of a block of whole planes from plane `first` on, each of size 1 along the other axes."""
    z = torch.arange(first, first + block[0], dtype=torch.float32, device=device)
    y, x = (torch.arange(n, dtype=torch.float32, device=device) for n in block[1:])
    return [z.view(-1, 1, 1), y.view(1, -1, 1), x.view(1, 1, -1)]


def _keeps(matrix: np.ndarray, axis: int) -> bool:
    """Whether the transform leaves this coordinate as it is, so that nothing is interpolated along it."""
    return bool(np.array_equal(matrix[axis], np.eye(3)[axis]))


def _blend(flat: torch.Tensor, index: torch.Tensor, block: Triple, axes: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """Linear interpolation of a flat image, (*block), along each (stride, weight) of `axes`."""
    if not axes:
        return flat.index_select(0, index).view(block)
    (stride, weight), rest = axes[0], axes[1:]
    return _blend(flat, index, block, rest).lerp_(_blend(flat[stride:], index, block, rest), weight)


def _narrow(labels: torch.Tensor) -> torch.Tensor:
    """The label map as int8 where its values allow, which halves the work; the lowest value stays free for _mixed."""
    low, high = torch.aminmax(labels)
    limits = torch.iinfo(torch.int8)
    return labels.to(torch.int8) if int(low) > limits.min and int(high) <= limits.max else labels


def _mixed(labels: torch.Tensor) -> int:
    """What stands for a cell whose corners disagree: the lowest value of the dtype, which no label has."""
    return int(torch.iinfo(labels.dtype).min)


def _cells(flat: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A flat map that holds, for each voxel, its label where all corners of the cell it begins agree, else `_mixed`.

    Voxels at the upper face of an interpolated axis begin no cell; what stands there is undefined and never read.
    """
    cells = torch.empty_like(flat)
    reach = sum(strides)
    chunk = _CHUNK_VOXELS if flat.device.type == "cpu" else len(flat)
    for first in range(0, len(flat) - reach, chunk):
        smallest = largest = flat[first : first + chunk + reach]
        for stride in strides:
            smallest = torch.minimum(smallest[:-stride], smallest[stride:])
            largest = torch.maximum(largest[:-stride], largest[stride:])
        cells[first : first + len(smallest)] = smallest.masked_fill_(smallest != largest, _mixed(flat))
    return cells


def _vote(flat: torch.Tensor, labels: torch.Tensor, grid: _Grid) -> None:
    """Replaces every `_mixed` in `labels` (*patch_size) by the label of the flat map with the largest linear score there."""
    winners = labels.view(-1)
    mixed = (winners == _mixed(flat)).nonzero().squeeze(1)
    if not len(mixed):
        return
    pieces = torch.split(mixed, _CHUNK_VOXELS // 8) if mixed.device.type == "cpu" else (mixed,)
    _, height, width = labels.shape
    for piece in pieces:
        row = piece.div(width, rounding_mode="floor")
        plane = row.div(height, rounding_mode="floor")
        steps = [step.to(torch.float32) for step in (plane, row - plane * height, piece - row * width)]
        index, weights = grid.locate(steps)
        winners[piece] = _winners(*_corners(flat, index, grid.strides, weights))


def _corners(
    flat: torch.Tensor, index: torch.Tensor, strides: Sequence[int], weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (corners, K) and linear weights (corners, K) float32 around each point, upper corners first."""
    shifts, shares = [0], [torch.ones_like(weights[0])]
    for stride, weight in zip(strides, weights, strict=True):
        below = 1 - weight
        shares = [share * part for share in shares for part in (weight, below)]
        shifts = [shift + step for shift in shifts for step in (stride, 0)]
    return torch.stack([flat[shift:].index_select(0, index) for shift in shifts]), torch.stack(shares)


def _winners(labels: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The label with the largest sum of shares in each column of (corners, K).

    Nearly always one of two labels holds more than half; only the other columns are counted in full.
    """
    winners = torch.full_like(labels[0], _mixed(labels))
    for label in (labels.amin(0), labels.amax(0)):
        score = torch.eq(labels, label).mul(shares).sum(0)
        winners = torch.where(score > 0.5 + _TIE, label, winners)
    close = (winners == _mixed(labels)).nonzero().squeeze(1)
    if len(close):
        winners[close] = _count(labels[:, close], shares[:, close])
    return winners


def _count(labels: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    scores = torch.zeros_like(shares)
    for label, share in zip(labels, shares, strict=True):
        scores += torch.eq(labels, label) * share
    best = scores.amax(0) - _TIE
    lowest = torch.where(scores >= best, labels, torch.iinfo(labels.dtype).max).amin(0)
    nearest = shares.argmax(0, keepdim=True)  # the first of equals, so the upper corner where a point lies midway
    return torch.where(scores.gather(0, nearest)[0] >= best, labels.gather(0, nearest)[0], lowest)
