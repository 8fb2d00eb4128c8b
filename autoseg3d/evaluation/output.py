"""The files of an evaluation: scores.csv and summary.md for people, summary.json and scores.json for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from autoseg3d.evaluation.calibration import MARGIN_MM
from autoseg3d.evaluation.scores import Scores
from autoseg3d.evaluation.tables import CALIBRATION_COLUMNS, DETAILED_COLUMNS, calibration_lines, csv_text, detailed_lines
from autoseg3d.files import read_contract, write_text

_WORST = 10


def write_scores(scores: Scores, folder: Path | str) -> None:
    """Writes the four files into `folder`, each whole or not at all, scores.json last. Raises StorageError."""
    folder = Path(folder)
    write_text(folder / "scores.csv", csv_text(scores.rows))
    write_text(folder / "summary.json", scores.summary.to_json())
    write_text(folder / "summary.md", markdown(scores))
    write_text(folder / "scores.json", scores.to_json())


def read_scores(path: Path | str) -> Scores:
    """The Scores in a folder that `write_scores` wrote, or in a scores.json. Raises ReadError."""
    path = Path(path)
    return read_contract(path / "scores.json" if path.is_dir() else path, Scores)


def markdown(scores: Scores) -> str:
    """summary.md: the table of labels, the worst cases, what could not be scored, and how the measures are defined."""
    summary = scores.summary
    parts = [f"# Scores of {summary.cases} case{'' if summary.cases == 1 else 's'}", _table(DETAILED_COLUMNS, detailed_lines(summary))]
    if summary.absent_labels:
        parts.append(f"In no case at all, and left out of the label mean: {', '.join(summary.absent_labels)}.")
    if lowest := _lowest_cases(scores):
        parts += ["## Lowest cases", _table(("case", "mean Dice", "lowest label", "its Dice"), lowest)]
    if calibration := calibration_lines(summary):
        parts += ["## Calibration of the probabilities", _table(CALIBRATION_COLUMNS, calibration)]
    if scores.notes:
        parts.append("\n".join(f"- {note}" for note in scores.notes))
    if scores.failures:
        parts += [f"## Not scored: {len(scores.failures)}", "\n".join(f"- {line}" for line in scores.failure_lines())]
    parts += ["## How to read this", _definitions(scores)]
    return "\n\n".join(parts) + "\n"


def _lowest_cases(scores: Scores) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for case, mean in list(scores.case_dice().items())[:_WORST]:
        dice, name = min((row.dice, row.label_name) for row in scores.rows if row.case == case and row.dice is not None)
        lines.append((case, f"{mean:.3f}", name, f"{dice:.3f}"))
    return lines


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns padded so that it reads as plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (heads, *lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    rows = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def _definitions(scores: Scores) -> str:
    tolerances = sorted({row.nsd_tolerance_mm for row in scores.rows})
    summary = scores.summary
    points = [
        f"Interval: {summary.confidence:.0%} bootstrap interval of the mean over cases ({summary.resamples} draws).",
        "Label mean: the mean of the labels' means (nnU-Net's foreground mean).",
        f"NSD: the part of both surfaces within {' or '.join(f'{t:g}' for t in tolerances)} mm of each other; "
        "surfaces by marching cubes, weighted by area. HD95 and ASSD use the same surfaces.",
        "A label absent from both is undefined and not counted; absent from one, Dice and NSD are 0 and distances infinite. "
        "Means of distances are over the finite ones; how many were infinite stands in brackets.",
        f"Brier score and calibration error (ECE): of each label's probability, in the box around the label and {MARGIN_MM:g} mm more; "
        "0 is perfect.",
        "Volume error: predicted minus reference volume. Missed: in the reference, not predicted. False: predicted, not in the reference.",
    ]
    return "\n".join(f"- {point}" for point in points)
