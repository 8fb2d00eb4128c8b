"""The files and the table of a comparison."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from autoseg3d.evaluation.comparison import PERFECT, WORDS, Comparison
from autoseg3d.evaluation.tables import number
from autoseg3d.files import write_text

COMPARISON_COLUMNS = ("measure", "A", "B", "A - B (95 %)", "p", "wins")
"""The heads of `comparison_lines`: p of single labels is after Holm's correction; wins are cases better in A : in B."""


def comparison_lines(comparison: Comparison) -> tuple[tuple[str, ...], ...]:
    """Dice of every label, and each measure's mean over labels, as lines of text; the columns are COMPARISON_COLUMNS."""
    labels = [row for row in comparison.labels if row.measure == "dice"]
    lines: list[tuple[str, ...]] = []
    for row in (*(labels if len(labels) > 1 else ()), *comparison.overall):
        digits = 3 if PERFECT[row.measure] else 2
        interval = "" if row.low is None or row.high is None else f" ({row.low:+.{digits}f}, {row.high:+.{digits}f})"
        lines.append(
            (
                WORDS[row.measure] + (f", {row.label_name}" if row.label_name else "") + (f" ({row.infinite} inf)" if row.infinite else ""),
                number(row.mean_a, digits),
                number(row.mean_b, digits),
                number(row.difference, digits, sign=True) + interval,
                number(row.p if row.p_holm is None else row.p_holm, 3),
                f"{row.better}:{row.worse}",
            )
        )
    return tuple(lines)


_FIELDS = ("measure", "label_name", "cases", "infinite", "mean_a", "mean_b", "difference", "low", "high", "p", "p_holm", "better", "worse")


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Writes compare.csv, cases.csv and compare.json into `folder`, the last of them last. Raises StorageError."""
    rows = [{**row.model_dump(), "label_name": row.label_name or "mean of labels"} for row in (*comparison.overall, *comparison.labels)]
    write_text(folder / "compare.csv", _csv(_FIELDS, [[row[field] for field in _FIELDS] for row in rows]))
    cases = [[one.case, one.a, one.b, one.difference] for one in comparison.cases]
    write_text(folder / "cases.csv", _csv(("case", "dice_a", "dice_b", "difference"), cases))
    write_text(folder / "compare.json", comparison.to_json())


def _csv(heads: tuple[str, ...], rows: list[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue()
