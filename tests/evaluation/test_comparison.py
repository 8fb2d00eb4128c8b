"""Comparing two evaluations: paired, nothing dropped unseen, the same numbers as scipy's own test."""

import math

import numpy as np
import pytest
from scipy.stats import PermutationMethod, wilcoxon

from autoseg3d.errors import UsageError
from autoseg3d.evaluation import Failure, Scores, collect_scores, compare_scores, comparison_lines, score_case
from autoseg3d.evaluation.comparison import PERFECT
from planners.labels import label_table

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})
SPACING = (2.0, 1.0, 1.0)


def _maps(seed: int, worse: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A reference with two labels, and a prediction of it that lacks `worse` columns of the organ."""
    rng = np.random.default_rng(seed)
    reference = np.zeros((6, 10, 12), dtype=np.int16)
    reference[1:5, 1:6, 1 : 6 + rng.integers(0, 3)] = 1
    reference[2:4, 7:9, 8:11] = 2
    prediction = reference.copy()
    prediction[:, :, 1 : 1 + worse] = 0
    return prediction, reference


def _scores(cases: dict[str, tuple[np.ndarray, np.ndarray]], *, tolerance: float = 1.0, failed: tuple[str, ...] = ()) -> Scores:
    rows = [
        row for case, maps in cases.items() for row in score_case(*maps, spacing=SPACING, labels=TABLE, case=case, tolerance_mm=tolerance)
    ]
    return collect_scores(rows, [Failure(case=case, code="E_READ", message=f"{case} is broken") for case in failed])


def _two(count: int = 12) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(0)
    ours = {f"c{i:02d}": _maps(i, int(rng.integers(0, 2))) for i in range(count)}
    theirs = {f"c{i:02d}": _maps(i, int(rng.integers(0, 4))) for i in range(count)}
    return _scores(ours), _scores(theirs)


def test_differences_and_the_test_are_those_of_the_paired_cases() -> None:
    a, b = _two()
    found = compare_scores(a, b)
    row = found.of("dice")
    ours, theirs = (np.array([scores.case_dice()[case] for case in a.cases]) for scores in (a, b))
    assert row.difference == pytest.approx((ours - theirs).mean())
    assert row.p == pytest.approx(wilcoxon(ours, theirs, method=PermutationMethod()).pvalue)
    assert (row.better, row.worse) == (int((ours > theirs).sum()), int((ours < theirs).sum()))
    assert row.low < row.difference < row.high
    assert [one.difference for one in found.cases] == pytest.approx(sorted(ours - theirs))


def test_the_other_way_round_is_the_same_with_the_sign_turned() -> None:
    a, b = _two()
    there, back = compare_scores(a, b), compare_scores(b, a)
    for measure in PERFECT:
        x, y = there.of(measure), back.of(measure)
        assert x.difference == pytest.approx(-y.difference, abs=1e-12)
        assert x.p == pytest.approx(y.p)
        assert (x.better, x.worse) == (y.worse, y.better)


def test_a_model_compared_with_itself_differs_nowhere() -> None:
    scores, _ = _two()
    row = compare_scores(scores, scores).of("hd95_mm")
    assert (row.difference, row.p, row.better, row.worse) == (0.0, None, 0, 0)
    assert "no case differs" in compare_scores(scores, scores).sentence()


def test_less_is_better_for_distances_and_volumes() -> None:
    reference = _maps(0)[1]
    good, bad = _scores({"c": (reference, reference)}), _scores({"c": _maps(0, 2)})
    found = compare_scores(good, bad)
    assert {measure: (found.of(measure).better, found.of(measure).worse) for measure in ("dice", "assd_mm", "volume_error_ml")} == {
        "dice": (1, 0),
        "assd_mm": (1, 0),
        "volume_error_ml": (1, 0),
    }


def test_a_false_alarm_where_there_is_nothing_counts_against_who_raised_it() -> None:
    prediction, reference = _maps(0)
    reference[reference == 2] = 0
    clean, alarmed = _scores({"c": (reference.copy(), reference)}), _scores({"c": (prediction, reference)})
    found = compare_scores(clean, alarmed)
    lesion = {row.measure: row for row in found.labels if row.label_name == "lesion"}
    assert (lesion["dice"].mean_a, lesion["dice"].mean_b) == (1.0, 0.0)
    assert (lesion["hd95_mm"].infinite, lesion["hd95_mm"].better) == (1, 1)
    assert lesion["hd95_mm"].difference is None
    both = compare_scores(clean, clean)
    assert next(row for row in both.labels if row.label_name == "lesion" and row.measure == "dice").cases == 0


def test_infinite_distances_are_in_the_test_and_not_in_the_means() -> None:
    cases = {f"c{i}": _maps(i, 1) for i in range(8)}
    missed = {case: (np.where(p == 1, 0, p) if case == "c0" else p, r) for case, (p, r) in cases.items()}
    found = compare_scores(_scores(cases), _scores(missed))
    row = found.of("hd95_mm")
    assert (row.cases, row.infinite, row.difference, row.better) == (8, 1, 0.0, 1)
    assert row.p == 1.0
    assert "1 cases with an infinite distance" in found.sentence("hd95_mm")


def test_cases_of_one_side_are_named_with_the_reason() -> None:
    cases = {f"c{i}": _maps(i, 1) for i in range(4)}
    a = _scores(cases)
    b = _scores({case: maps for case, maps in cases.items() if case not in ("c1", "c2")}, failed=("c1",))
    found = compare_scores(a, b)
    assert found.only_a == {"c1": "c1 is broken", "c2": "not there"}
    assert found.only_b == {}
    assert len(found.cases) == 2
    assert found.notes == ()
    assert compare_scores(b, _scores({"c0": _maps(0)}, failed=("c1",))).notes == ("Scored on neither side: c1.",)
    assert "2 cases that only one of them scored are left out" in found.sentence()


def test_p_values_of_labels_are_corrected_by_holm() -> None:
    a, b = _two()
    rows = [row for row in compare_scores(a, b).labels if row.measure == "dice" and row.p is not None]
    smallest = min(rows, key=lambda row: row.p)
    assert smallest.p_holm == pytest.approx(min(1.0, smallest.p * len(rows)))


def test_other_tolerances_leave_nsd_out_and_say_so() -> None:
    cases = {f"c{i}": _maps(i, 1) for i in range(4)}
    found = compare_scores(_scores(cases), _scores(cases, tolerance=2.0))
    assert "NSD" in found.notes[0]
    with pytest.raises(KeyError):
        found.of("nsd")


def test_what_cannot_be_compared_is_refused() -> None:
    a = _scores({"c0": _maps(0)})
    with pytest.raises(UsageError, match="no case in common"):
        compare_scores(a, _scores({"d0": _maps(0)}))
    other = label_table({"background": 0, "x": 1})
    rows = score_case(*(np.minimum(m, 1) for m in _maps(0)), spacing=SPACING, labels=other, case="c0")
    with pytest.raises(UsageError, match="other labels"):
        compare_scores(a, collect_scores(rows))


def test_the_sentence_and_the_table_say_the_numbers() -> None:
    a, b = _two()
    found = compare_scores(a, b, names=("ours", "theirs"))
    row = found.of("dice")
    assert found.sentence().startswith(f"On 12 cases, ours reached a mean Dice of {row.mean_a:.3f} and theirs of {row.mean_b:.3f}")
    assert "Wilcoxon" in found.sentence()
    lines = comparison_lines(found)
    assert [line[0] for line in lines[:3]] == ["Dice, organ", "Dice, lesion", "Dice"]
    assert len(lines) == 2 + len(PERFECT)
    assert lines[2][5] == f"{row.better}:{row.worse}"
    assert all(math.isfinite(float(line[1])) for line in lines)
    assert f" mm and theirs of {found.of('hd95_mm').mean_b:.2f} mm" in found.sentence("hd95_mm")
