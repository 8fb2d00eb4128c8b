"""Brier score and calibration error: of a coin, of a prophet, and added up from pieces."""

import math

import numpy as np
import pytest

from autoseg3d.metrics import calibration_counts, top_label_counts


def test_a_prophet() -> None:
    event = np.array([True, False, True])
    counts = calibration_counts(event.astype(np.float32), event)
    assert counts.brier == counts.ece == 0


def test_a_coin() -> None:
    counts = calibration_counts(np.full(10, 0.5), np.arange(10) % 2 == 0)
    assert counts.brier == pytest.approx(0.25)
    assert counts.ece == pytest.approx(0)


def test_a_boaster() -> None:
    """Says 0.9 and is right in 6 of 10: off by 0.3."""
    counts = calibration_counts(np.full(10, 0.9), np.arange(10) < 6)
    assert counts.ece == pytest.approx(0.3)
    assert counts.brier == pytest.approx(0.6 * 0.01 + 0.4 * 0.81)


def test_bins() -> None:
    counts = calibration_counts(np.array([0.0, 0.24, 0.25, 0.99, 1.0]), np.array([False, False, True, True, True]), bins=4)
    assert counts.voxels.tolist() == [2, 1, 0, 2]
    assert counts.events.tolist() == [0, 1, 0, 2]
    assert counts.probability == pytest.approx([0.24, 0.25, 0, 1.99])


def test_pieces_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    probability, event = rng.random((6, 5, 4)).astype(np.float32), rng.random((6, 5, 4)) < 0.3
    whole = calibration_counts(probability, event)
    pieces = calibration_counts(probability[:2], event[:2]) + calibration_counts(probability[2:], event[2:])
    assert pieces.ece == pytest.approx(whole.ece)
    assert pieces.brier == pytest.approx(whole.brier)
    with pytest.raises(ValueError, match="bins"):
        _ = whole + calibration_counts(probability, event, bins=3)


def test_honest_probabilities_have_no_calibration_error() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(400_000)
    counts = calibration_counts(probability, rng.random(400_000) < probability)
    assert counts.ece < 0.005
    assert counts.brier == pytest.approx(1 / 6, abs=0.002)


def test_the_winning_class() -> None:
    probabilities = np.array([[0.7, 0.2], [0.2, 0.5], [0.1, 0.3]])
    counts = top_label_counts(probabilities, np.array([0, 2]))
    assert counts.voxels.sum() == 2
    assert counts.ece == pytest.approx((0.3 + 0.5) / 2)


def test_refusals_and_nothing() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibration_counts(np.array([1.2]), np.array([True]))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibration_counts(np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match="shape"):
        calibration_counts(np.zeros(2), np.zeros(3, bool))
    empty = calibration_counts(np.zeros(0), np.zeros(0, bool))
    assert math.isnan(empty.brier)
    assert math.isnan(empty.ece)
