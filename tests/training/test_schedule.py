"""Where a run stands and the learning rate there: numbers checked by hand."""

import pytest

from autoseg3d.training.schedule import learning_rate, position
from planners.plan import TrainingPlan

COUNTED = TrainingPlan(epochs=10, iterations=20)
TIMED = TrainingPlan(seconds=1200.0)


def test_counted_runs_go_by_steps_alone() -> None:
    assert position(COUNTED, step=0, elapsed=1e6) == 0
    assert position(COUNTED, step=50, elapsed=0) == 0.25
    assert position(COUNTED, step=300, elapsed=0) == 1


def test_timed_runs_go_by_time_until_the_steps_run_out() -> None:
    assert position(TIMED, step=10, elapsed=300) == 0.25
    assert position(TIMED, step=125_000, elapsed=300) == 0.5
    assert position(TIMED, step=10, elapsed=2400) == 1


def test_poly_is_nnunets() -> None:
    for epoch in (0, 1, 500, 999):
        assert learning_rate(TrainingPlan(), epoch / 1000) == pytest.approx(0.01 * (1 - epoch / 1000) ** 0.9, rel=1e-12)
    assert learning_rate(TrainingPlan(), 1.0) == 0
    assert learning_rate(TrainingPlan(), 0.0, factor=0.2) == pytest.approx(0.002)


def test_cosine_warms_up_and_falls_to_zero() -> None:
    training = TrainingPlan(schedule="cosine", warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(training, t) for t in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.5, 0.0], abs=1e-12)
