"""Selection: what was chosen from out-of-fold predictions after training, on what grounds, and how well that does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from planners.contract import Contract
from planners.postprocessing import Postprocessing

Dice = Field(default=None, ge=0, le=1)


class LabelEstimate(Contract):
    """Mean Dice of one label over the cases where it is defined, with its 95 % bootstrap interval over cases."""

    label_name: str
    cases: int = Field(ge=0)
    dice: float | None = Dice
    low: float | None = Dice
    high: float | None = Dice


class Estimate(Contract):
    """Dice over cases that the networks had not seen: the mean of the labels' means with its interval, and each label's."""

    cases: int = Field(ge=0)
    dice: float | None = Dice
    low: float | None = Dice
    high: float | None = Dice
    labels: tuple[LabelEstimate, ...]


class Candidate(Contract):
    """One thing that was tried against what had been chosen before it.

    kind      configuration, ensemble or postprocessing
    gain      mean difference of the case score, with the interval (low, high) that decided
    level     confidence of that interval: 95 %, divided among the candidates that were tried in the same round
    taken     whether it was taken: the best of its round, and `low` above 0
    """

    kind: Literal["configuration", "ensemble", "postprocessing"]
    name: str
    gain: float
    low: float
    high: float
    level: float = Field(gt=0, lt=1)
    taken: bool


class Selection(Contract):
    """What `autoseg3d select` chose.

    configurations  whose prediction is taken; fused by the mean of their probabilities, where there are several
    postprocessing  what is applied to it
    folds           of each configuration, whose held-out cases were looked at
    cases           ids of the cases that all configurations predicted out of fold
    left_out        ids of held-out cases that some configuration did not predict
    plain           the default configuration without postprocessing
    chosen          the choice on the cases it was made on: too good, since tuned on them
    nested          each part of the cases scored by the choice made on the other parts: the figure to report
    nested_choices  what was chosen without each part, in words
    candidates      all that was tried, in order
    choice          what was chosen, in words
    """

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...] = Field(min_length=1)
    postprocessing: Postprocessing
    folds: dict[str, tuple[str, ...]]
    cases: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    plain: Estimate
    chosen: Estimate
    nested: Estimate
    nested_choices: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    choice: str
    rule: str
