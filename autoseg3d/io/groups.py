"""Groups of cases (frames of one patient, scans of one person) that no split may pull apart."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from autoseg3d.errors import Autoseg3dError, DataError, UsageError
from autoseg3d.files import read_json


def read_groups(root: Path, cases: Sequence[str], pattern: str | None) -> tuple[dict[str, str], list[str], list[Autoseg3dError]]:
    """({case: group}, warnings, faults) from `pattern`, else from groups.json or groups.csv in `root`, else no groups.

    `pattern` is a regular expression matched at the beginning of each case's name; the group is its first bracket, or the
    whole match. groups.json holds {case: group}, groups.csv two columns `case,group`.
    """
    if pattern is not None:
        return _by_pattern(cases, pattern)
    found = [root / name for name in ("groups.json", "groups.csv") if (root / name).is_file()]
    if not found:
        return {}, [], []
    path = found[0]
    try:
        groups = _from_json(path) if path.suffix == ".json" else _from_csv(path)
    except Autoseg3dError as fault:
        return {}, [], [fault]
    warnings = []
    if len(found) > 1:
        warnings.append(f"{found[1].name} is ignored, since there is a {path.name}")
    if unknown := sorted(set(groups) - set(cases)):
        warnings.append(f"{path.name} names cases that are not in the dataset: {_some(unknown)}")
    if missing := sorted(set(cases) - set(groups)):
        warnings.append(f"{path.name} gives no group to {_some(missing)}: each is a group of its own")
    return groups, warnings, []


def _by_pattern(cases: Sequence[str], pattern: str) -> tuple[dict[str, str], list[str], list[Autoseg3dError]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"the group pattern is not a regular expression: {error}", field="group pattern", got=pattern) from error
    matches = {case: compiled.match(case) for case in cases}
    groups = {case: (m[1] if compiled.groups and m[1] is not None else m[0]) for case, m in matches.items() if m}
    missing = [case for case in cases if case not in groups]
    warnings = [f"the group pattern {pattern!r} does not match {_some(missing)}: each is a group of its own"] if missing else []
    return groups, warnings, []


def _from_json(path: Path) -> dict[str, str]:
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(group, str | int) for group in value.values()):
        raise _malformed(path, "an object {case: group}")
    return {case: str(group) for case, group in value.items()}


def _from_csv(path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _malformed(path, f"a table in UTF-8 ({error})") from error
    if rows and [cell.strip().lower() for cell in rows[0]] == ["case", "group"]:
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0].strip() in groups:
            raise _malformed(path, f"two columns, case and group, each case once (row {number})")
        groups[row[0].strip()] = row[1].strip()
    return groups


def _malformed(path: Path, wanted: str) -> DataError:
    return DataError("the file of groups cannot be read", file=path, code="E_GROUPS", wanted=wanted, remedy="Correct or remove it")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
