"""Training until more of it promises nothing: a constant rate, a forecast after every epoch, and a fall to zero at the end.

A cosine must know its length beforehand: stopped early, its rate is still high and its weights are noisy. Here the rate
stays up while the forecast hopes, and then falls over a fifth of the steps so far, as 1 - sqrt of the share of the fall
that is done (Hägele et al. 2024, arXiv 2405.18392: such a cooldown reaches what a cosine of the same length does).

The forecast fits mean Dice = a - b·step^-c to the validation of the epochs. The exponent is not chosen: each of a few is
fitted and counts by its evidence, so what they disagree on becomes uncertainty. Where "as expected plus one standard
deviation" of as many steps again stays below half a point of Dice, about what a change of the seed makes, and has done
so for a tenth of the epochs, the fall begins; labels that are hardly found yet are waited for. The curve comes from
patches of held-out cases, so the moment of stopping has seen them. The weights kept are always the last ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg3d.training.state import Progress
from planners.plan import TrainingPlan

FALL_SHARE = 0.2
HORIZON_SHARE = 1.0
WORTHWHILE_DICE = 0.005
# Asked after every epoch, a forecast would be unlucky sooner or later, so it must be the same for some epochs.
_FEWEST_EPOCHS, _FEWEST_STILL = 20, 3
# A label below this Dice is not learnt yet, and is waited for this many steps.
_FOUND_DICE, _PATIENCE_STEPS = 0.2, 10_000
# The beginning of a curve, where labels are found one after the other, follows another law.
_FITTED_FROM = 0.25
_EXPONENTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
_LONGEST_WARMUP_EPOCHS = 2


@dataclass(frozen=True)
class Forecast:
    """What `steps` more at the same rate are expected to add to the mean Dice: `gain`, give or take `deviation`."""

    steps: int
    gain: float
    deviation: float

    @property
    def worthwhile(self) -> bool:
        """Whether it may well be half a point of Dice."""
        return self.gain + self.deviation >= WORTHWHILE_DICE

    def __str__(self) -> str:
        return f"{self.gain:+.3f} ± {self.deviation:.3f}"


def converged(log: Sequence[Mapping[str, Any]]) -> Forecast | None:
    """The forecast after the last epoch, where neither it nor those of the tenth of epochs before hope for more; else None."""
    if _unlearnt(log):
        return None
    found = None
    for left_out in range(max(_FEWEST_STILL, len(log) // 10)):
        earlier = forecast(log[: len(log) - left_out])
        if earlier is None or earlier.worthwhile:
            return None
        found = found or earlier
    return found


def _unlearnt(log: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a label has hardly been found yet: curves lie flat before they rise, and no forecast sees that coming."""
    if not log or log[-1]["step"] >= _PATIENCE_STEPS:
        return False
    recent = log[-_FEWEST_STILL:]
    scores = [[record["dice"][label] for record in recent if record["dice"][label] is not None] for label in log[-1]["dice"]]
    return any(own and max(own) < _FOUND_DICE for own in scores)


def forecast(log: Sequence[Mapping[str, Any]]) -> Forecast | None:
    """What as many steps again would add, from one attempt's log; None where there are too few epochs to tell."""
    scored = [(record["step"], record["mean_dice"]) for record in log if record["mean_dice"] is not None]
    if len(scored) < _FEWEST_EPOCHS:
        return None
    now = scored[-1][0]
    late = [(step, dice) for step, dice in scored if step >= _FITTED_FROM * now]
    more = max(1, round(HORIZON_SHARE * now))
    gain, deviation = _extrapolate(np.array([s for s, _ in late]) / now, np.array([d for _, d in late]), 1 + more / now)
    return Forecast(more, gain, deviation)


def _extrapolate(x: np.ndarray, y: np.ndarray, ahead: float) -> tuple[float, float]:
    """Mean and deviation of the rise from 1 to `ahead` of a - b·x^-c, over exponents weighted by their evidence."""
    gains, variances, evidence = [], [], []
    for exponent in _EXPONENTS:
        design = np.stack((np.ones_like(x), -(x**-exponent)), axis=1)
        inverse = np.linalg.inv(design.T @ design)
        coefficients = inverse @ design.T @ y
        residuals = y - design @ coefficients
        # A curve without any noise is no reason to believe one exponent alone.
        square = max(float(residuals @ residuals), 1e-8 * len(x))
        rise = 1 - ahead**-exponent
        gains.append(float(coefficients[1]) * rise)
        variances.append(square / (len(x) - 2) * float(inverse[1, 1]) * rise**2)
        # Flat in the rise over the epochs seen: flat in b, the flattest law would win by its large b alone.
        evidence.append(-0.5 * (len(x) - 2) * np.log(square))
    weights = np.exp(np.array(evidence) - max(evidence))
    weights /= weights.sum()
    mean = float(weights @ gains)
    spread = float(weights @ (np.array(variances) + (np.array(gains) - mean) ** 2))
    return mean, spread**0.5


def must_fall(t: float) -> bool:
    """Whether the fall must begin at this share of the limit, to be through when the limit comes."""
    return t >= 1 / (1 + FALL_SHARE)


def begin_fall(progress: Progress, t: float) -> None:
    """Notes that the rate falls from here on."""
    progress.fall_from, progress.fall_at = progress.step, t


def fallen(progress: Progress, t: float) -> float:
    """The share of the fall that is done, by steps or by what is left to the limit; 0 before it."""
    if progress.fall_from is None:
        return 0.0
    by_steps = (progress.step - progress.fall_from) / max(1, round(FALL_SHARE * progress.fall_from))
    by_limit = (t - progress.fall_at) / (1 - progress.fall_at) if progress.fall_at < 1 else 1.0
    return min(1.0, max(by_steps, by_limit))


def rate(training: TrainingPlan, progress: Progress, t: float, *, factor: float = 1.0) -> float:
    """The learning rate: up through the warm-up, constant, and down."""
    peak = training.learning_rate * factor
    # The limit may be far beyond the end, so the warm-up is no share of it.
    warmup = min(training.warmup * training.epochs, _LONGEST_WARMUP_EPOCHS) * training.iterations
    if progress.step < warmup:
        return peak * max(progress.step, 0.01 * warmup) / warmup
    return float(peak * (1 - fallen(progress, t) ** 0.5))
