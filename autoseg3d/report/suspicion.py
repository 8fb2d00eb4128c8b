"""suspects: cases whose labels a person should look at again, since a model that never saw them disagrees more than usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg3d.evaluation import ScoreRow

# What is usual is the median; how far is unusual, 1.4826 × the median absolute deviation, but never less than this in Dice,
# so that labels on which all cases agree to a hair do not make suspects of nothing.
_LEAST_SPREAD = 0.02


@dataclass(frozen=True)
class Suspect:
    """A case with the label that speaks most against it.

    score   how far its disagreement lies above the usual one of that label, in robust standard deviations
    dice    of that label in this case; `usual_dice` its median over all cases
    """

    case: str
    score: float
    label: str
    dice: float
    usual_dice: float


def suspects(rows: Sequence[ScoreRow]) -> tuple[Suspect, ...]:
    """All cases, most suspicious first.

    Args:
        rows: scores of predictions by models that were not trained on the cases they predict. A label that neither map
            holds is agreement; one that only one of them holds is the largest disagreement.

    Each label is judged against the same label in all other cases, so that small or difficult ones do not crowd out the
    rest; a case stands by its worst label.
    """
    worst: dict[str, Suspect] = {}
    for name in dict.fromkeys(row.label_name for row in rows):
        own = [row for row in rows if row.label_name == name]
        dices = np.array([1.0 if row.dice is None else row.dice for row in own])
        usual = float(np.median(dices))
        spread = max(1.4826 * float(np.median(np.abs(dices - usual))), _LEAST_SPREAD)
        for row, dice in zip(own, dices, strict=True):
            found = Suspect(row.case, float((usual - dice) / spread), name, float(dice), usual)
            if row.case not in worst or found.score > worst[row.case].score:
                worst[row.case] = found
    return tuple(sorted(worst.values(), key=lambda suspect: (-suspect.score, suspect.case)))
