"""How far a run has come, and the learning rate there."""

from __future__ import annotations

import math

from planners.plan import TrainingPlan


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
