"""What gains on every case is taken, what gains on a few or by chance is not, and nesting never looks at its own part."""

import numpy as np
import pytest

from autoseg3d.select.choosing import Choice, choose
from autoseg3d.select.estimating import dice_of, estimate, nested_dice, parts_of
from autoseg3d.select.parts import CaseParts, measure_parts
from planners.labels import label_table
from planners.postprocessing import KeepLargest

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})
DEFAULT = ("3d_fullres",)


def _case(seed: int, *, islands: bool = False, missing: int = 0) -> CaseParts:
    rng = np.random.default_rng(seed)
    reference = np.zeros((8, 12, 12), dtype=np.int16)
    reference[2:6, 2 : 5 + rng.integers(0, 3), 2:6] = 1
    reference[2:4, 9:11, 2:5] = 2
    prediction = reference.copy()
    if islands:
        prediction[7, 10:12, 8 : 10 + rng.integers(0, 3)] = 1
    prediction[2, :missing] = 0
    return measure_parts(prediction, reference, labels=TABLE, voxel_ml=0.1)


def test_nothing_is_taken_where_nothing_gains() -> None:
    choice = choose({DEFAULT: [_case(i) for i in range(10)]}, default=DEFAULT, labels=TABLE)
    assert choice.members == DEFAULT
    assert choice.steps == ()
    assert choice.candidates
    assert not any(candidate.taken for candidate in choice.candidates)


def test_islands_in_every_case_go_and_islands_in_one_case_stay() -> None:
    cases = {DEFAULT: [_case(i, islands=True) for i in range(10)]}
    everywhere = choose(cases, default=DEFAULT, labels=TABLE)
    assert dice_of(everywhere, cases, TABLE).mean() > dice_of(Choice(DEFAULT), cases, TABLE).mean()
    once = choose({DEFAULT: [_case(i, islands=i == 0) for i in range(10)]}, default=DEFAULT, labels=TABLE)
    assert once.steps == ()
    assert max(candidate.gain for candidate in once.candidates) > 0


def test_the_largest_part_of_everything_is_no_step_where_a_label_stands_apart() -> None:
    """It would remove the lesion with the islands: a label falls, so the step is refused whatever the mean says."""
    choice = choose({DEFAULT: [_case(i, islands=True) for i in range(10)]}, default=DEFAULT, labels=TABLE)
    assert KeepLargest(values=(1, 2)) not in choice.steps


@pytest.mark.parametrize(("rival", "taken"), [(0, True), (3, False)])
def test_another_configuration_must_be_better_beyond_noise(rival: int, taken: bool) -> None:
    default = [_case(i, missing=3) for i in range(10)]
    cases = {DEFAULT: default, ("2d",): [_case(i, missing=rival) for i in range(10)]}
    assert (choose(cases, default=DEFAULT, labels=TABLE).members == ("2d",)) is taken


def test_an_ensemble_is_compared_with_the_best_single_one() -> None:
    cases = {
        DEFAULT: [_case(i, missing=6) for i in range(10)],
        ("2d",): [_case(i, missing=3) for i in range(10)],
        ("3d_fullres", "2d"): [_case(i, missing=4) for i in range(10)],
    }
    choice = choose(cases, default=DEFAULT, labels=TABLE)
    assert choice.members == ("2d",)
    assert [c.kind for c in choice.candidates[:2]] == ["configuration", "ensemble"]
    assert choice.candidates[1].gain < 0


def test_a_step_that_helps_by_luck_seldom_passes() -> None:
    """Sizes of true and false parts drawn alike: a threshold then gains only by chance, in about one search of twenty."""
    rng, passed = np.random.default_rng(0), 0
    for _ in range(40):
        cases = []
        for _ in range(12):
            reference = np.zeros((1, 1, 60), dtype=np.int16)
            prediction = np.zeros_like(reference)
            for start in range(0, 60, 6):
                prediction[0, 0, start : start + rng.integers(1, 5)] = 1
                if rng.random() < 0.5:
                    reference[0, 0, start : start + 4] = 1
            cases.append(measure_parts(prediction, reference, labels=label_table({"background": 0, "x": 1}), voxel_ml=1.0))
        passed += bool(choose({DEFAULT: cases}, default=DEFAULT, labels=label_table({"background": 0, "x": 1})).steps)
    assert passed <= 6


def test_each_part_is_scored_by_what_was_chosen_without_it() -> None:
    """Only the last part has islands: the others see no reason to remove them, so nested scores keep them there."""
    cases = {DEFAULT: [_case(i, islands=i >= 8) for i in range(10)]}
    dice, choices = nested_dice(cases, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], default=DEFAULT, labels=TABLE)
    assert choices[2].steps == ()
    np.testing.assert_array_equal(dice[8:], dice_of(Choice(DEFAULT), cases, TABLE)[8:])


def test_parts_are_the_folds_or_else_fifths_of_whole_patients() -> None:
    assert parts_of(["0", "1", "2", "0"], ["a", "b", "c", "d"]) == [[0, 3], [1], [2]]
    groups = ["p0", "p0", "p1", "p2", "p1", "p3", "p4", "p5"]
    parts = parts_of(["0"] * 8, groups)
    assert sorted(i for part in parts for i in part) == list(range(8))
    assert all(len({n for n, part in enumerate(parts) for i in part if groups[i] == group}) == 1 for group in groups)


def test_an_estimate_leaves_undefined_cases_out_and_says_how_many_are_left() -> None:
    dice = np.array([[0.8, np.nan], [0.9, np.nan], [1.0, 0.5]])
    made = estimate(dice, TABLE)
    assert made.dice == pytest.approx((0.9 + 0.5) / 2)
    assert [(label.cases, label.dice) for label in made.labels] == [(3, pytest.approx(0.9)), (1, 0.5)]
    assert made.labels[1].low is None
    assert made.low is not None
    assert made.low < made.dice < made.high
