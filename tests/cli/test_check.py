"""What `check` prints: every fault once, alike ones gathered, names as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_datasets import write_blobs, write_case
from typer.testing import CliRunner

from autoseg3d.cli import app


def check(root: Path, *options: str, code: int = 0) -> str:
    """Standard output of the command on a dataset folder."""
    done = CliRunner().invoke(app, ["check", str(root), "--workers", "1", *options], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


def test_a_sound_dataset_and_the_next_command_on_one_line(tmp_path: Path) -> None:
    root = write_blobs(tmp_path / "a folder with a name that is longer than any terminal is wide [bold] and has brackets [" / "b]", 5)
    last = check(root).splitlines()[-1]
    assert last == f"5 cases can be used, 0 warnings. Next: autoseg3d plan {root} --run RUN"


def test_a_fault_of_many_cases_is_told_ten_times_and_then_by_name(tmp_path: Path) -> None:
    root = write_blobs(tmp_path / "raw", 14)
    for i in range(13):
        write_case(root, f"c{i:02d}", np.full((4, 5, 6), 7.0), np.zeros((4, 5, 6)))
    lines = check(root, code=3).splitlines()
    told = [line for line in lines if "E_CONSTANT" in line]
    assert len(told) == 11
    assert told[-1].endswith("the same in 3 more cases, c10, c11, c12")
    assert lines[-1].startswith("13 faults, 1 warning. ")


def test_one_fault_is_not_several(tmp_path: Path) -> None:
    root = write_blobs(tmp_path / "raw", 6)
    (root / "labelsTr/c03.nii.gz").unlink()
    assert "1 fault, 1 warning." in check(root, code=3)
    assert "5 cases can be used" in check(root, "--exclude", "c03")
