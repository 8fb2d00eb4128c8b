"""How far a run has come, the learning rate there, and how long an epoch is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planners.plan import TrainingPlan

# A timed run is cut into about this many epochs, and validates for at most this share of its time.
_TIMED_EPOCHS = 40
_VALIDATION_SHARE = 0.05
# Counted runs keep nnU-Net's 50 validation batches to 250 steps.
_STEPS_PER_VALIDATION_BATCH = 5


def position(training: TrainingPlan, *, step: int, elapsed: float) -> float:
    """The share of the run that has passed, 0 to 1.

    Counted runs go by steps. Timed runs go by the share of their seconds, or by steps where those run out first: a
    fast machine ends when the recipe's epochs are done.
    """
    by_steps = step / (training.epochs * training.iterations)
    by_time = 0.0 if training.seconds is None else elapsed / training.seconds
    return min(1.0, max(by_steps, by_time))


def learning_rate(training: TrainingPlan, t: float, *, factor: float = 1.0) -> float:
    """The rate at position t: "poly" falls as (1 − t)^0.9, "cosine" climbs through the warm-up, then falls to zero."""
    peak = training.learning_rate * factor
    if t < training.warmup:
        # Half a step in, so that the very first steps of a warm-up learn too.
        return peak * max(t, 0.01 * training.warmup) / training.warmup
    rest = (t - training.warmup) / (1 - training.warmup)
    if training.schedule == "poly":
        return float(peak * (1 - rest) ** 0.9)
    return float(peak * 0.5 * (1 + math.cos(math.pi * rest)))


@dataclass(frozen=True)
class EpochLength:
    """Training steps and validation batches of one epoch."""

    iterations: int
    validation_iterations: int


def epoch_length(training: TrainingPlan, *, step_seconds: float, validation_seconds: float, iterations: int | None = None) -> EpochLength:
    """How long an epoch is, given the measured seconds of one training step and of one validation batch.

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
