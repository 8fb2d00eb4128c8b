"""Pooled intensity statistics against nnU-Net's way: the same number of voxels drawn from every case."""

import numpy as np
import pytest

from autoseg3d.fingerprinting.intensities import GRID, SAMPLE, IntensitySketch, pooled, quantiles, sketch


def sketches(*cases: np.ndarray) -> list[IntensitySketch]:
    found = [sketch(case.astype(np.float32)) for case in cases]
    return [one for one in found if one is not None]


def test_one_case_by_hand() -> None:
    statistics = pooled(sketches(np.arange(1001)))
    assert (statistics.mean, statistics.median, statistics.min, statistics.max) == (500, 500, 0, 1000)
    assert statistics.std == pytest.approx(np.arange(1001).std())
    assert statistics.percentile_00_5 == pytest.approx(5, abs=0.3)
    assert statistics.percentile_99_5 == pytest.approx(995, abs=0.3)


def test_every_case_weighs_the_same_whatever_its_number_of_voxels() -> None:
    statistics = pooled(sketches(np.zeros(100_000), np.full(10, 4.0)))
    assert statistics.mean == 2
    assert statistics.std == 2
    assert (statistics.percentile_00_5, statistics.percentile_99_5) == (0, 4)


def test_equals_a_large_drawn_sample_within_its_noise() -> None:
    rng = np.random.default_rng(0)
    cases = [rng.gamma(2, 100, 5000), rng.normal(300, 20, 800), rng.integers(0, 60, 20_000), rng.normal(-50, 5, 37)]
    drawn = np.concatenate([rng.choice(case, 250_000, replace=True) for case in cases])
    statistics = pooled(sketches(*cases))
    low, median, high = np.percentile(drawn, (0.5, 50, 99.5))
    span = high - low
    assert abs(statistics.mean - drawn.mean()) < 2e-3 * span
    assert abs(statistics.std - drawn.std()) < 2e-3 * span
    assert abs(statistics.percentile_00_5 - low) < 5e-3 * span
    assert abs(statistics.median - median) < 5e-3 * span
    assert abs(statistics.percentile_99_5 - high) < 5e-3 * span
    assert (statistics.min, statistics.max) == (pytest.approx(drawn.min(), abs=1), pytest.approx(drawn.max(), abs=1))


def test_large_cases_are_thinned_for_quantiles_only() -> None:
    values = np.random.default_rng(1).normal(size=SAMPLE + 500_000).astype(np.float32)
    values[7] = 99
    (one,) = sketches(values)
    assert one.voxels == len(values)
    assert one.max == 99
    assert one.quantile(0.5) == pytest.approx(0, abs=0.01)
    assert one.quantile(0.005) == pytest.approx(-2.576, abs=0.03)


def test_a_case_without_foreground_adds_nothing_and_none_at_all_is_refused() -> None:
    assert sketch(np.empty(0, dtype=np.float32)) is None
    with pytest.raises(ValueError, match="no case"):
        pooled([])


def test_a_sketch_survives_its_file_form() -> None:
    (one,) = sketches(np.random.default_rng(2).normal(size=1000))
    again = IntensitySketch.model_validate_json(one.model_dump_json())
    assert again == one
    assert np.array_equal(again.curve(), one.curve())
    assert len(one.curve()) == len(GRID)


def test_quantiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(3).normal(size=333).astype(np.float32)
    for n in (1, 2, 333):
        assert quantiles(values[:n], GRID) == pytest.approx(np.quantile(values[:n].astype(np.float64), GRID), abs=1e-6)
