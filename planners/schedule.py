"""Time: how many steps a budget of seconds buys, and the recipe of training that makes the most of that many.

A training step is counted as three forward passes (forward, and twice as much backward).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from planners.budget import Budget
from planners.explain import Ledger, duration_text
from planners.plan import TrainingPlan

PASSES_PER_STEP = 3.0
STEPPING_SHARE = 0.85
FULL_STEPS = 250_000
LONG_STEPS = 50_000

# Conservative training throughput where nobody measured: a GPU of 2018 (RTX 2080 Ti trains nnU-Net's Heart plan at 1.4e13),
# a laptop's integrated GPU, and two cores of a CPU in float32 (1.5e11 measured on two Zen 5 cores).
UNMEASURED_RATE = {"cuda": 1e13, "mps": 2e12, "cpu": 1e11}

# Where no time was granted: nobody waits weeks for a CPU. A GPU runs the full published schedule.
UNGRANTED_SECONDS = {"cuda": None, "mps": 48 * 3600.0, "cpu": 24 * 3600.0}

# Width at which arithmetic and memory traffic take equal time (b/a): on two Zen 5 cores in bfloat16 a U-Net of 8 features
# trains at 0.38 of the rate of one of 32.
_PROBED_WIDTH = 32
_TRAFFIC_WIDTH = 38

_HEADROOM = 10
_EPOCHS_SHORT = 40


@dataclass(frozen=True)
class Compute:
    """The floating-point operations that the time allows.

    seconds   wall-clock time of the training loop per fold; None where it is not limited
    rate      operations per second of training
    granted   whether the user named the time
    source    where the rate comes from, in words
    """

    seconds: float | None
    rate: float
    granted: bool
    source: str

    def at_width(self, features: int) -> Compute:
        """The same time at the rate that networks with `features` at their finest stage reach.

        A convolution's arithmetic grows with the square of its width, its memory traffic with the width itself, so the
        time per voxel is a·w² + b·w and the rate proportional to w / (w + b/a). Rates are probed at 32 features.
        """
        share = features / (features + _TRAFFIC_WIDTH) / (_PROBED_WIDTH / (_PROBED_WIDTH + _TRAFFIC_WIDTH))
        return replace(self, rate=self.rate * share)

    def steps(self, step_flops: float) -> float:
        """Steps that the time allows if one forward pass of the batch takes `step_flops`; infinite without a limit."""
        if self.seconds is None:
            return math.inf
        return STEPPING_SHARE * self.seconds * self.rate / (PASSES_PER_STEP * step_flops)

    def step_seconds(self, step_flops: float) -> float:
        """Forecast wall-clock time of one step, its share of validation and waiting included."""
        return PASSES_PER_STEP * step_flops / (self.rate * STEPPING_SHARE)


def compute_of(budget: Budget) -> Compute:
    """The time granted, or the one that is reasonable for the device, at the measured rate or a conservative one."""
    seconds = budget.seconds if budget.seconds is not None else UNGRANTED_SECONDS[budget.device]
    if budget.flops_per_second is not None:
        return Compute(seconds, budget.flops_per_second, budget.seconds is not None, "measured on this machine")
    return Compute(
        seconds, UNMEASURED_RATE[budget.device], budget.seconds is not None, f"a conservative figure for {budget.device}, not measured"
    )


def training(compute: Compute, step_flops: float, ledger: Ledger, *, features: int = _PROBED_WIDTH) -> TrainingPlan:
    """The recipe for as many steps as the time allows, for a network with `features` at its finest stage.

    From 50,000 steps on it is nnU-Net's: SGD with a falling polynomial, at most 1000 epochs of 250 iterations. Below,
    SGD has hardly left its noisy phase when time is up: AdamW (Loshchilov and Hutter 2019) with a linear warm-up and a
    half cosine, and the average of the last steps' weights, converge several times faster.
    """
    steps = compute.steps(step_flops)
    if steps >= LONG_STEPS:
        return _long(compute, steps, step_flops, ledger)
    return _short(compute, max(1, int(steps)), step_flops, ledger, rate=short_rate(features))


def _long(compute: Compute, steps: float, step_flops: float, ledger: Ledger) -> TrainingPlan:
    limited = not compute.granted and steps < FULL_STEPS
    epochs = int(steps / 250) if limited else 1000
    ledger.note("training", "nnU-Net's recipe", f"{LONG_STEPS} steps or more fit; {_forecast(compute, step_flops)}")
    ledger.note("training.optimizer", "nnU-Net's recipe", "SGD with Nesterov momentum 0.99 and weight decay 3e-5")
    ledger.note("training.learning_rate", "nnU-Net's recipe", "0.01 (1 - t)^0.9 over the run")
    ledger.note("training.iterations", "nnU-Net's recipe", "250 steps make an epoch, whatever the number of cases")
    seconds = compute.seconds if compute.granted else None
    why = f"{epochs} epochs of 250 steps" + (f", or until {duration_text(seconds)} are over" if seconds is not None else "")
    ledger.note("training.epochs", "the time decides" if limited else "nnU-Net's recipe", why)
    return TrainingPlan(epochs=epochs, seconds=seconds)


def short_rate(features: int) -> float:
    """AdamW's peak learning rate: 0.001 at 32 features, in inverse proportion to the width, at most 0.004.

    The rate that Adam bears falls as one over the width (Yang et al. 2021, arXiv 2203.03466, table 3).
    """
    return min(4e-3, 1e-3 * _PROBED_WIDTH / features)


def _short(compute: Compute, steps: int, step_flops: float, ledger: Ledger, *, rate: float) -> TrainingPlan:
    iterations = min(250, max(min(10, steps), steps // _EPOCHS_SHORT))
    epochs = max(1, math.ceil(steps / iterations))
    seconds = compute.seconds if compute.granted else None
    bound = epochs if seconds is None else _HEADROOM * epochs
    decay = min(0.999, max(0.9, 1 - 25 / steps))
    why = "were granted" if compute.granted else "are planned where no time is named (--hours changes it)"
    ledger.note(
        "training",
        "recipe for short runs",
        f"{duration_text(compute.seconds or 0)} {why}; {steps} steps fit; {_forecast(compute, step_flops)}",
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
    )


def _forecast(compute: Compute, step_flops: float) -> str:
    return f"a step is forecast at {compute.step_seconds(step_flops):.3g} s ({compute.rate:.3g} FLOP/s, {compute.source})"
