"""compare: two predictions or two evaluations, from whatever files they are in."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pydantic import ValidationError

from autoseg3d.errors import ReadError, UsageError
from autoseg3d.evaluation.comparison import Comparison, compare_scores
from autoseg3d.evaluation.comparison_output import write_comparison
from autoseg3d.evaluation.folders import Progress, evaluate_folder
from autoseg3d.evaluation.output import read_scores
from autoseg3d.evaluation.rows import DISTANCES, ScoreRow
from autoseg3d.evaluation.scores import Scores, collect_scores
from autoseg3d.evaluation.scoring import Tolerance
from planners.labels import LabelTable


def compare(
    a: Path | str,
    b: Path | str,
    *,
    reference: Path | str | None = None,
    names: tuple[str, str] | None = None,
    out: Path | str | None = None,
    labels: LabelTable | None = None,
    tolerance_mm: Tolerance = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Compares two folders of label maps, or two evaluations, case by case.

    Args:
        a, b: each a folder of label maps (then `reference` is needed), a folder that `evaluate` wrote, its scores.json
            or its scores.csv.
        reference: folder of the reference label maps.
        names: what they are called in the result; without it the names of their folders.
        out: folder for compare.json, compare.csv (measures and labels) and cases.csv (Dice of each case); without it
            nothing is written.
        labels, tolerance_mm, workers, progress: as in `evaluate_folder`.

    Raises UsageError (E_COMPARE) where there is nothing to compare, and what `evaluate_folder` raises.
    """
    a, b = Path(a), Path(b)
    first, second = (
        _scores(path, reference, labels=labels, tolerance_mm=tolerance_mm, workers=workers, progress=progress) for path in (a, b)
    )
    comparison = compare_scores(first, second, names=names or _names(a, b))
    if out is not None:
        write_comparison(comparison, Path(out))
    return comparison


def read_scores_csv(path: Path) -> Scores:
    """The Scores of a scores.csv, summarised anew; what could not be scored does not stand there. Raises ReadError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadError(f"the table of scores cannot be read: {error}", file=path, remedy="Check the path") from error
    rows = []
    for number, line in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=2):
        values = {name: None if cell == "" or (name in DISTANCES and cell == "inf") else cell for name, cell in line.items()}
        try:
            rows.append(ScoreRow.model_validate(values))
        except ValidationError as error:
            first = error.errors()[0]
            field = f"line {number}, {'.'.join(str(part) for part in first['loc'])}"
            remedy = "Give a scores.csv that autoseg3d evaluate wrote"
            raise ReadError(f"not a table of scores: {first['msg']}", file=path, field=field, remedy=remedy) from error
    return collect_scores(rows)


def _scores(
    path: Path, reference: Path | str | None, *, labels: LabelTable | None, tolerance_mm: Tolerance, workers: int, progress: Progress | None
) -> Scores:
    if path.suffix == ".csv":
        return read_scores_csv(path)
    if path.suffix == ".json" or (path / "scores.json").is_file():
        return read_scores(path)
    if reference is None:
        remedy = "Add --reference FOLDER, or give folders that autoseg3d evaluate wrote"
        raise UsageError("label maps can only be compared against a reference", code="E_COMPARE", file=path, remedy=remedy)
    return evaluate_folder(path, reference, labels=labels, tolerance_mm=tolerance_mm, workers=workers, progress=progress)


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The last parts of the two paths that differ."""
    for x, y in zip(reversed(a.resolve().parts), reversed(b.resolve().parts), strict=False):
        if x != y:
            return x, y
    return "A", "B"
