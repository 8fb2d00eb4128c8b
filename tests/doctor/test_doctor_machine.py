"""What the doctor says of a machine, on real disks and with real limits where those can be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg3d.doctor import Finding, examine_machine, worst
from autoseg3d.doctor.machine import LITTLE_DISK, LITTLE_MEMORY


def found(folder: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine_machine(folder)}


def test_everything_is_looked_at_and_the_folder_left_as_it_was(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert {"versions", "processor", "memory", "disk", "writing", "clock", "processes", "extras"} <= findings.keys()
    assert all(finding.verdict != "fault" for finding in findings.values()), findings
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="mounting a disk takes root")
def test_a_full_disk_is_a_fault(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("disks cannot be mounted here")
    try:
        (tmp_path / "filler").write_bytes(b"x" * 60_000)
        findings = found(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert findings["disk"].verdict == "fault"
    assert "results will not fit" in findings["disk"].said


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = {finding.what: finding for finding in _writing_in(Path("/proc/self"))} if os.name != "nt" else {}
    if not findings:
        pytest.skip("no such folder on this system")
    assert findings["writing"].verdict == "fault"
    assert "cannot be written" in findings["writing"].said


def _writing_in(folder: Path) -> list[Finding]:
    from autoseg3d.doctor.machine import _writing

    return [_writing(folder)]


def test_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg3d.doctor import machine

    for free, verdict in ((LITTLE_MEMORY - 1, "warning"), (1000, "fault"), (LITTLE_MEMORY + 1, "fine")):
        monkeypatch.setattr(machine, "free_memory_bytes", lambda device, free=free: free)
        assert machine._memory().verdict == verdict
    assert LITTLE_DISK > 2**30


def test_the_gravest_verdict_counts() -> None:
    fine, warning, fault = (Finding("x", verdict, "") for verdict in ("fine", "warning", "fault"))  # type: ignore[arg-type]
    assert [worst(f) for f in ([], [fine], [fine, warning], [warning, fault, fine])] == ["fine", "fine", "warning", "fault"]


def test_the_command_prints_and_exits_with_zero(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "autoseg3d", "doctor", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden scan" in done.stdout


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autoseg3d", "doctor", str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no such folder" in done.stderr
