"""Lesions: components found, missed and made up."""

import math

import numpy as np
import pytest

from autoseg3d.metrics import LesionMatch, match_lesions


def lesions(*places: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros((20, 20, 20), dtype=bool)
    for place in places:
        mask[place] = True
    return mask


def box(z: int, y: int, x: int, size: int = 3) -> tuple[slice, ...]:
    return tuple(slice(a, a + size) for a in (z, y, x))


def test_found_missed_and_made_up() -> None:
    reference = lesions(box(1, 1, 1), box(10, 10, 10), box(1, 15, 15))
    prediction = lesions(box(1, 1, 2), box(10, 10, 10), box(15, 1, 1), box(15, 15, 1))
    match = match_lesions(prediction, reference)
    assert match == LesionMatch(reference=3, prediction=4, matched=2)
    assert match.f1 == pytest.approx(4 / 7)
    assert match.sensitivity == pytest.approx(2 / 3)
    assert match.precision == pytest.approx(0.5)


def test_corners_that_touch_are_one_lesion() -> None:
    assert match_lesions(lesions(box(1, 1, 1), box(4, 4, 4)), lesions(box(1, 1, 1))).prediction == 1


def test_a_lesion_is_found_once_only() -> None:
    """Two pieces in one true lesion: the larger matches, the smaller is false."""
    reference = lesions((slice(2, 5), slice(2, 5), slice(2, 12)))
    prediction = lesions((slice(2, 5), slice(2, 5), slice(2, 7)), (slice(2, 5), slice(2, 5), slice(9, 12)))
    assert match_lesions(prediction, reference) == LesionMatch(1, 2, 1)


def test_the_best_pairs_match_first() -> None:
    """A prediction over both lesions takes the one it fits better, and leaves the other to the second prediction."""
    reference = lesions((0, 0, slice(0, 6)), (0, 0, slice(7, 10)))
    prediction = lesions((0, 0, slice(0, 8)), (0, 0, slice(9, 10)))
    assert match_lesions(prediction, reference, min_iou=0.2) == LesionMatch(2, 2, 2)


def test_the_threshold() -> None:
    reference, prediction = lesions((0, 0, slice(0, 4))), lesions((0, 0, slice(2, 6)))
    assert match_lesions(prediction, reference, min_iou=1 / 3).matched == 1
    assert match_lesions(prediction, reference, min_iou=0.34).matched == 0
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="min_iou"):
            match_lesions(prediction, reference, min_iou=wrong)


def test_empty_masks() -> None:
    some, none = lesions(box(1, 1, 1)), lesions()
    assert math.isnan(match_lesions(none, none).f1)
    assert match_lesions(some, none).f1 == match_lesions(none, some).f1 == 0
    assert math.isnan(match_lesions(some, none).sensitivity)
    assert math.isnan(match_lesions(none, some).precision)


def test_counts_of_cases_add_up() -> None:
    assert LesionMatch(1, 2, 1) + LesionMatch(3, 0, 0) == LesionMatch(4, 2, 1)
