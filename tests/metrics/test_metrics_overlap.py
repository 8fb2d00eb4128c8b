"""Overlap and volumes, by counting on fingers; the table of empty masks at the head of the package."""

import math

import numpy as np
import pytest

from autoseg3d import metrics
from autoseg3d.metrics import Counts


def test_counts() -> None:
    prediction, reference = np.zeros((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    prediction[0], reference[:, 1] = True, True
    counts = metrics.count_overlap(prediction, reference)
    assert counts == Counts(tp=4, fp=8, fn=4)
    assert (counts.prediction, counts.reference) == (12, 8)
    assert counts + counts == Counts(8, 16, 8)


def test_measures_of_overlap() -> None:
    counts = Counts(tp=4, fp=8, fn=4)
    assert metrics.dice(counts) == pytest.approx(8 / 20)
    assert metrics.iou(counts) == pytest.approx(4 / 16)
    assert metrics.sensitivity(counts) == pytest.approx(0.5)
    assert metrics.precision(counts) == pytest.approx(1 / 3)


def test_volumes() -> None:
    counts = Counts(tp=4, fp=8, fn=4)
    assert metrics.volume_difference_ml(counts, voxel_volume_ml=0.5) == pytest.approx(2)
    assert metrics.volume_difference_percent(counts) == pytest.approx(50)
    assert metrics.volume_difference_percent(Counts(0, 0, 5)) == -100


NAN = math.nan


@pytest.mark.parametrize(
    ("counts", "dice", "iou", "sensitivity", "precision", "percent"),
    [
        (Counts(0, 0, 0), NAN, NAN, NAN, NAN, NAN),
        (Counts(0, 3, 0), 0, 0, NAN, 0, NAN),
        (Counts(0, 0, 3), 0, 0, 0, NAN, -100),
    ],
)
def test_empty_masks(counts: Counts, dice: float, iou: float, sensitivity: float, precision: float, percent: float) -> None:
    found = [metrics.dice(counts), metrics.iou(counts), metrics.sensitivity(counts), metrics.precision(counts)]
    found.append(metrics.volume_difference_percent(counts))
    assert found == pytest.approx([dice, iou, sensitivity, precision, percent], nan_ok=True)


def test_dice_is_symmetric_and_follows_from_iou() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        a, b = rng.random((2, 4, 5, 6)) < rng.random()
        counts, swapped = metrics.count_overlap(a, b), metrics.count_overlap(b, a)
        assert metrics.dice(counts) == pytest.approx(metrics.dice(swapped), nan_ok=True)
        iou = metrics.iou(counts)
        assert metrics.dice(counts) == pytest.approx(2 * iou / (1 + iou), nan_ok=True)


def test_boxes() -> None:
    label_map = np.zeros((5, 6, 7), dtype=np.int16)
    label_map[1:3, 2, 4:7], label_map[4, 5, 0] = 3, 300
    boxes = metrics.label_boxes(label_map)
    assert boxes == {3: (slice(1, 3), slice(2, 3), slice(4, 7)), 300: (slice(4, 5), slice(5, 6), slice(0, 1))}
    assert metrics.merge_boxes(boxes.values()) == (slice(1, 5), slice(2, 6), slice(0, 7))
    assert metrics.merge_boxes([]) is None
    assert metrics.grow_box(boxes[300], label_map.shape) == (slice(3, 5), slice(4, 6), slice(0, 2))


def test_crop_to_union_loses_nothing() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, b = rng.random((2, 6, 7, 8)) < 0.02
        small_a, small_b = metrics.crop_to_union(a, b)
        assert (small_a.sum(), small_b.sum(), (small_a & small_b).sum()) == (a.sum(), b.sum(), (a & b).sum())
        if small_a.size:
            union = small_a | small_b
            assert all(union.any(axis=axes)[[0, -1]].all() for axes in ((1, 2), (0, 2), (0, 1)))
    assert metrics.crop_to_union(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool))[0].shape == (0, 0, 0)
