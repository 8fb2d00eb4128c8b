"""From logits on the working grid to labels on the scan's grid, row by row along axis 0.

The rule is nnU-Net's: logits are resized linearly (half-pixel centres, edges repeated; nearest along the coarsest axis
where the spacing is strongly anisotropic), then the largest wins, or, with regions, every region above zero is painted
in order. Resizing all classes of a whole scan is what makes its export slow and large. Two observations avoid it:

* A linearly interpolated logit is a convex combination of the logits at the (up to eight) corners around it. Where
  one class wins at all corners it wins between them too; so only the voxels at borders, a few per cent, have to be
  interpolated. With regions the same holds for the last region above zero: it is above zero at all corners, and
  those painted after it are not.
* A row of the scan lies between two rows of the working grid, so two rows are all that is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from autoseg3d.ops.resampling import nearest_index, source_positions
from planners.contract import Triple
from planners.labels import LabelTable

_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class AxisMap:
    """For every voxel of one target axis: its two neighbours on the source axis and how far it lies towards `high`."""

    low: Tensor
    high: Tensor
    fraction: Tensor

    def part(self, start: int, stop: int, shift: int) -> AxisMap:
        """The map of target voxels [start, stop) from a source whose first `shift` voxels are left out."""
        return AxisMap(self.low[start:stop] - shift, self.high[start:stop] - shift, self.fraction[start:stop])

    def to(self, device: torch.device) -> AxisMap:
        return AxisMap(self.low.to(device), self.high.to(device), self.fraction.to(device))


@dataclass(frozen=True)
class GridMap:
    """The three axis maps from a working grid to a target grid."""

    z: AxisMap
    y: AxisMap
    x: AxisMap

    @property
    def shape(self) -> Triple:
        """Shape (z, y, x) of the target grid."""
        return (len(self.z.low), len(self.y.low), len(self.x.low))

    def band(self, start: int, stop: int) -> tuple[GridMap, tuple[int, int]]:
        """The map of target rows [start, stop) of axis 1, and the working rows [first, last) it needs."""
        first, last = int(self.y.low[start]), int(self.y.high[stop - 1]) + 1
        return replace(self, y=self.y.part(start, stop, first)), (first, last)


def grid_map(source: Triple, target: Triple, *, separate: int | None = None) -> GridMap:
    """How voxels of a grid of shape `target` lie between those of shape `source` over the same box.

    `separate` is the axis along which the nearest voxel is taken in place of interpolation.
    """
    z, y, x = (_axis_map(n, m, nearest=axis == separate) for axis, (n, m) in enumerate(zip(source, target, strict=True)))
    return GridMap(z, y, x)


def _axis_map(source: int, target: int, *, nearest: bool) -> AxisMap:
    position = nearest_index(source, target) if nearest else np.clip(source_positions(source, target), 0, source - 1)
    low = np.floor(position).astype(np.int64)
    fraction = (position - low).astype(np.float32)
    high = np.where(fraction > 0, np.minimum(low + 1, source - 1), low)
    return AxisMap(torch.from_numpy(low), torch.from_numpy(high), torch.from_numpy(fraction))


def output_dtype(labels: LabelTable) -> type[np.uint8] | type[np.uint16]:
    """uint8 where every painted value is below 255, else uint16, as nnU-Net writes them."""
    return np.uint8 if max(labels.class_paint) < 255 else np.uint16


def winners(logits: Tensor, *, regions: bool) -> Tensor:
    """(…) int16 index of the winning channel of (K, …) logits.

    Softmax classes: the largest logit, the lowest channel among equals. Regions: 1 + the last channel above zero
    (a sigmoid above one half), 0 where there is none.
    """
    best = torch.zeros(logits.shape[1:], dtype=torch.int16, device=logits.device)
    if regions:
        for channel, logit in enumerate(logits, start=1):
            best.masked_fill_(logit > 0, channel)
        return best
    # Largest value first, then who holds it: both vectorise, which torch.argmax over the slowest axis does not (12×).
    largest = logits.amax(dim=0)
    count = len(logits)
    for channel, logit in enumerate(logits):
        torch.maximum(best, (logit == largest).to(torch.int16).mul_(count - channel), out=best)
    return best.neg_().add_(count)


def label_slabs(
    slabs: Iterable[tuple[int, Tensor]],
    out: np.ndarray,
    *,
    grid: GridMap,
    labels: LabelTable,
    on_logits: Callable[[int, Tensor], None] | None = None,
) -> None:
    """Writes the label map of streamed logits into `out`, an array (possibly a view) of shape grid.shape.

    Args:
        slabs: (start, logits (K, rows, Y, X) float32) in order along axis 0 and without gaps, covering the working
            grid; each tensor may be overwritten once the next one is asked for.
        out: label values of the table's `class_paint`, 0 for the background.
        on_logits: is given every row's number and its interpolated logits (K, Y', X'); rows are then computed in
            full, which is slower and gives the same labels.
    """
    paint = paint_table(labels, out.dtype)
    for row in target_rows(slabs, grid, regions=labels.has_regions):
        if on_logits is None:
            best = row.winners()
        else:
            logits = row.all_logits()
            best = winners(logits, regions=labels.has_regions)
            on_logits(row.index, logits)
        out[row.index] = np.take(paint, best.cpu().numpy()).reshape(out.shape[1:])


def paint_table(labels: LabelTable, dtype: np.dtype) -> np.ndarray:
    """The label value of every code that `winners` gives."""
    return np.array((0, *labels.class_paint) if labels.has_regions else labels.class_paint, dtype=dtype)


def target_rows(slabs: Iterable[tuple[int, Tensor]], grid: GridMap, *, regions: bool) -> Iterator[TargetRow]:
    """The rows of the target grid in order, each to be asked before the next; `slabs` as for `label_slabs`."""
    plane: _PlaneMap | None = None
    for pair, targets in _row_pairs(slabs, grid, regions=regions):
        if plane is None:
            plane = _PlaneMap(grid, width=pair.low.shape[2], device=pair.low.device)
        shared = _Shared(pair, plane, regions)
        for target in targets:
            yield TargetRow(target, float(grid.z.fraction[target]), shared)


@dataclass(frozen=True)
class TargetRow:
    """Row `index` of the target grid, `fraction` of the way between two working rows; voxels are numbered y·X' + x."""

    index: int
    fraction: float
    _shared: _Shared

    @property
    def certain(self) -> Tensor:
        """(Y'·X') int16 the winner where the logits around a voxel leave no doubt, -1 elsewhere."""
        return self._shared.borders.certain

    def winners(self) -> Tensor:
        """(Y'·X') int16 winners, see `winners`."""
        return self._shared.borders.winners(self.fraction, regions=self._shared.regions)

    def all_logits(self) -> Tensor:
        """(K, Y', X') interpolated logits."""
        pair = self._shared.pair
        return self._shared.plane.interpolate(_between(pair.low, pair.high, self.fraction))

    def logits_at(self, voxels: Tensor) -> Tensor:
        """(K, n) interpolated logits of the voxels with these numbers."""
        pair = self._shared.pair
        corners, weights = self._shared.plane.corners(voxels)
        low, high = pair.low.flatten(1), pair.high.flatten(1)
        total = low.new_zeros((len(low), len(voxels)))
        for corner, weight in zip(corners, weights, strict=True):
            here = low.index_select(1, corner)
            if pair.high is not pair.low:
                here = torch.lerp(here, high.index_select(1, corner), self.fraction)
            total.addcmul_(here, weight)
        return total


