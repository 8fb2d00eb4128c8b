"""Folds: scikit-learn's numbers without scikit-learn, groups kept whole, too few cases refused."""

from pathlib import Path

import pytest

from autoseg3d.errors import DataError, ReadError, UsageError
from autoseg3d.files import write_text
from autoseg3d.training.splits import FULL, Split, make_splits, read_splits, splits_from_nnunet, write_splits


def names(n: int) -> list[str]:
    return [f"case_{i:04d}" for i in range(n)]


@pytest.mark.parametrize("n", [5, 6, 9, 13, 52, 260, 1001])
def test_folds_are_scikit_learns(n: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    ids = names(n)
    splits = make_splits(ids[::-1])
    kfold = model_selection.KFold(n_splits=5, shuffle=True, random_state=12345)
    for ours, (train, held_out) in zip(splits.folds, kfold.split(ids), strict=True):
        assert ours.train == tuple(ids[i] for i in train)
        assert ours.validation == tuple(ids[i] for i in held_out)


def test_the_folds_of_ten_cases_are_known_without_scikit_learn() -> None:
    # KFold(5, shuffle=True, random_state=12345) on ten ids, written down once.
    held_out = [fold.validation for fold in make_splits(names(10)).folds]
    assert [[int(case[-3:]) for case in fold] for fold in held_out] == TEN


TEN = [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]


def test_every_case_is_held_out_once() -> None:
    splits = make_splits(names(17))
    assert sorted(case for fold in splits.folds for case in fold.validation) == names(17)
    for fold in splits.folds:
        assert sorted(fold.train + fold.validation) == names(17)


def test_a_group_stays_on_one_side() -> None:
    groups = {case: f"patient {int(case[-3:]) // 3}" for case in names(40)}
    splits = make_splits(names(40), groups=groups)
    sizes = [len(fold.validation) for fold in splits.folds]
    assert max(sizes) - min(sizes) <= 3
    for fold in splits.folds:
        assert not {groups[c] for c in fold.train} & {groups[c] for c in fold.validation}


def test_groups_of_one_change_nothing() -> None:
    ids = names(12)
    assert make_splits(ids, groups={case: case for case in ids}) == make_splits(ids)


def test_duplicates_stay_together_across_groups() -> None:
    ids = names(12)
    splits = make_splits(ids, groups={ids[0]: "a", ids[1]: "a"}, duplicates=[(ids[1], ids[7]), (ids[7], ids[9], "gone")])
    together = {ids[0], ids[1], ids[7], ids[9]}
    assert sum(together <= set(fold.validation) for fold in splits.folds) == 1


def test_too_few_cases_are_refused_unless_fewer_folds_are_asked_for() -> None:
    with pytest.raises(DataError, match="E_FEW_CASES") as caught:
        make_splits(names(4))
    assert caught.value.wanted == 5
    assert caught.value.got == 4
    assert len(make_splits(names(4), allow_fewer=True).folds) == 4
    with pytest.raises(DataError):
        make_splits(names(1), allow_fewer=True)
    with pytest.raises(DataError):  # six files, but of two patients
        make_splits(names(6), groups={case: str(int(case[-1]) % 2) for case in names(6)})


def test_a_fold_is_looked_up_by_name() -> None:
    splits = make_splits(names(10))
    assert splits.fold("2", names(10)) == splits.folds[2]
    assert splits.fold(FULL, names(10)) == Split(train=tuple(names(10)), validation=())
    assert splits.fold("0", names(12)) == splits.folds[0]  # cases left out when the run was planned
    with pytest.raises(UsageError, match="0, 1, 2, 3, 4, full"):
        splits.fold("5", names(10))
    with pytest.raises(DataError, match="case_0009"):
        splits.fold("0", names(9))


def test_splits_survive_their_file(tmp_path: Path) -> None:
    splits = make_splits(names(10))
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json") == splits
    text = (tmp_path / "splits.json").read_text()
    write_text(tmp_path / "splits.json", text.replace('"train"', '"trian"', 1))
    with pytest.raises(ReadError, match=r"splits\.json"):
        read_splits(tmp_path / "splits.json")


def test_a_case_on_both_sides_is_refused() -> None:
    with pytest.raises(ValueError, match="both sides: b"):
        Split(train=("a", "b"), validation=("b",))


def test_nnunet_splits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    write_text(path, '[{"train": ["b", "a"], "val": ["c"]}, {"train": ["c"], "val": ["a"]}]')
    splits = splits_from_nnunet(path, ["a", "b", "c", "d"])
    assert splits.folds == (Split(train=("a", "b"), validation=("c",)), Split(train=("c",), validation=("a",)))
    with pytest.raises(ReadError, match="not among the cases: c"):
        splits_from_nnunet(path, ["a", "b"])
    write_text(path, '{"train": ["a"]}')
    with pytest.raises(ReadError, match="E_SPLITS"):
        splits_from_nnunet(path, ["a"])
