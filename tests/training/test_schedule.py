"""Where a run stands, the learning rate there, and how long its epochs are: numbers checked by hand."""

import pytest

from autoseg3d.training.schedule import EpochLength, epoch_length, learning_rate, position
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


def test_epochs_of_counted_runs_do_not_depend_on_speed() -> None:
    assert epoch_length(TrainingPlan(), step_seconds=1, validation_seconds=1) == EpochLength(250, 50)
    slow = epoch_length(COUNTED, step_seconds=100, validation_seconds=90)
    assert slow == epoch_length(COUNTED, step_seconds=0.01, validation_seconds=0.001) == EpochLength(20, 4)
    none = TrainingPlan(validation_iterations=0)
    assert epoch_length(none, step_seconds=1, validation_seconds=1).validation_iterations == 0


def test_timed_runs_have_about_forty_epochs_and_validate_cheaply() -> None:
    length = epoch_length(TIMED, step_seconds=1.7, validation_seconds=0.5)
    assert length == EpochLength(18, 3)  # 30 s per epoch, 1.5 s of it for validation
    for step, validation in ((0.001, 0.0005), (0.1, 0.04), (2.0, 0.8), (60.0, 20.0)):
        length = epoch_length(TIMED, step_seconds=step, validation_seconds=validation)
        assert 1 <= length.iterations <= 250
        assert length.validation_iterations * validation <= 0.0501 * length.iterations * step
    assert epoch_length(TIMED, step_seconds=1.7, validation_seconds=0.5, iterations=5).iterations == 5
