"""JSON files that were spoilt in any way are read as something valid or refused with file and cause; never a traceback."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from json_mutations import Subject, mutated, subjects, verdict

NAMES = (
    "dataset.json", "plan.json", "fingerprint.json", "splits.json", "run.json", "manifest.json", "CASE.json", "state.json", "result.json",
    "splits_final.json", "dataset_fingerprint.json",
)  # fmt: skip
EACH = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    return {subject.name: subject for subject in subjects(tmp_path_factory.mktemp("json"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_spoilt_file_is_valid_or_refused_by_name(made: dict[str, Subject], name: str) -> None:
    subject, rng = made[name], random.Random(name)
    assert verdict(subject, subject.path.read_bytes()) == "valid"
    good = json.loads(subject.path.read_bytes())
    for _ in range(EACH):
        data = mutated(good, rng)
        assert verdict(subject, data) in ("valid", "refused"), data[:2000]


def test_every_kind_of_file_is_tried(made: dict[str, Subject]) -> None:
    assert tuple(made) == NAMES


def test_mutations_differ_and_come_again(made: dict[str, Subject]) -> None:
    good = json.loads(Path(made["plan.json"].path).read_bytes())
    first, second = ([mutated(good, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 40
