"""How long an epoch is and how far a run comes, given the seconds of a step: one arithmetic for plans and for running trainings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planners.plan import TrainingPlan

# A timed run is cut into about this many epochs, and validates for at most this share of its time.
_TIMED_EPOCHS = 40
_VALIDATION_SHARE = 0.05
# Counted runs keep nnU-Net's 50 validation batches to 250 steps.
_STEPS_PER_VALIDATION_BATCH = 5


@dataclass(frozen=True)
class EpochLength:
    """Training steps and validation batches of one epoch."""

    iterations: int
    validation_iterations: int


@dataclass(frozen=True)
class RunLength:
    """A whole training loop with its online validation.

    steps          training steps in all; for a timed run as many as will fit
    epoch_seconds  one epoch
    seconds        the loop
    """

    steps: int
    epoch_seconds: float
    seconds: float


def epoch_length(training: TrainingPlan, *, step_seconds: float, validation_seconds: float, iterations: int | None = None) -> EpochLength:
    """How long an epoch is, given the seconds of one training step and of one validation batch.

    Counted runs take the plan's iterations, and validation batches in nnU-Net's proportion: no measured time enters,
    so that the run can be repeated exactly. Timed runs are cut into about 40 epochs, longer where validating a single
    batch would cost more than 5 % of one, never longer than the plan's, unless `iterations` says how long.
    """
    if training.seconds is None:
        wanted = max(1, round(training.iterations / _STEPS_PER_VALIDATION_BATCH))
        return EpochLength(training.iterations, min(training.validation_iterations, wanted))
    if iterations is None:
        by_time = round(training.seconds / _TIMED_EPOCHS / step_seconds)
        by_validation = math.ceil(validation_seconds / (_VALIDATION_SHARE * step_seconds))
        iterations = min(training.iterations, max(1, by_time, by_validation))
    affordable = int(_VALIDATION_SHARE * iterations * step_seconds / validation_seconds)
    return EpochLength(iterations, min(training.validation_iterations, max(1, affordable)))


def run_length(training: TrainingPlan, length: EpochLength, *, step_seconds: float, validation_seconds: float) -> RunLength:
    """How far a run with epochs of this length comes: all its steps, or as many as its seconds hold."""
    per_epoch = length.iterations * step_seconds + length.validation_iterations * validation_seconds
    steps = training.epochs * training.iterations
    seconds = math.ceil(steps / length.iterations) * per_epoch
    if training.seconds is not None and seconds > training.seconds:
        seconds, steps = training.seconds, int(training.seconds / per_epoch * length.iterations)
    return RunLength(steps, per_epoch, seconds)
