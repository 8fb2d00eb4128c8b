"""Observations kept on disk: found again, tied to their files, unharmed by a torn line."""

import os
from pathlib import Path

import numpy as np
import pytest
from small_datasets import LPS, blob_case

from autoseg3d.case import Case
from autoseg3d.errors import StorageError
from autoseg3d.fingerprinting.journal import Journal, case_key
from autoseg3d.fingerprinting.observation import Observation, observe
from autoseg3d.geometry import Geometry
from autoseg3d.io.case_files import CaseFiles
from planners.labels import label_table

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})


@pytest.fixture
def observation() -> Observation:
    image, labels = blob_case(np.random.default_rng(0))
    return observe(Case("a", image[None], Geometry.from_affine(labels.shape, LPS), labels), TABLE)


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    for name in ("image.nii", "label.nii"):
        (tmp_path / name).write_bytes(b"x" * 100)
    return CaseFiles("a", (tmp_path / "image.nii",), tmp_path / "label.nii")


def test_observations_are_found_again(tmp_path: Path, observation: Observation) -> None:
    journal = Journal(tmp_path / "new")
    assert journal.get("k") is None
    journal.add("k", observation)
    assert Journal(tmp_path / "new").get("k") == observation


def test_without_a_folder_nothing_is_written(observation: Observation) -> None:
    journal = Journal(None)
    journal.add("k", observation)
    assert journal.get("k") == observation


def test_a_line_cut_at_any_place_costs_only_itself(tmp_path: Path, observation: Observation) -> None:
    journal = Journal(tmp_path)
    for key in ("one", "two"):
        journal.add(key, observation)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    second = whole.index(b"\n", 1) + 1
    for cut in (second + 1, second + 40, len(whole) - 2):
        path.write_bytes(whole[:cut])
        after = Journal(tmp_path)
        assert after.get("one") == observation
        assert after.get("two") is None
        after.add("three", observation)
        assert Journal(tmp_path).get("three") == observation


def test_rubbish_lines_are_skipped(tmp_path: Path, observation: Observation) -> None:
    Journal(tmp_path).add("k", observation)
    path = next(tmp_path.iterdir())
    path.write_bytes(b'{"key": 3}\n[]\nnull\n\xff\xfe\n{"key":"j","observation":{}}\n' + path.read_bytes())
    journal = Journal(tmp_path)
    assert journal.get("k") == observation
    assert journal.get("j") is None


def test_what_belongs_to_no_case_is_dropped_once_it_is_most_of_the_file(tmp_path: Path, observation: Observation) -> None:
    journal = Journal(tmp_path)
    for i in range(5):
        journal.add(f"k{i}", observation)
    path = next(tmp_path.iterdir())
    size = path.stat().st_size
    journal.keep_only({"k0", "k1", "k2"})
    assert path.stat().st_size == size
    journal.keep_only({"k0", "k4"})
    assert path.stat().st_size < size / 2
    again = Journal(tmp_path)
    assert [again.get(f"k{i}") is not None for i in range(5)] == [True, False, False, False, True]


def test_the_key_changes_with_files_labels_and_options(files: CaseFiles) -> None:
    key = case_key(files, TABLE, geometry="auto")
    assert case_key(files, TABLE, geometry="auto") == key
    assert case_key(files, TABLE, geometry="sform") != key
    assert case_key(files, label_table({"background": 0, "organ": 1}), geometry="auto") != key
    assert files.label is not None
    os.utime(files.label, ns=(1, 1))
    changed = case_key(files, TABLE, geometry="auto")
    assert changed != key
    files.images[0].write_bytes(b"y" * 101)
    assert case_key(files, TABLE, geometry="auto") not in (key, changed)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, observation: Observation) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write anywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError):
        Journal(tmp_path / "in").add("k", observation)
