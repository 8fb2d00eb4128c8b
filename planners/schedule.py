"""Time: how many steps a budget of seconds buys, and the recipe of training that makes the most of that many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from planners.budget import Budget
from planners.explain import Ledger, duration_text
from planners.plan import TrainingPlan
from planners.speed import Speed, Work

# Of a run's time, logs, curves, saved states and waiting for patches take about 2 %; of the rest, online validation up to 5 %.
LOOP_SHARE = 0.98
STEPPING_SHARE = 0.95 * LOOP_SHARE
FULL_STEPS = 250_000
LONG_STEPS = 50_000

# Conservative speeds where nobody measured: a GPU of 2018, a laptop's integrated GPU, two cores of a CPU in float32.
UNMEASURED = {
    "cuda": Speed(
        flops_per_second=2e13, bytes_per_second=4e11, overhead_seconds=0.03, source="a conservative figure for cuda, not measured"
    ),
    "mps": Speed(flops_per_second=4e12, bytes_per_second=8e10, overhead_seconds=0.03, source="a conservative figure for mps, not measured"),
    "cpu": Speed(flops_per_second=2e11, bytes_per_second=1e10, source="a conservative figure for cpu, not measured"),
}

# Where no time was granted: nobody waits weeks for a CPU. A GPU runs the full published schedule.
UNGRANTED_SECONDS = {"cuda": None, "mps": 48 * 3600.0, "cpu": 24 * 3600.0}

# The width at which the recipe's learning rate was published, and the highest rate that short runs are trusted with.
_USUAL_WIDTH = 32
_HIGHEST_RATE = 2e-3

_HEADROOM = 10
_EPOCHS_SHORT = 40


@dataclass(frozen=True)
class Compute:
    """The training steps that the time allows.

    seconds   wall-clock time of the training loop per fold; None where it is not limited
    speed     of the device
    granted   whether the user named the time
    """

    seconds: float | None
    speed: Speed
    granted: bool

    def step_seconds(self, work: Work) -> float:
        """Forecast wall-clock time of one step, its share of validation and of all else in the loop included."""
        return self.speed.step_seconds(work) / STEPPING_SHARE

    def steps(self, work: Work) -> float:
        """Steps of this work that the time allows; infinite without a limit."""
        return math.inf if self.seconds is None else self.seconds / self.step_seconds(work)

    def most_batch(self, seconds: float, work: Callable[[int], Work]) -> int:
        """The largest batch whose step takes at most `seconds`, given the work of a batch; 0 where not even one does."""
        one, two = (self.step_seconds(work(batch)) for batch in (1, 2))
        return max(0, 1 + math.floor((seconds - one) / (two - one)))


def compute_of(budget: Budget) -> Compute:
    """The time granted, or the one that is reasonable for the device, at the measured speed or a conservative one."""
    seconds = budget.seconds if budget.seconds is not None else UNGRANTED_SECONDS[budget.device]
    return Compute(seconds, budget.speed or UNMEASURED[budget.device], budget.seconds is not None)


def training(compute: Compute, work: Work, ledger: Ledger, *, features: int = _USUAL_WIDTH) -> TrainingPlan:
    """The recipe for as many steps as the time allows, for a network with `features` at its finest stage.

    From 50,000 steps on it is nnU-Net's: SGD with a falling polynomial, at most 1000 epochs of 250 iterations. Below,
    SGD has hardly left its noisy phase when time is up: AdamW (Loshchilov and Hutter 2019) with a linear warm-up and a
    half cosine, and the average of the last steps' weights, converge several times faster.
    """
    steps = compute.steps(work)
    why = "the log of how often each class stands in training patches, so that the first steps are not spent on learning that"
    ledger.note("training.first_bias", "bias from frequencies", why)
    if steps >= LONG_STEPS:
        return _long(compute, steps, work, ledger)
    return _short(compute, max(1, int(steps)), work, ledger, rate=short_rate(features))


def _long(compute: Compute, steps: float, work: Work, ledger: Ledger) -> TrainingPlan:
    limited = not compute.granted and steps < FULL_STEPS
    epochs = int(steps / 250) if limited else 1000
    ledger.note("training", "nnU-Net's recipe", f"{LONG_STEPS} steps or more fit; {_forecast(compute, work)}")
    ledger.note("training.optimizer", "nnU-Net's recipe", "SGD with Nesterov momentum 0.99 and weight decay 3e-5")
    ledger.note("training.learning_rate", "nnU-Net's recipe", "0.01 (1 - t)^0.9 over the run")
    ledger.note("training.iterations", "nnU-Net's recipe", "250 steps make an epoch, whatever the number of cases")
    seconds = compute.seconds if compute.granted else None
    why = f"{epochs} epochs of 250 steps" + (f", or until {duration_text(seconds)} are over" if seconds is not None else "")
    ledger.note("training.epochs", "the time decides" if limited else "nnU-Net's recipe", why)
    return TrainingPlan(epochs=epochs, seconds=seconds, first_bias="frequencies")


def short_rate(features: int) -> float:
    """AdamW's peak learning rate: 0.001 at 32 features, in inverse proportion to the width, at most 0.002.

    The rate that Adam bears falls as one over the width (Yang et al. 2021, arXiv 2203.03466, table 3). It does not rise
    without end as networks get narrow: docs/decisions/short-runs.md.
    """
    return min(_HIGHEST_RATE, 1e-3 * _USUAL_WIDTH / features)


def _short(compute: Compute, steps: int, work: Work, ledger: Ledger, *, rate: float) -> TrainingPlan:
    iterations = min(250, max(min(10, steps), steps // _EPOCHS_SHORT))
    epochs = max(1, math.ceil(steps / iterations))
    seconds = compute.seconds if compute.granted else None
    bound = epochs if seconds is None else _HEADROOM * epochs
    decay = min(0.999, max(0.9, 1 - 25 / steps))
    why = "were granted" if compute.granted else "are planned where no time is named (--hours changes it)"
    ledger.note(
        "training",
        "recipe for short runs",
        f"{duration_text(compute.seconds or 0)} {why}; {steps} steps fit; {_forecast(compute, work)}",
    )
    few = f"with fewer than {LONG_STEPS} steps AdamW converges several times faster than SGD"
    ledger.note("training.optimizer", "recipe for short runs", few)
    ledger.note(
        "training.learning_rate",
        "recipe for short runs",
        f"{rate:.2g} for this width (0.001 at 32 features) after a warm-up over 5 % of the run, then half a cosine down to zero",
    )
    ledger.note("training.schedule", "recipe for short runs", "the rate reaches zero when the time is up")
    ledger.note(
        "training.iterations", "about forty epochs", f"{iterations} steps an epoch, so that progress shows in about {epochs} epochs"
    )
    limit = f"{epochs} epochs are expected" + (
        "" if seconds is None else f"; the clock ends the run, {bound} epochs are only an upper bound"
    )
    ledger.note("training.epochs", "the time decides", limit)
    ledger.note("training.ema_decay", "average over the last 4 % of the steps", f"1 - 25 / {steps}, within 0.9 and 0.999")
    return TrainingPlan(
        epochs=bound,
        iterations=iterations,
        validation_iterations=max(1, iterations // 10),
        seconds=seconds,
        optimizer="adamw",
        learning_rate=rate,
        momentum=0.9,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=0.05,
        ema_decay=round(decay, 5),
        first_bias="frequencies",
    )


def _forecast(compute: Compute, work: Work) -> str:
    return f"a step is forecast at {compute.step_seconds(work):.3g} s, validation included ({compute.speed})"