class _Shared:
    """What all target rows between one pair of working rows share; the borders only where they are asked for."""

    def __init__(self, pair: _Pair, plane: _PlaneMap, regions: bool) -> None:
        self.pair, self.plane, self.regions = pair, plane, regions

    @cached_property
    def borders(self) -> _Borders:
        return _Borders(self.pair, self.plane)


@dataclass(frozen=True)
class _Pair:
    """Two neighbouring working rows, logits (K, Y, X), and the winners (Y, X) in each."""

    low: Tensor
    high: Tensor
    low_winners: Tensor
    high_winners: Tensor


def _row_pairs(slabs: Iterable[tuple[int, Tensor]], grid: GridMap, *, regions: bool) -> Iterator[tuple[_Pair, list[int]]]:
    """Every pair of working rows that target rows lie between, with the numbers of those target rows."""
    targets: dict[int, list[int]] = {}
    for target, high in enumerate(grid.z.high.tolist()):
        targets.setdefault(high, []).append(target)
    lows = grid.z.low.tolist()
    before: tuple[Tensor, Tensor] | None = None
    for start, logits in slabs:
        best = winners(logits, regions=regions)
        for i in range(logits.shape[1]):
            here = (logits[:, i], best[i])
            wanted = targets.get(start + i, [])
            for low in sorted({lows[target] for target in wanted}):
                below = here if low == start + i or before is None else before
                yield _Pair(below[0], here[0], below[1], here[1]), [t for t in wanted if lows[t] == low]
            before = here
        if before is not None:
            before = (before[0].clone(), before[1])


