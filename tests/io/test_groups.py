"""Groups from a file or a name pattern."""

import json
from pathlib import Path

import pytest

from autoseg3d.errors import UsageError
from autoseg3d.io.groups import read_groups

CASES = ["p1_a", "p1_b", "p2_a"]


def test_no_groups(tmp_path: Path) -> None:
    assert read_groups(tmp_path, CASES, None) == ({}, [], [])


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("\ufeffcase,group\np1_a,1\np1_b,1\np2_a,2\n", encoding="utf-8")
    wanted = {"p1_a": "1", "p1_b": "1", "p2_a": "2"}
    assert read_groups(tmp_path, CASES, None) == (wanted, [], [])
    (tmp_path / "groups.json").write_text(json.dumps({"p1_a": 1, "p1_b": 1, "p2_a": "2"}))
    assert read_groups(tmp_path, CASES, None) == (wanted, ["groups.csv is ignored, since there is a groups.json"], [])


def test_unknown_and_missing_cases_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(json.dumps({"p1_a": "1", "gone": "9"}))
    groups, warnings, faults = read_groups(tmp_path, CASES, None)
    assert groups["p1_a"] == "1"
    assert not faults
    assert warnings == [
        "groups.json names cases that are not in the dataset: gone",
        "groups.json gives no group to p1_b, p2_a: each is a group of its own",
    ]


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("groups.json", "[1, 2]", "E_GROUPS"),
        ("groups.json", '{"a": [1]}', "E_GROUPS"),
        ("groups.json", '{"a": 1, "a": 2}', "E_JSON"),
        ("groups.csv", "a,b,c\n", "E_GROUPS"),
        ("groups.csv", "p1_a,1\np1_a,2\n", "E_GROUPS"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str, code: str) -> None:
    (tmp_path / name).write_text(text)
    _, _, faults = read_groups(tmp_path, CASES, None)
    assert [fault.code for fault in faults] == [code]


def test_a_pattern_takes_its_bracket_or_the_whole_match(tmp_path: Path) -> None:
    assert read_groups(tmp_path, CASES, r"p\d")[0] == {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    assert read_groups(tmp_path, CASES, r"p(\d)_")[0] == {"p1_a": "1", "p1_b": "1", "p2_a": "2"}
    groups, warnings, _ = read_groups(tmp_path, CASES, "p1")
    assert groups == {"p1_a": "p1", "p1_b": "p1"}
    assert warnings == ["the group pattern 'p1' does not match p2_a: each is a group of its own"]
    with pytest.raises(UsageError, match="regular expression"):
        read_groups(tmp_path, CASES, "p(")
