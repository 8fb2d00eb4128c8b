"""What people read: scores.csv, summary.md, numbers in words."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from autoseg3d.errors import ReadError
from autoseg3d.evaluation import MEASURES, Failure, MeasureSummary, ScoreRow, collect_scores, read_scores, score_case, write_scores
from autoseg3d.evaluation.output import markdown
from autoseg3d.evaluation.tables import COLUMNS, DETAILED_COLUMNS, csv_text, detailed_lines, distance, interval, number, summary_lines
from planners.labels import label_table

TABLE = label_table({"background": 0, "liver": 1, "a|b": 2})


def rows(case: str = "a", *, found: int = 5) -> tuple[ScoreRow, ...]:
    reference, prediction = np.zeros((2, 2, 3, 12), dtype=np.int16)
    reference[0, 0, :10], prediction[0, 0, :found] = 1, 1
    return score_case(prediction, reference, spacing=(1.0, 1.0, 1.0), labels=TABLE, case=case, tolerance_mm=1.0)


def measure(**changes: float | int | None) -> MeasureSummary:
    fields: dict[str, float | int | None] = {"n": 3, "infinite": 0, "mean": 0.5, "median": 0.5, "std": 0.1}
    return MeasureSummary.model_validate({**fields, "lowest": 0.4, "highest": 0.6, "low": 0.45, "high": 0.55, **changes})


def test_numbers_in_words() -> None:
    assert number(0.12345, 3) == "0.123"
    assert number(1.5, 1, sign=True) == "+1.5"
    assert number(None, 3) == "–"
    assert interval(measure()) == "0.450–0.550"
    assert interval(measure(low=None, high=None)) == "–"
    assert distance(measure(mean=3.21)) == "3.21"
    assert distance(measure(mean=None, n=0, infinite=2)) == "– (2 inf)"


def test_the_first_columns_are_those_that_scripts_go_by() -> None:
    head = csv_text(rows()).splitlines()[0].split(",")
    wanted = ["case", "label", "label_name", "dice", "iou", "nsd", "hd95_mm", "assd_mm"]
    wanted += ["volume_reference_ml", "volume_prediction_ml", "volume_difference_ml", "sensitivity", "precision", "tp", "fp", "fn"]
    assert head[:16] == wanted


def test_csv_keeps_every_digit_and_every_name() -> None:
    made = [*rows("x,y"), *rows('quoted "b"', found=10)]
    read = list(csv.DictReader(io.StringIO(csv_text(made))))
    assert [line["case"] for line in read] == [row.case for row in made]
    for line, row in zip(read, made, strict=True):
        for field in MEASURES:
            value = row.value(field)
            assert line[field] == "" if np.isnan(value) else float(line[field]) == value


def test_lines_have_as_many_cells_as_heads() -> None:
    summary = collect_scores([*rows("a"), *rows("b", found=0)]).summary
    assert {len(line) for line in summary_lines(summary)} == {len(COLUMNS)}
    assert {len(line) for line in detailed_lines(summary)} == {len(DETAILED_COLUMNS)}
    liver = detailed_lines(summary)[0]
    assert liver[DETAILED_COLUMNS.index("missed")] == "1"
    assert "1 inf" in liver[DETAILED_COLUMNS.index("HD95 mm")]
    assert detailed_lines(summary)[-1][0] == "label mean"


def test_the_summary_for_people() -> None:
    failures = [Failure(case="z", code="E_NO_PREDICTION", message="no prediction")]
    text = markdown(collect_scores([*rows("good", found=10), *rows("bad", found=1)], failures))
    assert text.startswith("# Scores of 2 cases")
    assert "left out of the label mean: a|b" in text
    assert text.index("| bad ") < text.index("| good ")
    assert "## Not scored: 1" in text
    assert "No prediction for 1 case: z" in text
    assert "within 1 mm" in text
    table = [line for line in text.splitlines() if line.startswith("|")][: 2 + 3]
    assert len({len(line) for line in table}) == 1, "columns line up"
    assert "a\\|b" in text


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    scores = collect_scores([*rows("a"), *rows("b", found=0)], [Failure(case="c", code="E_X", message="m")])
    write_scores(scores, tmp_path)
    assert read_scores(tmp_path) == read_scores(tmp_path / "scores.json") == scores
    (tmp_path / "scores.json").write_text('{"version": 2}')
    with pytest.raises(ReadError, match="Scores"):
        read_scores(tmp_path)
    with pytest.raises(ReadError):
        read_scores(tmp_path / "nothing")


def test_rows_refuse_nonsense() -> None:
    good = rows()[0].model_dump()
    for wrong in ({"dice": 1.2}, {"tp": -1}, {"hd95_mm": float("inf")}, {"assd_mm": float("nan")}, {"label": 0}, {"grade": "A"}):
        with pytest.raises(ValidationError):
            ScoreRow.model_validate({**good, **wrong})
