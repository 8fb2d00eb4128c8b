"""Planning that is killed between any two renames is completed by the same command, and nothing of the first attempt is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from small_datasets import write_blobs

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes, Reading

NAMES = ["fingerprint.json", "plan.json", "plan.md", "run.json", "splits.json"]


def plan(raw: Path, run: Path) -> None:
    api.plan(raw, run, wishes=PlanWishes(planner="nnunet", changes=("3d_fullres.patch_size=4,8,8",)), reading=Reading(workers=1))


def killed(raw: Path, run: Path, renames: int) -> None:
    """Plans until so many files of the run have their names, then dies as if by kill -9."""
    rename, left = os.replace, [renames]

    def replace(source: str, target: str) -> None:
        if Path(target).parent == run and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= Path(target).parent == run
        rename(source, target)

    os.replace = replace  # type: ignore[assignment]
    plan(raw, run)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kill is timed in a forked process")
@pytest.mark.parametrize("renames", range(len(NAMES)))
def test_killed_planning_leaves_nothing_behind(tmp_path: Path, renames: int) -> None:
    raw, run = write_blobs(tmp_path / "raw", 5), tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(target=killed, args=(raw, run, renames))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(run.glob(".tmp-*"))) == len(NAMES) - renames
    plan(raw, run)
    assert sorted(path.name for path in run.iterdir() if path.is_file() and path.name != ".lock") == NAMES
