"""Voxels that training centres patches on: which keys, how many, and that they are what they say."""

import numpy as np
import pytest

from autoseg3d.preprocessing.locations import class_locations
from planners.labels import label_table

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2, "absent": 3})


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((30, 40, 50), dtype=np.int16)
    labels[0] = -1
    labels[5:28, 5:35, 5:45] = 1
    labels[10, 10, 10:14] = 2
    return labels


def at(labels: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return labels[tuple(voxels.T)]


def test_small_classes_are_kept_whole_and_large_ones_drawn(labels: np.ndarray) -> None:
    locations = class_locations(labels, TABLE)
    assert list(locations) == [1, 2, 3]
    assert locations[2].tolist() == [[10, 10, 10], [10, 10, 11], [10, 10, 12], [10, 10, 13]]
    assert locations[3].shape == (0, 3)
    assert locations[1].shape == (10_000, 3)
    assert locations[1].dtype == np.int32
    assert (at(labels, locations[1]) == 1).all()
    assert len(np.unique(locations[1], axis=0)) == 10_000


def test_a_hundredth_of_very_large_classes_is_drawn() -> None:
    assert len(class_locations(np.ones((100, 120, 100), dtype=np.int16), TABLE)[1]) == 12_000


def test_draws_are_uniform_and_repeatable(labels: np.ndarray) -> None:
    first, again = class_locations(labels, TABLE), class_locations(labels, TABLE)
    assert np.array_equal(first[1], again[1])
    share = (first[1][:, 0] < 16).mean()
    assert share == pytest.approx((labels[:16] == 1).sum() / (labels == 1).sum(), abs=0.02)


def test_regions_count_from_zero_and_hold_all_their_labels(labels: np.ndarray) -> None:
    table = label_table({"background": 0, "whole": [1, 2], "lesion": [2]}, regions_class_order=[1, 2])
    locations = class_locations(labels, table)
    assert list(locations) == [0, 1]
    assert set(np.unique(at(labels, locations[0]))) <= {1, 2}
    assert len(locations[1]) == 4


def test_with_an_ignore_label_everything_else_is_annotated(labels: np.ndarray) -> None:
    table = label_table({"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
    labels[20:] = 3
    locations = class_locations(labels, table)
    assert list(locations) == [1, 2, -1]
    assert len(locations[-1]) == 10_000
    assert set(np.unique(at(labels, locations[-1]))) >= {-1, 0, 1}
    assert 3 not in at(labels, locations[-1])
    assert class_locations(np.full((2, 2, 2), 3, dtype=np.int16), table)[-1].shape == (0, 3)
