"""One batch with every fault in it: each is told by its code, and no other scan notices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_scans import FAULTS, sound

from autoseg3d.doctor.golden import write_golden_package

GOOD = 12


def predict(scans: Path, model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autoseg3d", "predict", str(scans), "--model", str(model), "--out", str(out), "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def labels(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path, Path]:
    """The command over good and faulty scans, its output, and the output of a clean run over the good ones."""
    folder = tmp_path_factory.mktemp("batch")
    write_golden_package(folder / "model")
    for name in ("clean", "mixed"):
        (folder / name).mkdir()
        for seed in range(GOOD):
            sound(seed)(folder / name / f"good_{seed:02d}")
    for index, fault in enumerate(FAULTS):
        fault.write(folder / "mixed" / f"bad_{index:02d}")
    assert predict(folder / "clean", folder / "model", folder / "out_clean").returncode == 0
    return predict(folder / "mixed", folder / "model", folder / "out"), folder / "out", folder / "out_clean"


def test_the_batch_ends_with_three_and_lists_every_case(batch: tuple[subprocess.CompletedProcess[str], Path, Path]) -> None:
    done, out, _ = batch
    assert done.returncode == 3, done.stderr
    cases = json.loads((out / "results.json").read_text())["cases"]
    assert len(cases) == GOOD + len(FAULTS)


@pytest.mark.parametrize("index", range(len(FAULTS)), ids=[fault.name for fault in FAULTS])
def test_every_fault_is_told_by_its_code(batch: tuple[subprocess.CompletedProcess[str], Path, Path], index: int) -> None:
    cases = {case["case"]: case for case in json.loads((batch[1] / "results.json").read_text())["cases"]}
    found = cases[f"bad_{index:02d}"]
    assert found["status"] == "failed"
    assert found["code"] in FAULTS[index].codes, found
    assert found["cause"]
    assert f"bad_{index:02d}" in found["cause"], "the cause names the file"
    assert found["remedy"], "what to do is said"
    assert not (batch[1] / f"bad_{index:02d}.nii.gz").exists()


def test_good_scans_come_out_as_if_alone(batch: tuple[subprocess.CompletedProcess[str], Path, Path]) -> None:
    _, out, clean = batch
    assert len(labels(clean)) == GOOD
    assert labels(out) == labels(clean)
