"""Scores as tables that people and spreadsheets read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from autoseg3d.evaluation.rows import DISTANCES, ScoreRow
from autoseg3d.evaluation.summary import MeasureSummary, Summary

COLUMNS = ("label", "cases", "Dice", "95 % interval", "NSD", "HD95 mm", "error mL")
"""The heads of `summary_lines`, few enough for a terminal."""

DETAILED_COLUMNS = (*COLUMNS[:4], "lowest to highest", "NSD", "HD95 mm", "ASSD mm", "volume error mL", "missed", "false")
"""The heads of `detailed_lines`."""

CALIBRATION_COLUMNS = ("label", "cases", "Brier score", "ECE")
"""The heads of `calibration_lines`."""


def summary_lines(summary: Summary) -> tuple[tuple[str, ...], ...]:
    """One line of text per label, and one for the mean of the labels; the columns are COLUMNS."""
    return tuple((*line[:4], line[5], line[6], line[8]) for line in detailed_lines(summary))


def detailed_lines(summary: Summary) -> tuple[tuple[str, ...], ...]:
    """As `summary_lines` with more; the columns are DETAILED_COLUMNS."""
    lines: list[tuple[str, ...]] = []
    for label in summary.labels:
        measures = label.measures
        lines.append(
            (
                label.label_name,
                str(measures["dice"].n),
                number(measures["dice"].mean, 3),
                interval(measures["dice"]),
                span(measures["dice"]),
                number(measures["nsd"].mean, 3),
                distance(measures["hd95_mm"]),
                distance(measures["assd_mm"]),
                number(measures["volume_difference_ml"].mean, 2, sign=True),
                str(label.missed),
                str(label.false_alarms),
            )
        )
    dice, nsd = summary.foreground["dice"], summary.foreground["nsd"]
    lines.append(("label mean", str(summary.cases), number(dice.mean, 3), interval(dice), "", number(nsd.mean, 3), *[""] * 5))
    return tuple(lines)


def calibration_lines(summary: Summary) -> tuple[tuple[str, ...], ...]:
    """Brier score and calibration error of each label; empty where no probabilities were saved. The columns are CALIBRATION_COLUMNS."""
    both = [(label.label_name, label.measures["brier"], label.measures["ece"]) for label in summary.labels]
    return tuple((name, str(brier.n), number(brier.mean, 4), number(ece.mean, 4)) for name, brier, ece in both if brier.n)


def csv_text(rows: Sequence[ScoreRow]) -> str:
    """scores.csv: one line per row, undefined values empty, infinite distances `inf`, numbers at full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = list(ScoreRow.model_fields)
    writer.writerow(fields)
    for row in rows:
        writer.writerow([_cell(row, field) for field in fields])
    return text.getvalue()


def _cell(row: ScoreRow, field: str) -> object:
    if field in DISTANCES:
        value = row.value(field)
        return "" if math.isnan(value) else value
    cell = getattr(row, field)
    return "" if cell is None else cell


def number(value: float | None, digits: int, *, sign: bool = False) -> str:
    """A number with `digits` after the point; a dash for None."""
    if value is None:
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def interval(measure: MeasureSummary) -> str:
    """The confidence interval of a mean, "0.861–0.902"; a dash where there is none."""
    if measure.low is None or measure.high is None:
        return "–"
    return f"{measure.low:.3f}–{measure.high:.3f}"


def span(measure: MeasureSummary) -> str:
    """The least and the greatest value; a dash where there is none."""
    if measure.lowest is None or measure.highest is None:
        return "–"
    return f"{measure.lowest:.3f}–{measure.highest:.3f}"


def distance(measure: MeasureSummary) -> str:
    """A mean distance, with the number of infinite ones that it leaves out: "3.21 (2 inf)"."""
    mean = number(measure.mean, 2)
    return f"{mean} ({measure.infinite} inf)" if measure.infinite else mean
