"""From the streamed logits of one or several members to one label map on the scan's own grid.

A member is one configuration of one model; its folds are fused before this, by the mean of their logits. Members are
fused by the mean of their probabilities on the scan's grid, as nnU-Net's ensembles are. No member's probabilities are
held: all are computed side by side, row by row. Where every member is certain of the same winner, that is the winner
of the mean, so only the rest, a few per cent, is interpolated and turned into probabilities.

A member whose rows run along another axis of the scan cannot be computed side by side; its probabilities go to a
temporary file first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoseg3d.case import Placement
from autoseg3d.ops.labelling import TargetRow, chunks, output_dtype, paint_table, target_rows, winners
from autoseg3d.prediction.computation import Computation, Progress
from autoseg3d.prediction.fold_counts import FoldCounts
from autoseg3d.prediction.probabilities import spilling
from autoseg3d.sliding_window import Slab
from planners.labels import LabelTable

Sink = Callable[[int, slice, Tensor], None]


@dataclass(frozen=True)
class Fused:
    """A fused case.

    labels   (Z, Y, X) on the scan's own grid
    counts   agreement of each member's networks, in the order of the members; None where it was not asked for
    seconds  wall-clock time of "network" and "export"
    """

    labels: np.ndarray
    counts: tuple[FoldCounts | None, ...]
    seconds: dict[str, float]


def fuse(
    members: Sequence[Computation],
    *,
    on_probabilities: Sink | None = None,
    spill_folder: Path | None = None,
    progress: Progress | None = None,
) -> Fused:
    """Computes all members and fuses them.

    Args:
        members: one or more of the same scan and the same labels.
        on_probabilities: gets every row of the cropped scan of the first member: its number along axis 0, the part of
            axis 1, and the mean probabilities (K, Y', X'). Rows are then computed in full, which takes longer.
        spill_folder: where temporary files may lie; needed where members' rows run along different axes.
        progress: told ("windows", done, total) over all members.
    """
    leading = members[0]
    beside = [member for member in members if _same_frame(member.placement, leading.placement)]
    apart = [member for member in members if not _same_frame(member.placement, leading.placement)]
    counts = {id(m): FoldCounts(m.labels, len(m.networks), voxel_ml=m.working_voxel_ml) for m in members if m.apart}
    clock, report = _Clock(), _Shares(progress, len(members))
    native = np.zeros(leading.placement.native.shape, dtype=output_dtype(leading.labels))
    with contextlib.ExitStack() as stack:
        spilled = [stack.enter_context(_spilled(m, spill_folder, clock, report.of(i), counts)) for i, m in enumerate(apart, len(beside))]
        sources = [leading.placement.crop(array) for array in spilled]
        out = leading.placement.crop(native)
        for band in _bands(beside):
            rows = [_rows(m, band, clock, report.of(i, band), counts.get(id(m))) for i, m in enumerate(beside)]
            with clock.outside():
                _label(rows, sources, out[:, band.part], leading.labels, band.part, on_probabilities)
    return Fused(native, tuple(counts.get(id(m)) for m in members), clock.seconds)


@dataclass(frozen=True)
class _Band:
    """Band `index` of `count`: a part of axis 1 of the cropped scan."""

    index: int
    count: int
    part: slice


def _bands(members: Sequence[Computation]) -> list[_Band]:
    rows, count = members[0].grid.shape[1], max(member.bands(sharing=len(members)) for member in members)
    edges = [round(rows * i / count) for i in range(count + 1)]
    return [_Band(i, count, slice(start, stop)) for i, (start, stop) in enumerate(pairwise(edges))]


def _same_frame(one: Placement, other: Placement) -> bool:
    """Whether rows of both cropped scans are the same voxels in the same order."""
    return all(getattr(one, name) == getattr(other, name) for name in ("axes", "flips", "crop_start", "cropped_shape"))


def _rows(member: Computation, band: _Band, clock: _Clock, progress: Progress | None, counts: FoldCounts | None) -> Iterator[TargetRow]:
    grid, first, slabs = member.band(band.part.start, band.part.stop, progress)
    watched = slabs if counts is None else counts.watching(slabs, first)
    return target_rows(clock.network(watched), grid, regions=member.labels.has_regions)


def _label(
    members: Sequence[Iterator[TargetRow]],
    spilled: Sequence[np.ndarray],
    out: np.ndarray,
    labels: LabelTable,
    part: slice,
    on_probabilities: Sink | None,
) -> None:
    """Writes the label values of a band into `out`, row by row."""
    paint = paint_table(labels, out.dtype)
    for rows in zip(*members, strict=True):
        row = rows[0].index
        stored = [torch.from_numpy(np.ascontiguousarray(array[:, row, part])) for array in spilled]
        if on_probabilities is not None:
            mean = _mean([_probabilities(r.all_logits(), labels) for r in rows] + stored)
            best = _winners(mean, labels)
            on_probabilities(row, part, mean)
        elif len(rows) == 1 and not stored:
            best = rows[0].winners()
        else:
            best = _fused_winners(rows, stored, labels)
        out[row] = np.take(paint, best.cpu().numpy()).reshape(out.shape[1:])


def _fused_winners(rows: Sequence[TargetRow], stored: Sequence[Tensor], labels: LabelTable) -> Tensor:
    """(Y'·X') winners of the mean; only voxels of which not all members are certain are looked at in full."""
    certain = rows[0].certain
    others = [row.certain for row in rows[1:]] + [_winners(values, labels).flatten().to(certain.device) for values in stored]
    for other in others:
        certain = torch.where(certain == other, certain, -1)
    voxels = torch.nonzero(certain < 0).flatten()
    if len(voxels) == 0:
        return certain
    best = []
    for part in chunks(len(voxels), classes=labels.num_classes):
        parts = [_probabilities(row.logits_at(voxels[part]), labels) for row in rows]
        parts += [values.flatten(1).to(voxels.device).index_select(1, voxels[part]) for values in stored]
        best.append(_winners(_mean(parts), labels))
    return certain.index_copy(0, voxels, torch.cat(best))


def _probabilities(logits: Tensor, labels: LabelTable) -> Tensor:
    return torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=0)


def _mean(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part.to(total.device)
    return total / len(parts) if len(parts) > 1 else total


def _winners(probabilities: Tensor, labels: LabelTable) -> Tensor:
    """Winning codes of probabilities; a region counts where it is more likely than not."""
    return winners(probabilities - 0.5 if labels.has_regions else probabilities, regions=labels.has_regions)


@contextlib.contextmanager
def _spilled(
    member: Computation, folder: Path | None, clock: _Clock, progress: Progress | None, counts: dict[int, FoldCounts]
) -> Iterator[np.ndarray]:
    """The member's probabilities (K, Z, Y, X) on the scan's own grid, in a file that is gone afterwards."""
    if folder is None:
        raise ValueError("members whose rows run along different axes need a folder for a temporary file")
    with spilling(folder, member.placement, member.labels) as probabilities:
        for band in _bands([member]):
            with clock.outside():
                for row in _rows(member, band, clock, progress, counts.get(id(member))):
                    probabilities.write(row.index, band.part, _probabilities(row.all_logits(), member.labels))
        yield probabilities.array


class _Clock:
    """Tells the time that networks took from all the rest."""

    def __init__(self) -> None:
        self.seconds = {"network": 0.0, "export": 0.0}

    def network(self, slabs: Iterator[Slab]) -> Iterator[tuple[int, Tensor]]:
        """The slabs, as `target_rows` takes them, with the time it took to make them counted."""
        while True:
            begun = time.perf_counter()
            slab = next(slabs, None)
            self.seconds["network"] += time.perf_counter() - begun
            if slab is None:
                return
            yield slab.start, slab.logits

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Counts the block's time, less what networks took in it, as export."""
        begun, network = time.perf_counter(), self.seconds["network"]
        yield
        self.seconds["export"] += time.perf_counter() - begun - (self.seconds["network"] - network)


class _Shares:
    """Progress of several members, each in bands, as progress of one case."""

    def __init__(self, progress: Progress | None, members: int) -> None:
        self._progress, self._done = progress, [0.0] * members

    def of(self, member: int, band: _Band | None = None) -> Progress | None:
        """What to tell the progress of one member's band to; per mille where it is not all of the case."""
        if self._progress is None:
            return None
        if len(self._done) == 1 and (band is None or band.count == 1):
            return self._progress
        tell, (index, count) = self._progress, (band.index, band.count) if band else (0, 1)

        def told(what: str, done: int, total: int) -> None:
            self._done[member] = max(self._done[member], (index + done / total) / count)
            tell(what, round(1000 * sum(self._done) / len(self._done)), 1000)

        return told
