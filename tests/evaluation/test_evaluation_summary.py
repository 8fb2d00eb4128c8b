"""Means, medians, intervals; rows made by hand."""

import math

import numpy as np
import pytest

from autoseg3d.evaluation import Failure, ScoreRow, collect_scores, score_case, summarise
from planners.labels import label_table

TABLE = label_table({"background": 0, "liver": 1, "spleen": 2})


def rows_with(case: str, liver: int, spleen: int = 0, *, found: int | None = None) -> tuple[ScoreRow, ...]:
    """Rows of a case with `liver` and `spleen` reference voxels, the first `found` liver voxels of them predicted."""
    reference, prediction = np.zeros((2, 1, 3, 200), dtype=np.int16)
    reference[0, 0, :liver], reference[0, 2, :spleen] = 1, 2
    prediction[0, 0, : liver if found is None else found] = 1
    prediction[0, 2, :spleen] = 2
    return score_case(prediction, reference, spacing=(1.0, 1.0, 1.0), labels=TABLE, case=case, tolerance_mm=1.0)


def test_means_and_spread() -> None:
    rows = [row for k, found in enumerate((100, 50, 25)) for row in rows_with(f"c{k}", 100, found=found)]
    liver = summarise(rows).label("liver")
    dices = [1, 100 / 150, 50 / 125]
    dice = liver.measures["dice"]
    assert (liver.cases, liver.present, liver.missed, dice.n, dice.infinite) == (3, 3, 0, 3, 0)
    assert (dice.mean, dice.median) == (pytest.approx(np.mean(dices)), pytest.approx(100 / 150))
    assert dice.std == pytest.approx(np.std(dices, ddof=1))
    assert (dice.lowest, dice.highest) == (pytest.approx(0.4), 1)
    assert dice.low <= dice.mean <= dice.high  # type: ignore[operator]
    assert liver.measures["volume_difference_ml"].mean == pytest.approx(-(0 + 50 + 75) / 3 / 1000)


def test_absent_labels_are_not_counted() -> None:
    """nnU-Net's rule: a case without the label in truth and prediction does not enter the label's mean."""
    summary = summarise([*rows_with("a", 10, 10), *rows_with("b", 10, 0, found=0)])
    assert summary.label("spleen").measures["dice"].n == 1
    assert summary.label("spleen").measures["dice"].mean == 1
    assert summary.label("liver").measures["dice"].mean == 0.5
    assert summary.foreground_dice == pytest.approx(0.75)


def test_labels_that_never_occur_are_named_and_left_out_of_the_foreground_mean() -> None:
    summary = summarise([*rows_with("a", 10), *rows_with("b", 10)])
    assert summary.absent_labels == ("spleen",)
    assert summary.foreground_dice == 1
    assert summary.foreground["dice"].n == 1
    assert summary.label("spleen").measures["dice"].mean is None


def test_infinite_distances_are_counted_and_the_median_feels_them() -> None:
    rows = [*rows_with("a", 10), *rows_with("b", 10, found=0), *rows_with("c", 10, found=0)]
    hd95 = summarise(rows).label("liver").measures["hd95_mm"]
    assert (hd95.n, hd95.infinite, hd95.mean, hd95.median) == (1, 2, 0, None)
    assert summarise(rows).label("liver").missed == 2
    with_one_missed = [*rows_with("a", 10), *rows_with("b", 10, found=8), *rows_with("c", 10, found=0)]
    assert summarise(with_one_missed).label("liver").measures["hd95_mm"].median == pytest.approx(2)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Sixty draws of thirty cases: about 95 % of the intervals hold the true mean (percentile bootstrap: a little less)."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        found = rng.integers(0, 101, size=30)
        template = rows_with("x", 100, found=50)[0]
        rows = [template.model_copy(update={"case": f"c{i}", "sensitivity": float(f) / 100}) for i, f in enumerate(found)]
        measure = summarise(rows, resamples=300).label("liver").measures["sensitivity"]
        hits += measure.low <= 0.5 <= measure.high  # type: ignore[operator]
    assert 50 <= hits <= 60


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    dices = rng.random(40)
    template = rows_with("x", 100)[0]
    rows = [template.model_copy(update={"case": f"c{i:02d}", "dice": float(d)}) for i, d in enumerate(dices)]
    dice = summarise(rows, resamples=4000).label("liver").measures["dice"]
    plain = np.percentile(dices[rng.integers(0, 40, size=(4000, 40))].mean(axis=1), (2.5, 97.5))
    assert (dice.low, dice.high) == (pytest.approx(plain[0], abs=0.01), pytest.approx(plain[1], abs=0.01))


def test_order_does_not_matter_and_the_same_rows_give_the_same_numbers() -> None:
    rows = [row for k in range(6) for row in rows_with(f"c{k}", 100, 20, found=10 * k)]
    shuffled = [*rows[6:], *rows[:6]]
    assert collect_scores(rows).to_json() == collect_scores(shuffled).to_json()


def test_one_case_has_no_interval_and_none_has_no_mean() -> None:
    dice = summarise(rows_with("a", 10)).label("liver").measures["dice"]
    assert (dice.mean, dice.std, dice.low, dice.high) == (1, None, None, None)
    empty = summarise([])
    assert (empty.cases, empty.labels, empty.foreground_dice) == (0, (), None)


def test_two_rows_for_one_case_and_label_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows"):
        summarise([*rows_with("a", 10), *rows_with("a", 10)])


def test_scores_for_people() -> None:
    failures = [Failure(case=f"m{i:02d}", code="E_NO_PREDICTION", message="…") for i in range(12)]
    failures.append(Failure(case="z", code="E_SHAPE", message="E_SHAPE: case z: differs."))
    scores = collect_scores([*rows_with("a", 10, 10), *rows_with("b", 10, found=5)], failures)
    assert scores.cases == ("a", "b")
    assert list(scores.case_dice()) == ["b", "a"]
    assert scores.table[0][:3] == ("liver", "2", "0.833")
    assert scores.table[-1][:3] == ("label mean", "2", "0.917")
    assert all(len(line) == len(scores.columns) for line in scores.table)
    lines = scores.failure_lines()
    assert len(lines) == 2
    assert lines[0].startswith("No prediction for 12 cases: m00, m01")
    assert lines[0].endswith("and 2 more")
    assert lines[1] == "E_SHAPE: case z: differs."
    assert not math.isnan(scores.summary.foreground_dice or math.nan)
