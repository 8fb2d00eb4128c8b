"""How long epochs are and how far a run comes: numbers checked by hand."""

import pytest

from planners.epochs import EpochLength, epoch_length, run_length
from planners.plan import TrainingPlan

COUNTED = TrainingPlan(epochs=10, iterations=20)
TIMED = TrainingPlan(seconds=1200.0)


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


def test_a_counted_run_takes_all_its_steps() -> None:
    run = run_length(COUNTED, EpochLength(20, 4), step_seconds=2.0, validation_seconds=0.5)
    assert (run.steps, run.epoch_seconds, run.seconds) == (200, 42.0, 420.0)


def test_a_timed_run_ends_with_its_time_or_its_steps() -> None:
    run = run_length(TIMED, EpochLength(10, 2), step_seconds=2.0, validation_seconds=1.0)
    assert (run.steps, run.seconds) == (int(1200 / 22 * 10), 1200.0)
    few = run_length(TIMED.model_copy(update={"epochs": 1}), EpochLength(10, 2), step_seconds=2.0, validation_seconds=1.0)
    assert few.steps == 250
    assert few.seconds == pytest.approx(25 * 22)
