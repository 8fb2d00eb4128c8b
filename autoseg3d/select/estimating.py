"""Dice with intervals over cases: of a choice on the cases it was made on, and nested, on cases it was not made on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autoseg3d.evaluation.bootstrap import interval, label_means, resampled_means
from autoseg3d.package import Estimate, LabelEstimate
from autoseg3d.select.choosing import Choice, Members, choose, dice_after
from autoseg3d.select.parts import CaseParts
from planners.labels import LabelTable

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_PARTS = 5


def estimate(dice: np.ndarray, labels: LabelTable) -> Estimate:
    """The Estimate of Dice (cases, labels), NaN where undefined; the label mean is the mean of the labels' means."""
    means, draws = label_means(dice), resampled_means(dice, resamples=_RESAMPLES)
    defined = np.isfinite(dice)
    rows = []
    for i, label in enumerate(labels.labels):
        cases = int(defined[:, i].sum())
        low, high = interval(draws[:, i], confidence=_CONFIDENCE, cases=cases)
        rows.append(LabelEstimate(label_name=label.name, cases=cases, dice=_number(means[i]), low=low, high=high))
    low, high = interval(label_means(draws.T), confidence=_CONFIDENCE, cases=int(defined.any(axis=1).sum()))
    return Estimate(cases=len(dice), dice=_number(label_means(means[:, None])[0]), low=low, high=high, labels=tuple(rows))


def dice_of(choice: Choice, cases: Mapping[Members, Sequence[CaseParts]], labels: LabelTable) -> np.ndarray:
    """Dice (cases, labels) of a choice."""
    return np.array([dice_after(case, choice.steps, labels) for case in cases[choice.members]]).reshape(-1, len(labels.labels))


def nested_dice(
    cases: Mapping[Members, Sequence[CaseParts]], parts: Sequence[Sequence[int]], *, default: Members, labels: LabelTable
) -> tuple[np.ndarray, tuple[Choice, ...]]:
    """Dice (cases, labels) where each part of the cases is scored by the choice made on the other parts, and these choices."""
    dice = np.full((len(cases[default]), len(labels.labels)), np.nan)
    choices = []
    for part in parts:
        held_out = set(part)
        choices.append(choose(_subset(cases, [i for i in range(len(dice)) if i not in held_out]), default=default, labels=labels))
        dice[list(part)] = dice_of(choices[-1], _subset(cases, part), labels)
    return dice, tuple(choices)


def parts_of(folds: Sequence[str], groups: Sequence[str]) -> list[list[int]]:
    """The parts for nesting, as numbers of cases, given each case's fold and group (a patient; the case itself where it is alone).

    The folds, where there are three or more; else fifths, a group always in one of them.
    """
    names = sorted(set(folds))
    if len(names) >= 3:
        return [[i for i, fold in enumerate(folds) if fold == name] for name in names]
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    fifths = [[i for i, group in enumerate(groups) if order[group] % _PARTS == rest] for rest in range(_PARTS)]
    return [part for part in fifths if part]


def _subset(cases: Mapping[Members, Sequence[CaseParts]], indices: Sequence[int]) -> dict[Members, list[CaseParts]]:
    return {members: [held[i] for i in indices] for members, held in cases.items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
