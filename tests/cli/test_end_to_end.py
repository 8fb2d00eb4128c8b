"""The whole way by the command line on a small phantom: check, plan, train, predict, evaluate, package, info; and bad input."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg3d.phantom import write_phantom_dataset


def run(*arguments: object, code: int = 0) -> str:
    """Runs the program as a user does; its exit code must be `code`. Returns stdout and stderr in one."""
    command = [sys.executable, "-m", "autoseg3d", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "raw"
    write_phantom_dataset(folder, cases=5, test_cases=2)
    return folder


@pytest.fixture(scope="module")
def trained(raw: Path) -> Path:
    """A run with folds 0 and 1 trained for two steps each."""
    folder = raw.parent / "run"
    run("plan", raw, "--run", folder, "--minutes", 1, "--set", "base_features=8")
    for fold in (0, 1):
        run("train", folder, "--fold", fold, "--epochs", 1, "--iterations", 2)
    return folder


def test_check_counts_the_cases(raw: Path) -> None:
    assert "5 cases can be used" in run("check", raw)


def test_a_plan_leaves_its_four_files(trained: Path) -> None:
    for name in ("fingerprint.json", "plan.json", "plan.md", "splits.json"):
        assert (trained / name).stat().st_size > 100
    plan = json.loads((trained / "plan.json").read_text())
    network = plan["configurations"]["3d_fullres"]["network"]
    assert set(network["stages"][0]) == {"features", "kernel", "stride", "blocks"}
    assert network["decoder_blocks"]
    assert network["stages"][0]["features"] == 8


def test_short_runs_do_not_flip_and_long_ones_not_left_into_right(raw: Path, trained: Path) -> None:
    assert json.loads((trained / "plan.json").read_text())["mirror_axes"] == []
    run("plan", raw, "--run", raw.parent / "long", "--hours", 5000)
    assert json.loads((raw.parent / "long" / "plan.json").read_text())["mirror_axes"] == [0, 1]


def test_training_leaves_a_model_curves_and_scores(trained: Path) -> None:
    fold = trained / "folds" / "3d_fullres" / "fold_0"
    assert (fold / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len((fold / "log.jsonl").read_text().splitlines()) == 1
    with open(fold / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"case", "label", "label_name", "dice"} <= set(rows[0])
    assert "fold 1" in run("info", trained)


def test_a_finished_fold_is_not_trained_again(trained: Path) -> None:
    before = (trained / "model" / "manifest.json").read_bytes()
    run("train", trained, "--fold", 0, "--epochs", 1, "--iterations", 2, "--resume")
    assert (trained / "model" / "manifest.json").read_bytes() == before


def test_predictions_lie_on_the_scans_own_grid_and_bad_scans_stop_nobody(raw: Path, trained: Path) -> None:
    scans, out = raw.parent / "scans", raw.parent / "out"
    shutil.copytree(raw / "imagesTs", scans)
    whole = (scans / "phantom_test_001_0000.nii.gz").read_bytes()
    (scans / "cut_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    text = run("predict", scans, "--model", trained, "--out", out, "--no-mirror", code=3)
    assert "E_TRUNCATED" in text
    for case in ("phantom_test_001", "phantom_test_002"):
        scan, labels = (nibabel.load(path) for path in (scans / f"{case}_0000.nii.gz", out / f"{case}.nii.gz"))
        assert labels.shape == scan.shape
        for field in ("srow_x", "srow_y", "srow_z", "qform_code", "sform_code", "quatern_b", "qoffset_x", "pixdim", "xyzt_units"):
            assert np.array_equal(labels.header[field], scan.header[field])
    results = {row["case"]: row for row in json.loads((out / "results.json").read_text())["cases"]}
    assert results["cut"]["status"] == "failed"
    assert results["phantom_test_001"]["status"] in {"done", "review"}
    assert len((out / "results.csv").read_text().splitlines()) == 4


def test_evaluation_has_a_row_per_case_and_label(raw: Path) -> None:
    scores = raw.parent / "scores"
    shutil.copytree(raw / "labelsTs", raw.parent / "same")
    run("evaluate", raw.parent / "same", raw / "labelsTs", "--out", scores, "--dataset", raw / "dataset.json")
    with open(scores / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["dice"]) for row in rows if row["dice"]} == {1.0}
    assert {row["case"] for row in rows} == {"phantom_test_001", "phantom_test_002"}


def test_a_packed_model_predicts_the_same(raw: Path, trained: Path) -> None:
    packed = raw.parent / "model.a3d"
    run("package", trained, "-o", packed)
    scan = raw / "imagesTs" / "phantom_test_001_0000.nii.gz"
    for model, out in ((trained, "from_run"), (packed, "from_file")):
        run("predict", scan, "--model", model, "--out", raw.parent / out, "--no-mirror", "--folds", "0")
    one, other = ((raw.parent / out / "phantom_test_001.nii.gz").read_bytes() for out in ("from_run", "from_file"))
    assert one == other


def test_a_changed_byte_in_the_model_is_refused(raw: Path, trained: Path) -> None:
    copy = raw.parent / "altered"
    shutil.copytree(trained / "model", copy)
    weights = copy / "weights" / "3d_fullres" / "fold_0.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "E_MODEL_ALTERED" in run("predict", raw / "imagesTs", "--model", copy, "--out", raw.parent / "never", code=3)
    assert not (raw.parent / "never").exists()


def test_every_fault_of_a_dataset_is_listed_and_nothing_is_written(raw: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(raw, bad)
    (bad / "labelsTr" / "phantom_001.nii.gz").unlink()
    image = bad / "imagesTr" / "phantom_002_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:5000])
    (bad / "imagesTr" / "phantom_003_0000.nii.gz").write_text("not a scan")
    label = nibabel.load(bad / "labelsTr" / "phantom_004.nii.gz")
    wrong = np.asarray(label.dataobj).copy()
    wrong[0, 0, 0] = 77
    nibabel.save(nibabel.Nifti1Image(wrong, label.affine, label.header), bad / "labelsTr" / "phantom_004.nii.gz")
    for text in (run("check", bad, code=3), run("plan", bad, "--run", tmp_path / "run", code=3)):
        for case, reason in (("phantom_001", "E_"), ("phantom_002", "E_TRUNCATED"), ("phantom_003", "E_"), ("phantom_004", "77")):
            assert any(case in line and reason in line for line in text.splitlines()), (case, text)
    assert not (tmp_path / "run").exists()


def test_outputs_inside_inputs_and_unknown_names_are_refused(raw: Path, trained: Path) -> None:
    assert "E_OUT_IN_INPUT" in run("plan", raw, "--run", raw / "run", code=2)
    assert "E_OUT_IN_INPUT" in run("predict", raw / "imagesTs", "--model", trained, "--out", raw / "imagesTs" / "out", code=2)
    assert "standard" in run("plan", raw, "--run", raw.parent / "other", "--planner", "nonsense", code=2)
    assert "3d_fullres" in run("train", trained, "--fold", 0, "--configuration", "4d", code=2)
    assert run("train", trained, "--fold", 9, code=2)
    assert "E_MODEL_MISSING" in run("predict", raw / "imagesTs", "--model", raw, "--out", raw.parent / "o", code=3)
