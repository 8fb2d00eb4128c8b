"""CaseParts: the connected parts of a predicted label map, so that any postprocessing is scored without touching it again.

Removing whole parts only takes voxels away from sums, so that Dice after keeping the largest part, or after dropping
small ones, follows from a table of parts. Hundreds of candidates on hundreds of cases cost less than one look at the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoseg3d.metrics import label_boxes, merge_boxes
from autoseg3d.ops.components import label_components
from planners.labels import Label, LabelTable
from planners.postprocessing import DropSmall, KeepLargest

_ROUNDING = 1e-6


@dataclass(frozen=True)
class CaseParts:
    """One case's prediction as parts of labels (or regions), numbered in the order of the label table.

    voxel_ml          volume of a voxel
    reference         voxels of each label in the reference: (L,)
    foreground_size   voxels of each connected part of all labels together: (F,)
    label, whole      of each part of a label: which label it is of, and which part of the foreground it lies in: (P,)
    size              its voxels: (P,)
    counted, tp       of these, those not marked as ignore in the reference, and those that are right: (P,)

    Parts of a region are what the region has in each part of the foreground, connected or not: regions overlap, and
    removing a part of one would take voxels from others.
    """

    voxel_ml: float
    reference: np.ndarray
    foreground_size: np.ndarray
    label: np.ndarray
    whole: np.ndarray
    size: np.ndarray
    counted: np.ndarray
    tp: np.ndarray

    def dice(self, kept: np.ndarray) -> np.ndarray:
        """Dice of each label (L,) with only the `kept` parts (P,); NaN where label is in neither map."""
        labels = len(self.reference)
        tp = np.bincount(self.label[kept], weights=self.tp[kept], minlength=labels)
        total = np.bincount(self.label[kept], weights=self.counted[kept], minlength=labels) + self.reference
        dice: np.ndarray = np.divide(2 * tp, total, out=np.full(labels, np.nan), where=total > 0)
        return dice

    def all_parts(self) -> np.ndarray:
        """Every part kept: true (P,)."""
        return np.ones(len(self.label), dtype=bool)

    def after_foreground(self, step: KeepLargest | DropSmall, kept: np.ndarray) -> np.ndarray:
        """The parts left of `kept` after a step on all labels together; it must be the first step."""
        stays = self._stays(step, self.foreground_size)
        left: np.ndarray = kept & stays[self.whole]
        return left

    def after_label(self, step: KeepLargest | DropSmall, label: int, kept: np.ndarray) -> np.ndarray:
        """The parts left of `kept` after a step on one label (its number in the table); not for regions."""
        mine = np.flatnonzero(kept & (self.label == label))
        left = kept.copy()
        left[mine] = self._stays(step, self.size[mine])
        return left

    def _stays(self, step: KeepLargest | DropSmall, sizes: np.ndarray) -> np.ndarray:
        if not len(sizes):
            return np.zeros(0, dtype=bool)
        fewest = sizes.max() if isinstance(step, KeepLargest) else step.minimal_ml / self.voxel_ml * (1 - _ROUNDING)
        stays: np.ndarray = sizes >= fewest
        return stays


def measure_parts(prediction: np.ndarray, reference: np.ndarray, *, labels: LabelTable, voxel_ml: float) -> CaseParts:
    """The CaseParts of label maps (Z, Y, X) of one grid."""
    counted = np.ones(reference.shape, dtype=bool) if labels.ignore is None else reference != labels.ignore
    # The reference's volumes are of the whole map; everything else lies where something is predicted.
    inside = [np.isin(reference, label.values) if len(label.values) > 1 else reference == label.values[0] for label in labels.labels]
    volumes = np.array([np.count_nonzero(mask) for mask in inside], dtype=np.int64)
    found = label_boxes(prediction)
    box = merge_boxes(found.values()) or (slice(0, 0),) * 3
    predicted, used = prediction[box], counted[box]
    foreground, count = label_components(predicted > 0)
    rows = [
        _label_rows(i, label, predicted, foreground, used, inside[i][box], connected=not labels.has_regions)
        for i, label in enumerate(labels.labels)
    ]
    label, whole, size, kept, tp = np.concatenate(rows, axis=1) if rows else np.zeros((5, 0), dtype=np.int64)
    foreground_size = np.bincount(foreground.ravel(), minlength=count + 1)[1:]
    return CaseParts(voxel_ml, volumes, foreground_size, label, whole, size, kept, tp)


def _label_rows(
    index: int, label: Label, predicted: np.ndarray, foreground: np.ndarray, used: np.ndarray, truth: np.ndarray, *, connected: bool
) -> np.ndarray:
    """(5, parts): label, part of the foreground, size, counted and right voxels of each part of one label."""
    member = np.isin(predicted, label.values) if len(label.values) > 1 else predicted == label.values[0]
    if connected:
        parts, count = label_components(member)
        whole = np.zeros(count + 1, dtype=np.int64)
        whole[parts[member]] = foreground[member]
    else:
        parts, count = np.where(member, foreground, 0), int(foreground.max(initial=0))
        whole = np.arange(count + 1)
    size, counted, tp = (np.bincount(parts[mask], minlength=count + 1) for mask in (member, member & used, member & truth))
    rows = np.stack([np.full(count + 1, index), whole - 1, size, counted, tp])[:, 1:]
    return rows[:, rows[2] > 0]
