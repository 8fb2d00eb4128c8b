"""What a label map holds, label by label: volume, place, edge, and how far the folds of the model agree about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg3d.geometry import Geometry
from autoseg3d.prediction.fold_counts import FoldCounts
from planners.contract import Contract
from planners.labels import LabelTable

_FACES = tuple((slice(None),) * axis + (index,) for axis in range(3) for index in (0, -1))


class LabelFinding(Contract):
    """One label (or region) of a predicted case.

    volume_ml        on the scan's own grid
    centroid         centre of mass as fractions of the field of view along (S, A, R), as in a fingerprint; None where absent
    touches_edge     whether a voxel lies on the first or last slice of any axis
    fold_dice        mean Dice of all pairs of folds on the working grid, the lowest of all members; None for single folds
    fold_volumes_ml  the smallest and the largest volume by any fold alone, on the working grid; None for single folds
    """

    name: str
    volume_ml: float
    centroid: tuple[float, float, float] | None
    touches_edge: bool
    fold_dice: float | None = None
    fold_volumes_ml: tuple[float, float] | None = None


def find_labels(
    labels: np.ndarray, table: LabelTable, native: Geometry, counts: Sequence[FoldCounts | None] = ()
) -> tuple[LabelFinding, ...]:
    """One finding per entry of the label table, of label values (Z, Y, X) on the grid `native`, in one pass over its planes."""
    seen = _Moments.of(labels, max(table.allowed_values))
    at_edge = np.unique(np.concatenate([np.unique(labels[face]) for face in _FACES]))
    dice, volumes = _fold_agreement(counts, len(table.labels))
    return tuple(
        LabelFinding(
            name=label.name,
            volume_ml=int(seen.voxels[list(label.values)].sum()) * native.voxel_volume_ml,
            centroid=seen.centroid(label.values, native),
            touches_edge=bool(np.isin(label.values, at_edge).any()),
            fold_dice=dice[i],
            fold_volumes_ml=volumes[i],
        )
        for i, label in enumerate(table.labels)
    )


@dataclass(frozen=True)
class _Moments:
    """Voxels of every label value (n,) and the sums of their indices (3, n)."""

    voxels: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, largest: int) -> _Moments:
        voxels, sums = np.zeros(largest + 1, dtype=np.int64), np.zeros((3, largest + 1))
        for z, plane in enumerate(labels):
            places = np.flatnonzero(plane)
            if len(places) == 0:
                continue
            values = plane.ravel()[places]
            here = np.bincount(values, minlength=largest + 1)
            y, x = np.divmod(places, plane.shape[1])
            voxels += here
            sums[0] += z * here
            sums[1] += np.bincount(values, weights=y, minlength=largest + 1)
            sums[2] += np.bincount(values, weights=x, minlength=largest + 1)
        return cls(voxels, sums)

    def centroid(self, values: Sequence[int], native: Geometry) -> tuple[float, float, float] | None:
        """Fractions along (S, A, R); a voxel's centre lies half a voxel inside."""
        count = int(self.voxels[list(values)].sum())
        if count == 0:
            return None
        stored = (self.sums[:, list(values)].sum(axis=1) / count + 0.5) / np.array(native.shape)
        axes, flips = native.to_canonical()
        s, a, r = (float(1 - stored[axis] if flip else stored[axis]) for axis, flip in zip(axes, flips, strict=True))
        return (s, a, r)


def _fold_agreement(counts: Sequence[FoldCounts | None], labels: int) -> tuple[list[float | None], list[tuple[float, float] | None]]:
    """Lowest mean pairwise Dice over members, and the range of volumes over all folds of all members, for each label."""
    known = [count for count in counts if count is not None]
    if not known:
        return [None] * labels, [None] * labels
    dice = [count.pairwise_dice() for count in known]
    volumes = np.concatenate([count.volumes_ml() for count in known])
    lowest = [min((member[i] for member in dice if member[i] is not None), default=None) for i in range(labels)]  # type: ignore[type-var]
    return lowest, [(float(volumes[:, i].min()), float(volumes[:, i].max())) for i in range(labels)]