class _PlaneMap:
    """How the voxels of a target row lie in the working plane; the same for all rows."""

    def __init__(self, grid: GridMap, *, width: int, device: torch.device) -> None:
        self.y, self.x = grid.y.to(device), grid.x.to(device)
        self.width = width
        self.interpolated_y = bool((grid.y.high != grid.y.low).any())
        self.interpolated_x = bool((grid.x.high != grid.x.low).any())
        self.first_corner = (self.y.low[:, None] * width + self.x.low).flatten()

    def corners(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Of target voxels by their flat number: the four working voxels around each (4, n), and their weights (4, n)."""
        columns = len(self.x.low)
        i, j = voxels // columns, voxels % columns
        low, high = self.y.low[i] * self.width, self.y.high[i] * self.width
        left, right = self.x.low[j], self.x.high[j]
        b, a = self.y.fraction[i], self.x.fraction[j]
        weights = torch.stack([(1 - b) * (1 - a), (1 - b) * a, b * (1 - a), b * a])
        return torch.stack([low + left, low + right, high + left, high + right]), weights

    def certain(self, code: Tensor) -> Tensor:
        """(Y'·X') the code that all working voxels around a target voxel share, -1 where they differ or it is -1.

        A cell reaches from a working voxel to its next neighbours, along the axes that are interpolated.
        """
        mixed = code < 0
        if self.interpolated_y:
            mixed[:-1] |= code[:-1] != code[1:]
        if self.interpolated_x:
            across = code[:, :-1] != code[:, 1:]
            mixed[:, :-1] |= across
            if self.interpolated_y:
                mixed[:-1, :-1] |= across[1:]
        return code.masked_fill(mixed, -1).flatten().index_select(0, self.first_corner)

    def interpolate(self, plane: Tensor) -> Tensor:
        """(K, Y', X') of a working plane (K, Y, X)."""
        rows = _between(plane.index_select(1, self.y.low), plane.index_select(1, self.y.high), self.y.fraction[:, None])
        return _between(rows.index_select(2, self.x.low), rows.index_select(2, self.x.high), self.x.fraction)


class _Borders:
    """What all target rows between one pair of working rows share: the certain labels, and the columns around the rest."""

    def __init__(self, pair: _Pair, plane: _PlaneMap) -> None:
        code = pair.low_winners
        if pair.high is not pair.low:
            code = torch.where(pair.low_winners == pair.high_winners, pair.low_winners, -1)
        self.certain = plane.certain(code)
        self._voxels = torch.nonzero(self.certain < 0).flatten()
        corners, self._weights = plane.corners(self._voxels)
        needed = torch.zeros(code.numel(), dtype=torch.bool, device=code.device)
        needed[corners.flatten()] = True
        self._corners = (torch.cumsum(needed, 0) - 1)[corners]
        columns = torch.nonzero(needed).flatten()
        self._low = pair.low.flatten(1).index_select(1, columns)
        self._high = self._low if pair.high is pair.low else pair.high.flatten(1).index_select(1, columns)

    def winners(self, fraction: float, *, regions: bool) -> Tensor:
        """(Y'·X') int16 winning channels of the target row that lies `fraction` of the way from low to high."""
        if len(self._voxels) == 0:
            return self.certain
        columns = _between(self._low, self._high, fraction)
        best = []
        for part in chunks(len(self._voxels), classes=len(columns)):
            corners, weights = self._corners[:, part], self._weights[:, part]
            logits = columns.index_select(1, corners[0]) * weights[0]
            for corner, weight in zip(corners[1:], weights[1:], strict=True):
                logits.addcmul_(columns.index_select(1, corner), weight)
            best.append(winners(logits, regions=regions))
        return self.certain.index_copy(0, self._voxels, torch.cat(best))


def chunks(voxels: int, *, classes: int) -> Iterator[slice]:
    """Parts of so many voxels that the logits of each take a bounded room, however many classes there are."""
    size = max(1, _CHUNK_BYTES // (4 * classes))
    return (slice(start, start + size) for start in range(0, voxels, size))


def _between(low: Tensor, high: Tensor, fraction: float | Tensor) -> Tensor:
    return low if low is high else torch.lerp(low, high, fraction)
