"""choose: which configuration or ensemble, and which postprocessing, gains more than noise.

The rule. What is there first is the default configuration as it is. Then come rounds: other configurations; ensembles;
steps on all labels together; steps on each label in turn. In each round the candidate with the largest mean gain is taken
if the gain is above 0 with confidence: the bootstrap interval of the paired difference over cases, at 95 % divided among
the round's candidates (Bonferroni), lies above 0. A gain that rests on one or two cases never passes. A step that lowers
the mean of any label is not taken.

What is compared is a case's mean Dice over the labels, where a label that is in neither map counts as 1: removing a
false alarm where there is nothing is a gain. nnU-Net takes for comparison the best mean however small the lead, and of
steps only the largest component: of all labels where the mean rises and no label falls, then of each where its Dice rises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoseg3d.evaluation.bootstrap import interval, resampled_means
from autoseg3d.package import Candidate
from autoseg3d.select.candidates import Step, foreground_steps, label_steps
from autoseg3d.select.parts import CaseParts
from planners.labels import LabelTable

Members = tuple[str, ...]
"""Names of the configurations of a prediction: one, or several fused."""

Kind = Literal["configuration", "ensemble", "postprocessing"]

RULE = (
    "best mean gain of its round, and the bootstrap interval of the paired gain over cases above 0 "
    "(95 %, divided among the candidates of the round), and no label lowered by a step; case score: mean Dice over labels, 1 where a "
    "label is rightly absent"
)
_CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Choice:
    """What was chosen, and all that was tried."""

    members: Members
    steps: tuple[Step, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    def sentence(self, labels: LabelTable) -> str:
        """The choice in words."""
        steps = [step.sentence(labels) for step in self.steps] or ["nothing is removed"]
        return "; ".join([" + ".join(self.members), *steps])


def choose(cases: Mapping[Members, Sequence[CaseParts]], *, default: Members, labels: LabelTable) -> Choice:
    """Chooses on the given cases.

    Args:
        cases: for each configuration or ensemble the same cases in the same order.
        default: what is taken where nothing is better.
        labels: the label table.
    """
    alone = [members for members in cases if len(members) == 1 and members != default]
    fused = [members for members in cases if len(members) > 1]
    choice = _best_members(Choice(default), alone, cases, "configuration")
    choice = _best_members(choice, fused, cases, "ensemble")
    return _with_steps(choice, cases[choice.members], labels)


def dice_after(case: CaseParts, steps: Sequence[Step], labels: LabelTable) -> np.ndarray:
    """Dice of each label (L,) of a case after the steps, NaN where undefined."""
    return case.dice(kept_after(case, steps, labels))


def kept_after(case: CaseParts, steps: Sequence[Step], labels: LabelTable) -> np.ndarray:
    """The parts (P,) of a case that the steps leave."""
    kept = case.all_parts()
    for step in steps:
        kept = _apply(case, step, kept, labels)
    return kept


def _apply(case: CaseParts, step: Step, kept: np.ndarray, labels: LabelTable) -> np.ndarray:
    if set(step.values) == set(labels.values):
        return case.after_foreground(step, kept)
    index = next(i for i, label in enumerate(labels.labels) if set(label.values) == set(step.values))
    return case.after_label(step, index, kept)


def _best_members(choice: Choice, rivals: Sequence[Members], cases: Mapping[Members, Sequence[CaseParts]], kind: Kind) -> Choice:
    if not rivals:
        return choice
    now = _plain_scores(cases[choice.members])
    gains = np.stack([_plain_scores(cases[members]) - now for members in rivals], axis=1)
    best, tried = _round([" + ".join(members) for members in rivals], gains, kind)
    return Choice(choice.members if best is None else rivals[best], candidates=(*choice.candidates, *tried))


def _with_steps(choice: Choice, cases: Sequence[CaseParts], labels: LabelTable) -> Choice:
    kept = [case.all_parts() for case in cases]
    rounds: list[Sequence[Step]] = [list(foreground_steps(cases, labels))]
    if len(labels.labels) > 1 and not labels.has_regions:
        rounds += [list(label_steps(cases, labels, index)) for index in range(len(labels.labels))]
    steps, candidates = choice.steps, choice.candidates
    for tried in rounds:
        now = _filled([case.dice(k) for case, k in zip(cases, kept, strict=True)])
        left = [[_apply(case, step, k, labels) for case, k in zip(cases, kept, strict=True)] for step in tried]
        after = [_filled([case.dice(k) for case, k in zip(cases, ks, strict=True)]) for ks in left]
        gains = np.stack([dice - now for dice in after], axis=-1)
        unharmed = (gains.mean(axis=0) >= 0).all(axis=0)
        names = [step.sentence(labels) for step in tried]
        best, records = _round(names, gains.mean(axis=1), "postprocessing", allowed=unharmed)
        candidates = (*candidates, *records)
        if best is not None:
            steps, kept = (*steps, tried[best]), left[best]
    return Choice(choice.members, steps, candidates)


def _round(
    names: Sequence[str],
    gains: np.ndarray,
    kind: Kind,
    *,
    allowed: np.ndarray | None = None,
) -> tuple[int | None, list[Candidate]]:
    """The number of the candidate that is taken, None for none, and a record of each; gains are (cases, candidates)."""
    level = 1 - (1 - _CONFIDENCE) / len(names)
    means, draws = gains.mean(axis=0), resampled_means(gains, resamples=_RESAMPLES)
    bounds = [interval(draws[:, i], confidence=level, cases=len(gains)) for i in range(len(names))]
    best = int(means.argmax() if allowed is None else np.where(allowed, means, -np.inf).argmax())
    low = bounds[best][0]
    taken = best if low is not None and low > 0 and (allowed is None or allowed[best]) else None
    records = [
        Candidate(kind=kind, name=name, gain=float(mean), low=low or 0.0, high=high or 0.0, level=level, taken=i == taken)
        for i, (name, mean, (low, high)) in enumerate(zip(names, means, bounds, strict=True))
    ]
    return taken, records


def _plain_scores(cases: Sequence[CaseParts]) -> np.ndarray:
    """The mean Dice over labels of each case, without postprocessing."""
    scores: np.ndarray = _filled([case.dice(case.all_parts()) for case in cases]).mean(axis=1)
    return scores


def _filled(dice: Sequence[np.ndarray]) -> np.ndarray:
    """Dice (cases, labels), 1 for a label that is in neither map."""
    values = np.stack(dice)
    return np.where(np.isnan(values), 1.0, values)
