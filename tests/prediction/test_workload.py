"""The time left of a batch goes by voxels, and a drive that hangs does not hold a batch for ever."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import noise, plan, write_package, write_scan

from autoseg3d.cli import show
from autoseg3d.errors import DataError
from autoseg3d.io import CaseFiles, find_scans
from autoseg3d.prediction import CaseRecord, PredictOptions, predict_scans
from autoseg3d.prediction.beside import Beside
from autoseg3d.prediction.deadline import Deadline, Reader, reading_seconds
from autoseg3d.prediction.workload import WORK, Workload

OPTIONS = PredictOptions(device="cpu", precision="fp32", mirror=False)


def _scans(folder: Path, *lengths: int) -> tuple[CaseFiles, ...]:
    for i, length in enumerate(lengths):
        write_scan(folder / f"scan_{i}.nii.gz", noise((length, 20, 20)))
    return find_scans(folder, num_channels=1)


def _told(scans: tuple[CaseFiles, ...], steps: object) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    workload = Workload(scans, lambda *news: told.append(news))
    assert workload._headers is not None
    workload._headers.wait()
    steps(workload)  # type: ignore[operator]
    return [news for news in told if news[0] == WORK]


def test_large_scans_count_more_than_small_ones(tmp_path: Path) -> None:
    def steps(workload: Workload) -> None:
        workload.begin(0)
        workload.watching(0)("windows", 1, 2)  # type: ignore[misc]
        workload.begin(1)
        workload.begin(2)

    assert _told(_scans(tmp_path, 10, 90), steps) == [(WORK, 0, 40), (WORK, 2, 40), (WORK, 4, 40), (WORK, 40, 40)]


def test_scans_that_need_no_work_count_for_nothing(tmp_path: Path) -> None:
    def steps(workload: Workload) -> None:
        workload.skip(0)
        workload.begin(1)

    assert _told(_scans(tmp_path, 90, 10), steps) == [(WORK, 0, 4)]


def test_a_scan_whose_header_cannot_be_read_counts_as_an_average_one(tmp_path: Path) -> None:
    scans = (*_scans(tmp_path, 10, 30), CaseFiles("broken", (tmp_path / "missing.nii.gz",)))
    assert _told(scans, lambda workload: workload.begin(0)) == [(WORK, 0, 24)]


def test_a_batch_tells_its_voxels_and_only_grows(tmp_path: Path) -> None:
    model = write_package(tmp_path / "model", plan(), ("0",))
    told: list[tuple[str, int, int]] = []
    scans = _scans(tmp_path / "scans", 20, 40, 20)
    predict_scans(scans, model, tmp_path / "out", OPTIONS, progress=lambda *news: told.append(news))
    work = [done for what, done, _ in told if what == WORK]
    assert work == sorted(work)
    assert work[-1] == 32
    assert [done for what, done, _ in told if what == "scans"] == [0, 1, 2, 3]


def test_the_time_left_of_scans_is_told_by_their_voxels() -> None:
    now = [100.0]
    pace = show._Pace(clock=lambda: now[0])
    pace.note("scans", 0, 2)
    assert pace.left("scans") is None
    pace.note("kilovoxels", 0, 100)
    now[0] = 110.0
    pace.note("scans", 1, 2)
    pace.note("kilovoxels", 10, 100)
    assert pace.left("scans") == pytest.approx(90.0)
    assert pace.left("windows") is None


# a drive that hangs


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_a_drive_that_hangs_is_given_up_without_being_asked(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for it."""
    os.mkfifo(tmp_path / "hangs.nii.gz")
    scan, reader = CaseFiles("hangs", (tmp_path / "hangs.nii.gz",)), Reader(tmp_path, "auto", waking_seconds=0.2)
    begun = time.monotonic()
    with pytest.raises(DataError, match="E_TIMEOUT") as caught:
        reader.hashes(scan, Deadline("hangs", None))
    assert time.monotonic() - begun < 10
    assert "drive" in (caught.value.remedy or "")


def test_the_limit_grows_with_the_files_and_is_in_the_record(tmp_path: Path) -> None:
    scans = _scans(tmp_path / "scans", 20)
    small = reading_seconds(scans[0])
    (tmp_path / "large.nii.gz").write_bytes(b"\0" * 2**22)
    assert reading_seconds(CaseFiles("large", (tmp_path / "large.nii.gz",))) > small + 3
    model = write_package(tmp_path / "model", plan(), ("0",))
    for timeout, name in ((None, "free"), (100.0, "asked")):
        predict_scans(scans, model, tmp_path / name, OPTIONS.model_copy(update={"timeout_seconds": timeout}))
    free, asked = (CaseRecord.model_validate_json((tmp_path / name / "scan_0.json").read_text()) for name in ("free", "asked"))
    assert free.reading_limit_seconds == pytest.approx(small, abs=0.1)
    assert asked.reading_limit_seconds is None


def test_work_beside_that_takes_too_long_is_left_to_itself() -> None:
    with pytest.raises(TimeoutError):
        Beside(lambda: time.sleep(2)).result(0.05)
    assert Beside(lambda: np.arange(3).sum()).result(5) == 3
