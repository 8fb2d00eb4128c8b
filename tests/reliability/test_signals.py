"""A batch that is told to stop leaves with 4 and nothing half done; under nohup it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_scans import sound

from autoseg3d.doctor.golden import write_golden_package

SCANS = 30

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    write_golden_package(tmp_path / "model")
    (tmp_path / "scans").mkdir()
    for seed in range(SCANS):
        sound(seed)(tmp_path / "scans" / f"s{seed:02d}")
    options = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--device", "cpu", "--precision", "fp32"]
    return [sys.executable, "-m", "autoseg3d", "predict", str(tmp_path / "scans"), *options]


def begun(command: list[str], out: Path) -> subprocess.Popen[str]:
    """The command, running, with its first scan finished."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("s*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_leaves_what_is_finished_and_nothing_else(command: list[str], tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    process = begun(command, out)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == (4 if number == signal.SIGTERM else 130), said
    assert "Traceback" not in said
    if number == signal.SIGTERM:
        assert "E_INTERRUPTED: stopped by SIGTERM" in said
    finished = {path.stem for path in out.glob("s*.json")}
    assert 0 < len(finished) < SCANS
    assert {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz")} >= finished
    assert not list(out.glob(".tmp-*"))


def test_under_nohup_it_goes_on(command: list[str], tmp_path: Path) -> None:
    process = begun(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command], tmp_path / "out")
    process.send_signal(signal.SIGHUP)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert len(list((tmp_path / "out").glob("s*.json"))) == SCANS
