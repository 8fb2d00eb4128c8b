"""Means, medians and confidence intervals over the cases of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from autoseg3d.evaluation.bootstrap import SEED, Interval, interval, label_means, resampled_means
from autoseg3d.evaluation.rows import MEASURES, Count, ScoreRow
from planners.contract import Contract

_FOREGROUND = ("dice", "iou", "nsd")


class MeasureSummary(Contract):
    """One measure over cases.

    n         cases with a finite value: mean, std, low and high are over these
    infinite  cases in which exactly one mask was empty (distances only)
    mean, std (of a sample, n - 1), low, high: bootstrap confidence interval of the mean
    median    over the finite and the infinite cases, infinite ones largest; None where it is infinite
    lowest, highest: over the finite cases

    None stands for what cannot be computed: a mean of no case, a std or an interval of one.
    """

    n: int = Count
    infinite: int = Count
    mean: float | None
    median: float | None
    std: float | None
    lowest: float | None
    highest: float | None
    low: float | None
    high: float | None


class LabelSummary(Contract):
    """One label over cases.

    cases         cases scored
    present       cases whose reference has the label
    missed        of these, cases whose prediction has none of it
    false_alarms  cases whose prediction has it while the reference has not
    measures      by name, those of MEASURES
    """

    label: int = Field(ge=1)
    label_name: str
    cases: int = Count
    present: int = Count
    missed: int = Count
    false_alarms: int = Count
    measures: dict[str, MeasureSummary]


class Summary(Contract):
    """All labels over cases.

    foreground      for Dice, IoU and NSD: the mean of the labels' means, as nnU-Net defines its foreground mean; n, std
                    and the extremes are over labels. Labels that no case has, in reference or prediction, are left
                    out and named (nnU-Net: the mean is NaN).
    absent_labels   those names
    confidence, resamples, seed: of the percentile bootstrap over cases, which are drawn whole, with all their labels
    """

    cases: int = Count
    labels: tuple[LabelSummary, ...]
    foreground: dict[str, MeasureSummary]
    absent_labels: tuple[str, ...]
    confidence: float = Field(gt=0, lt=1)
    resamples: int = Field(ge=1)
    seed: int = Count

    @property
    def foreground_dice(self) -> float | None:
        """The foreground mean of Dice; None where no label was ever present."""
        return self.foreground["dice"].mean

    def label(self, name: str) -> LabelSummary:
        """The summary of the label called `name`. Raises KeyError."""
        for label in self.labels:
            if label.label_name == name:
                return label
        raise KeyError(name)


def summarise(rows: Sequence[ScoreRow], *, confidence: float = 0.95, resamples: int = 2000, seed: int = SEED) -> Summary:
    """Summarises rows over cases.

    The intervals of the means are percentile bootstrap intervals over cases (Efron 1979): cases are drawn with
    replacement, whole, so that all labels and the foreground mean come from the same draws. The same rows, in any
    order of cases, give the same numbers.

    Raises ValueError where a case has two rows for one label.
    """
    cases = sorted({row.case for row in rows})
    labels = list(dict.fromkeys((row.label, row.label_name) for row in rows))
    values = _table(rows, cases, labels)
    means = resampled_means(values, resamples=resamples, seed=seed)
    summaries = tuple(
        _label_summary([row for row in rows if row.label_name == name], values[:, i], means[:, i], confidence)
        for i, (_, name) in enumerate(labels)
    )
    return Summary(
        cases=len(cases),
        labels=summaries,
        foreground={m: _foreground(values[:, :, k], means[:, :, k], confidence) for k, m in enumerate(MEASURES) if m in _FOREGROUND},
        absent_labels=tuple(s.label_name for s in summaries if not s.measures["dice"].n),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def _table(rows: Sequence[ScoreRow], cases: list[str], labels: list[tuple[int, str]]) -> np.ndarray:
    """The values (case, label, measure); NaN where undefined or where a case has no row for a label."""
    case_index = {case: i for i, case in enumerate(cases)}
    label_index = {name: i for i, (_, name) in enumerate(labels)}
    table = np.full((len(cases), len(labels), len(MEASURES)), np.nan)
    seen = set()
    for row in rows:
        place = (case_index[row.case], label_index[row.label_name])
        if place in seen:
            raise ValueError(f"case '{row.case}' has two rows for label '{row.label_name}'")
        seen.add(place)
        table[place] = [row.value(measure) for measure in MEASURES]
    return table


def _label_summary(rows: Sequence[ScoreRow], values: np.ndarray, means: np.ndarray, confidence: float) -> LabelSummary:
    """Of one label's rows, with its values (case, measure) and the means of the draws (draws, measure)."""
    measures = {}
    for k, measure in enumerate(MEASURES):
        cases = int(np.isfinite(values[:, k]).sum())
        measures[measure] = _measure(values[:, k], interval(means[:, k], confidence=confidence, cases=cases))
    return LabelSummary(
        label=rows[0].label,
        label_name=rows[0].label_name,
        cases=len(rows),
        present=sum(row.tp + row.fn > 0 for row in rows),
        missed=sum(row.missed for row in rows),
        false_alarms=sum(row.false_alarm for row in rows),
        measures=measures,
    )


def _measure(values: np.ndarray, bounds: Interval) -> MeasureSummary:
    """Of one measure's values: NaN where undefined, infinite ones counted apart."""
    finite = values[np.isfinite(values)]
    ordered = np.sort(values[~np.isnan(values)])
    # Taken by hand, since the mean of two infinities is no number to numpy's median.
    middle = ordered[[(len(ordered) - 1) // 2, len(ordered) // 2]] if len(ordered) else np.array([np.inf])
    return MeasureSummary(
        n=len(finite),
        infinite=len(ordered) - len(finite),
        mean=float(finite.mean()) if len(finite) else None,
        median=float(middle.mean()) if np.isfinite(middle).all() else None,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else None,
        lowest=float(finite.min()) if len(finite) else None,
        highest=float(finite.max()) if len(finite) else None,
        low=bounds[0],
        high=bounds[1],
    )


def _foreground(values: np.ndarray, means: np.ndarray, confidence: float) -> MeasureSummary:
    """The mean of the labels' means of one measure, from values (case, label) and the means of the draws (draws, label)."""
    scored = int(np.isfinite(values).any(axis=1).sum())
    return _measure(label_means(values), interval(label_means(means.T), confidence=confidence, cases=scored))
