"""How thoroughly a case is predicted, chosen so that it takes about as long as somebody is ready to wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg3d.prediction.predictor import Predictor, Prepared
from autoseg3d.prediction.running import run_members

_TIMED_PASSES = 2


@dataclass(frozen=True)
class Pace:
    """One way to predict: over mirrored copies or not, windows `step` of their size apart, with so many folds (None: all)."""

    mirror: bool
    step: float
    folds: int | None = None

    def __str__(self) -> str:
        mirrored = "mirrored copies" if self.mirror else "no mirrored copies"
        return f"{mirrored}, step {self.step:g}" + (f", {self.folds} fold" if self.folds else "")


# From the most thorough to the fastest.
PACES = (Pace(True, 0.5), Pace(False, 0.5), Pace(False, 0.75), Pace(False, 0.75, folds=1))


def choose_pace(predictors: Sequence[Predictor], prepared: Sequence[Prepared], *, seconds: float) -> tuple[tuple[Predictor, ...], str]:
    """The predictors, changed so that the networks need at most `seconds`, and the choice in words.

    One window is computed twice on every predictor, the second time by the clock; a pace takes as many times that as it
    has windows. A pace is never more thorough than the predictors are. The fastest is taken where none is fast enough.
    """
    per_pass = [_seconds_per_pass(predictor, case) for predictor, case in zip(predictors, prepared, strict=True)]
    told = []
    for pace in PACES:
        changed = tuple(_at(predictor, pace) for predictor in predictors)
        if any(c.mirror > p.mirror or c.step < p.step for c, p in zip(changed, predictors, strict=True)):
            continue
        needed = sum(
            each * predictor.forward_passes(case) * len(predictor.networks)
            for each, predictor, case in zip(per_pass, changed, prepared, strict=True)
        )
        told.append((changed, pace, needed))
        if needed <= seconds:
            break
    changed, pace, needed = told[-1]
    fits = "" if needed <= seconds else ", which is more than asked for: there is no faster way with this model"
    return changed, f"{pace}: {needed:.3g} s of networks forecast{fits}"


def _at(predictor: Predictor, pace: Pace) -> Predictor:
    return predictor.variant(mirror=pace.mirror and predictor.mirror, step=max(pace.step, predictor.step), folds=pace.folds)


def _seconds_per_pass(predictor: Predictor, case: Prepared) -> float:
    """Wall-clock time of one network for one window, not mirrored; the first pass only warms up."""
    single = predictor.variant(mirror=False, step=1.0, folds=1)
    begun = 0.0
    for _ in range(_TIMED_PASSES):
        begun = time.perf_counter()
        run_members([single], [single.middle(case)])
    return time.perf_counter() - begun
