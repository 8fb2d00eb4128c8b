"""Calibration of saved probabilities, label by label, read class by class so that memory does not grow with the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg3d.errors import DataError
from autoseg3d.io.probabilities import open_probabilities
from autoseg3d.metrics import calibration_counts, label_boxes, merge_boxes
from planners.labels import Label, LabelTable

MARGIN_MM = 10.0
"""Calibration is over the box around a label in either map, this much wider on every side: beyond, being right is easy."""

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class LabelCalibration:
    """Brier score and expected calibration error (15 equal bins) of one label's probability."""

    brier: float
    ece: float


def calibrate(
    path: Path, prediction: np.ndarray, reference: np.ndarray, *, spacing: Spacing, labels: LabelTable
) -> dict[str, LabelCalibration]:
    """The calibration of every label that is in either map, by name.

    Args:
        path: what `predict --save-probabilities` wrote, on the grid of the maps.
        prediction, reference: label maps (Z, Y, X). Voxels that the reference says to ignore are left out.
        spacing: mm (z, y, x).
        labels: the label table; the file holds its classes in the network's order.

    Raises ReadError for a file that is none, DataError where it holds other classes or another grid.
    """
    boxes = [label_boxes(label_map) for label_map in (prediction, reference)]
    found: dict[str, LabelCalibration] = {}
    with open_probabilities(path) as reader:
        if reader.shape != (labels.num_classes, *reference.shape):
            wanted, got = str((labels.num_classes, *reference.shape)), str(reader.shape)
            raise DataError("the probabilities are of other classes or another grid", file=path, code="E_SHAPE", wanted=wanted, got=got)
        classes = reader.classes()
        if not labels.has_regions:
            next(classes)  # background
        for label, probability in zip(labels.labels, classes, strict=True):
            box = merge_boxes(seen[value] for seen in boxes for value in label.values if value in seen)
            if box is not None:
                wide = _grown(box, reference.shape, spacing)
                found[label.name] = _calibration(probability[wide], reference[wide], label, labels.ignore)
    return found


def _calibration(probability: np.ndarray, reference: np.ndarray, label: Label, ignore: int | None) -> LabelCalibration:
    truth = np.isin(reference, label.values)
    if ignore is not None:
        counted = reference != ignore
        probability, truth = probability[counted], truth[counted]
    counts = calibration_counts(probability, truth)
    return LabelCalibration(counts.brier, counts.ece)


def _grown(box: tuple[slice, ...], shape: tuple[int, ...], spacing: Spacing) -> tuple[slice, ...]:
    steps = [math.ceil(MARGIN_MM / s) for s in spacing]
    return tuple(slice(max(s.start - n, 0), min(s.stop + n, size)) for s, n, size in zip(box, steps, shape, strict=True))
