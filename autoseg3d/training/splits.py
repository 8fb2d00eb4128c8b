"""Which cases train and which are held out, fold by fold.

The rule is nnU-Net's: five folds of the shuffled, sorted case ids, seed 12345, the numbers that scikit-learn's
KFold(5, shuffle=True, random_state=12345) gives, so that scores can be compared fold by fold. Cases of one group (a
patient, a duplicate) never stand on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError, model_validator

from autoseg3d.errors import DataError, ReadError, UsageError
from autoseg3d.files import read_contract, read_json, write_text
from planners.contract import Contract

SEED = 12345
FOLDS = 5
FULL = "full"


class Split(Contract):
    """One fold: sorted ids of the cases that train and of those held out."""

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self) -> Split:
        if both := sorted(set(self.train) & set(self.validation)):
            raise ValueError(f"these cases stand on both sides: {', '.join(both[:5])}")
        return self


class Splits(Contract):
    """All folds of a run, as written to splits.json.

    rule    where they come from
    cases   sorted ids of all cases that may be used: "full" trains on these
    """

    rule: str
    cases: tuple[str, ...] = Field(min_length=1)
    folds: tuple[Split, ...]

    @model_validator(mode="after")
    def _check(self) -> Splits:
        held_out = [case for fold in self.folds for case in fold.validation]
        if repeated := sorted({case for case in held_out if held_out.count(case) > 1}):
            raise ValueError(f"these cases are held out twice: {', '.join(repeated[:5])}")
        if stray := sorted({case for fold in self.folds for case in fold.train + fold.validation} - set(self.cases)):
            raise ValueError(f"these cases stand in a fold but not among the cases: {', '.join(stray[:5])}")
        return self

    def fold(self, name: str, ids: Sequence[str]) -> Split:
        """The split of fold "0" … or, for "full", all cases with none held out.

        `ids` are the cases that the dataset has now; those that no fold names were left out when the run was planned.
        Raises UsageError for a fold that is not there and DataError where a case of the fold is gone.
        """
        if name != FULL and (not name.isdecimal() or int(name) >= len(self.folds)):
            names = ", ".join([*(str(i) for i in range(len(self.folds))), FULL])
            raise UsageError("there is no such fold", field="fold", wanted=names, got=name)
        split = Split(train=self.cases, validation=()) if name == FULL else self.folds[int(name)]
        if missing := sorted(set(split.train + split.validation) - set(ids)):
            text = f"{len(missing)} cases of splits.json are not in the dataset any more: {', '.join(missing[:5])}"
            raise DataError(text, code="E_SPLITS", remedy="Put them back, or plan again with --overwrite")
        return split


def make_splits(
    ids: Sequence[str],
    *,
    folds: int = FOLDS,
    groups: Mapping[str, str] | None = None,
    duplicates: Sequence[Sequence[str]] = (),
    allow_fewer: bool = False,
) -> Splits:
    """Splits of `ids` into `folds` parts.

    Args:
        ids: the case ids, in any order.
        groups: the group of a case, where it has one; cases of a group stay together.
        duplicates: sets of cases with the same image; they stay together too.
        allow_fewer: whether fewer independent cases than folds give one fold each; else they are refused.

    Raises DataError where there are too few independent cases.
    """
    units = _units(sorted(ids), groups or {}, duplicates)
    if len(units) < folds and allow_fewer:
        folds = len(units)
    if len(units) < max(folds, 2):
        remedy = "Add cases, ask for fewer folds, or train one model on all cases with --fold full"
        raise DataError(
            "too few independent cases to hold some out", code="E_FEW_CASES", wanted=max(folds, 2), got=len(units), remedy=remedy
        )
    grouped = any(len(unit) > 1 for unit in units)
    held_out = _grouped_folds(units, folds) if grouped else _plain_folds(len(units), folds)
    everyone = set(ids)
    rule = f"KFold({folds}, shuffle, seed {SEED}) over sorted ids" if not grouped else f"{folds} folds of whole groups, seed {SEED}"
    parts = [{case for i in part for case in units[i]} for part in held_out]
    split = tuple(Split(train=tuple(sorted(everyone - part)), validation=tuple(sorted(part))) for part in parts)
    return Splits(rule=rule, cases=tuple(sorted(ids)), folds=split)


def _units(ids: list[str], groups: Mapping[str, str], duplicates: Sequence[Sequence[str]]) -> list[list[str]]:
    """Ids gathered so that whatever shares a group or an image shares a unit; in order of their first case."""
    owner = {case: case for case in ids}

    def root(case: str) -> str:
        while owner[case] != case:
            case = owner[case]
        return case

    by_group: dict[str, list[str]] = {}
    for case in ids:
        if case in groups:
            by_group.setdefault(groups[case], []).append(case)
    for together in [*by_group.values(), *duplicates]:
        known = [case for case in together if case in owner]
        for case in known[1:]:
            first, second = sorted((root(known[0]), root(case)))
            owner[second] = first
    units: dict[str, list[str]] = {}
    for case in ids:
        units.setdefault(root(case), []).append(case)
    return list(units.values())


def _plain_folds(n: int, folds: int) -> list[list[int]]:
    """scikit-learn's shuffled KFold: consecutive parts of one shuffle, the first n mod folds of them one longer."""
    order = np.arange(n)
    np.random.RandomState(SEED).shuffle(order)
    return [part.tolist() for part in np.array_split(order, folds)]


def _grouped_folds(units: list[list[str]], folds: int) -> list[list[int]]:
    """Units in shuffled order, largest first, each to the fold with the fewest cases so far (the first of several)."""
    order = np.arange(len(units))
    np.random.RandomState(SEED).shuffle(order)
    parts: list[list[int]] = [[] for _ in range(folds)]
    sizes = [0] * folds
    for i in sorted(order.tolist(), key=lambda i: -len(units[i])):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(i)
        sizes[smallest] += len(units[i])
    return parts


def splits_from_nnunet(path: Path | str, ids: Sequence[str]) -> Splits:
    """The folds of an nnU-Net splits_final.json, a list of {"train": [...], "val": [...]}.

    Raises ReadError where the file is something else or names cases that are not among `ids`.
    """
    value = read_json(path)
    wanted = '[{"train": [...], "val": [...]}, ...] with cases of the dataset'
    try:
        folds = tuple(Split(train=tuple(sorted(fold["train"])), validation=tuple(sorted(fold["val"]))) for fold in value)
        return Splits(rule="splits_final.json of the dataset", cases=tuple(sorted(ids)), folds=folds)
    except (KeyError, TypeError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ReadError(f"not the folds of this dataset: {reason}", file=path, code="E_SPLITS", wanted=wanted) from error


def write_splits(path: Path | str, splits: Splits) -> None:
    """Writes splits.json, whole or not at all."""
    write_text(path, splits.to_json())


def read_splits(path: Path | str) -> Splits:
    """The splits of a run. Raises ReadError naming the file and what is wrong."""
    return read_contract(Path(path), Splits)
