"""compare_scores: two evaluations of the same cases, case by case.

Differences are of the first minus the second. A label that one side rightly leaves out, and the other paints, is
undefined for the first and bad for the second; so that the false alarm counts, rightly absent is taken as perfect there
(Dice 1, distance 0). What is undefined on both sides is left out and what is missing on one side is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from autoseg3d.errors import UsageError
from autoseg3d.evaluation.bootstrap import Interval, interval, resampled_means
from autoseg3d.evaluation.rows import Count, ScoreRow
from autoseg3d.evaluation.scores import Scores
from autoseg3d.evaluation.signed_rank import holm, signed_rank_p
from planners.contract import Contract

Measure = Literal["dice", "iou", "nsd", "lesion_f1", "hd95_mm", "assd_mm", "volume_error_ml"]
PERFECT: Mapping[Measure, float] = {
    "dice": 1, "iou": 1, "nsd": 1, "lesion_f1": 1, "hd95_mm": 0, "assd_mm": 0, "volume_error_ml": 0,
}  # fmt: skip
"""The measures that are compared, and what a perfect prediction has; where that is 0, less is better."""

WORDS: Mapping[Measure, str] = {
    "dice": "Dice", "iou": "IoU", "nsd": "NSD", "lesion_f1": "lesion F1", "hd95_mm": "HD95 mm", "assd_mm": "ASSD mm",
    "volume_error_ml": "volume error mL",
}  # fmt: skip

_CONFIDENCE = 0.95
_RESAMPLES = 10_000
_ENDS = 5
_NAMED = 10


class PairedDifference(Contract):
    """One measure of one label (None: the mean over a case's labels) over paired cases.

    cases              with a value on both sides; `better` of them for the first, `worse`, the others equal
    mean_a, mean_b     over the cases where both are finite; `infinite` counts the others (a missed or invented label)
    difference, low, high   mean of the paired differences, with its 95 % bootstrap interval over cases
    p                  Wilcoxon signed-rank test, two-sided; infinite differences are the largest. None where nothing differs
    p_holm             the same after Holm's correction over the labels of this measure
    """

    measure: Measure
    label_name: str | None
    cases: int = Count
    infinite: int = Count
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None = Field(ge=0, le=1)
    p_holm: float | None = Field(default=None, ge=0, le=1)
    better: int = Count
    worse: int = Count


class CaseDifference(Contract):
    """The mean Dice over the labels of one case on both sides."""

    case: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.a - self.b


class Comparison(Contract):
    """Two evaluations of the same cases.

    overall      mean over labels, by measure
    labels       each label, by measure
    cases        Dice of each paired case, the first side's largest loss first
    only_a, only_b   cases that only one side scored, with the reason where there is one
    notes        what could not be compared
    """

    version: Literal[1] = 1
    name_a: str
    name_b: str
    overall: tuple[PairedDifference, ...]
    labels: tuple[PairedDifference, ...]
    cases: tuple[CaseDifference, ...]
    only_a: dict[str, str]
    only_b: dict[str, str]
    notes: tuple[str, ...] = ()

    def of(self, measure: Measure) -> PairedDifference:
        """The mean over labels of one measure. Raises KeyError where it was not compared."""
        for row in self.overall:
            if row.measure == measure:
                return row
        raise KeyError(measure)

    @property
    def losses_and_gains(self) -> tuple[CaseDifference, ...]:
        """The cases that differ most: up to five of the first side's largest losses, then up to five of its largest gains."""
        ends = self.cases[:_ENDS]
        return (*ends, *self.cases[len(ends) :][-_ENDS:])

    def sentence(self, measure: Measure = "dice") -> str:
        """What a paper would say."""
        row = self.of(measure)
        if row.mean_a is None or row.mean_b is None or row.difference is None:
            return f"No case has a finite {WORDS[measure]} on both sides."
        digits, what = 3 if PERFECT[measure] else 2, WORDS[measure].removesuffix(" mm").removesuffix(" mL")
        unit = WORDS[measure].removeprefix(what)
        means = f"{self.name_a} reached a mean {what} of {row.mean_a:.{digits}f}{unit} and {self.name_b} of {row.mean_b:.{digits}f}{unit}"
        spread = "" if row.low is None else f", 95 % bootstrap interval {row.low:+.{digits}f} to {row.high:+.{digits}f}"
        test = "no case differs" if row.p is None else f"Wilcoxon signed-rank test, {_p_value(row.p)}"
        finite = row.cases - row.infinite
        text = f"On {finite} cases, {means} (mean paired difference {row.difference:+.{digits}f}{spread}; {test})."
        if row.infinite:
            text += f" {row.infinite} cases with an infinite distance are in the test and not in the means."
        if left := len(self.only_a) + len(self.only_b):
            text += f" {left} cases that only one of them scored are left out."
        return text


def compare_scores(a: Scores, b: Scores, *, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Compares two evaluations against the same reference.

    Raises UsageError (E_COMPARE) where they have no case in common or speak of other labels.
    """
    rows_a, rows_b = _by_case(a), _by_case(b)
    cases = sorted(set(rows_a) & set(rows_b))
    labels = tuple(dict.fromkeys(row.label_name for row in a.rows))
    _check(a, b, cases)
    measures, notes = _comparable(a, b)
    overall: list[PairedDifference] = []
    each: list[PairedDifference] = []
    means: dict[Measure, np.ndarray] = {}
    for measure in measures:
        values = np.array([[_pair(rows_a[c].get(name), rows_b[c].get(name), measure) for name in labels] for c in cases])
        means[measure] = _label_mean(values)
        *rows, last = _paired(measure, (*labels, None), np.concatenate([values, means[measure][:, None]], axis=1))
        each += _with_holm(rows)
        overall.append(last)
    found = [CaseDifference(case=case, a=x, b=y) for case, (x, y) in zip(cases, means["dice"], strict=True) if not math.isnan(x)]
    return Comparison(
        name_a=names[0],
        name_b=names[1],
        overall=tuple(overall),
        labels=tuple(each),
        cases=tuple(sorted(found, key=lambda one: (one.difference, one.case))),
        only_a={case: _why(b, case) for case in sorted(set(rows_a) - set(rows_b))},
        only_b={case: _why(a, case) for case in sorted(set(rows_b) - set(rows_a))},
        notes=(*notes, *_by_neither(a, b)),
    )


def _by_neither(a: Scores, b: Scores) -> tuple[str, ...]:
    """A note that names the cases that neither side could be scored on."""
    both = sorted({failure.case for failure in a.failures} & {failure.case for failure in b.failures})
    if not both:
        return ()
    more = f" and {len(both) - _NAMED} more" if len(both) > _NAMED else ""
    return (f"Scored on neither side: {', '.join(both[:_NAMED])}{more}.",)


def _by_case(scores: Scores) -> dict[str, dict[str, ScoreRow]]:
    found: dict[str, dict[str, ScoreRow]] = {}
    for row in scores.rows:
        found.setdefault(row.case, {})[row.label_name] = row
    return found


def _check(a: Scores, b: Scores, cases: Sequence[str]) -> None:
    ours, theirs = ({row.label_name for row in scores.rows} for scores in (a, b))
    if ours != theirs:
        remedy = "Compare label maps with the same reference and labels, or evaluate both anew with --dataset"
        raise UsageError("the two speak of other labels", code="E_COMPARE", wanted=sorted(ours), got=sorted(theirs), remedy=remedy)
    if not cases:
        remedy = "Cases belong together by the names of their files"
        raise UsageError("the two have no case in common", code="E_COMPARE", wanted=a.cases[:3], got=b.cases[:3], remedy=remedy)


def _comparable(a: Scores, b: Scores) -> tuple[list[Measure], tuple[str, ...]]:
    """All measures, without NSD where the two took it at different tolerances, and a note that says so."""
    ours, theirs = (sorted({(row.label_name, row.nsd_tolerance_mm) for row in scores.rows}) for scores in (a, b))
    if ours == theirs:
        return list(PERFECT), ()
    return [measure for measure in PERFECT if measure != "nsd"], ("NSD is not compared: the tolerances differ.",)


def _why(scores: Scores, case: str) -> str:
    """Why the other side did not score a case."""
    return next((failure.message for failure in scores.failures if failure.case == case), "not there")


def _pair(a: ScoreRow | None, b: ScoreRow | None, measure: Measure) -> tuple[float, float]:
    """Both values; NaN on both sides where there is nothing to compare."""
    x, y = (math.nan if row is None else _value(row, measure) for row in (a, b))
    if a is None or b is None or (math.isnan(x) and math.isnan(y)):
        return math.nan, math.nan
    return (PERFECT[measure] if math.isnan(x) else x), (PERFECT[measure] if math.isnan(y) else y)


def _value(row: ScoreRow, measure: Measure) -> float:
    return abs(row.volume_difference_ml) if measure == "volume_error_ml" else row.value(measure)


def _label_mean(values: np.ndarray) -> np.ndarray:
    """(cases, 2) means over labels of (cases, labels, 2), over those that are defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    mean: np.ndarray = np.divide(np.where(defined, values, 0.0).sum(axis=1), count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _paired(measure: Measure, labels: Sequence[str | None], values: np.ndarray) -> list[PairedDifference]:
    """One row per label, of values (cases, labels, 2); all intervals come from the same draws of cases."""
    finite = np.isfinite(values).all(axis=2)
    differences = np.subtract(values[..., 0], values[..., 1], where=finite, out=np.full(finite.shape, np.nan))
    draws = resampled_means(differences, resamples=_RESAMPLES)
    bounds = [interval(draws[:, i], confidence=_CONFIDENCE, cases=int(finite[:, i].sum())) for i in range(len(labels))]
    return [_difference(measure, label, values[:, i], bounds[i]) for i, label in enumerate(labels)]


def _difference(measure: Measure, label: str | None, values: np.ndarray, bounds: Interval) -> PairedDifference:
    """Of values (cases, 2)."""
    values = values[~np.isnan(values).any(axis=1)]
    finite = values[np.isfinite(values).all(axis=1)]
    order = np.where(values[:, 0] == values[:, 1], 0, np.where(values[:, 0] > values[:, 1], 1, -1)) * (1 if PERFECT[measure] else -1)
    mean_a, mean_b = (float(side.mean()) if len(finite) else None for side in finite.T)
    return PairedDifference(
        measure=measure,
        label_name=label,
        cases=len(values),
        infinite=len(values) - len(finite),
        mean_a=mean_a,
        mean_b=mean_b,
        difference=None if mean_a is None or mean_b is None else float((finite[:, 0] - finite[:, 1]).mean()),
        low=bounds[0],
        high=bounds[1],
        p=signed_rank_p(values[:, 0], values[:, 1]),
        better=int((order > 0).sum()),
        worse=int((order < 0).sum()),
    )


def _with_holm(rows: Sequence[PairedDifference]) -> list[PairedDifference]:
    return [row.model_copy(update={"p_holm": p}) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]


def _p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
