"""train_fold from files to the model package: scores, resume at every stage, refusals, folds side by side."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import TRAINING, Run, made_run, train
from spheres import SIZE

from autoseg3d.errors import InterruptedByUserError, LockedError, UsageError
from autoseg3d.files import lock, sha256
from autoseg3d.io import read_volume, write_image
from autoseg3d.package import open_package
from autoseg3d.prediction import Predictor
from autoseg3d.training import TrainOptions, train_fold
from autoseg3d.training.fold import choose_weights
from autoseg3d.training.state import Progress
from planners.plan import TrainingPlan


@pytest.fixture
def run(raw: Path, tmp_path: Path) -> Run:
    return made_run(raw, tmp_path / "run")


def test_a_fold_from_files_to_the_package(run: Run, raw: Path) -> None:
    events: list[dict[str, Any]] = []
    result = train(run, watch=events.append)
    assert result.mean_dice > 0.6
    assert result.cases == 2
    assert (result.steps, result.epochs, result.chosen, result.attempts) == (60, 3, "averaged", 1)
    folder = run[0] / "folds" / "3d_fullres" / "fold_0"
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert [(row["case"], row["label"], row["label_name"]) for row in rows] == [
        (case, value, name) for case in ("case_0", "case_7") for value, name in (("1", "bright"), ("2", "dim"))
    ]
    assert np.mean([float(row["dice"]) for row in rows]) == pytest.approx(result.mean_dice)
    for case in ("case_0", "case_7"):
        predicted = read_volume(folder / "validation" / f"{case}.nii.gz", labels=True)
        assert predicted.geometry.same_grid(read_volume(raw / "imagesTr" / f"{case}_0000.nii.gz").geometry)
    package = open_package(run[0])
    assert package.folds("3d_fullres") == ("0",)
    assert package.fold("3d_fullres", "0").scores["mean_dice"] == pytest.approx(result.mean_dice)
    assert Predictor.from_package(package, device="cpu")
    assert len(list((folder / "state").glob("*.json"))) == 1
    said = {event["event"]: event["message"] for event in events if "message" in event}
    assert "8 cases, 2 held out" in said["start"]
    assert "60 steps" in said["forecast"]
    assert "over 2 held-out cases" in said["done"]


@pytest.mark.parametrize("chosen", ["fp32", "bf16"])
def test_a_resumed_run_keeps_its_precision_whatever_is_faster_by_then(run: Run, chosen: str) -> None:
    train(run, iterations=2, epochs=1, precision=chosen, validate_cases=False)
    events: list[dict[str, Any]] = []
    train(run, mode="resume", iterations=2, epochs=2, precision="auto", validate_cases=False, watch=events.append)
    assert f"cpu in {chosen}" in next(event["message"] for event in events if event["event"] == "start")
    assert not any("precision" in event.get("message", "") for event in events)


def test_a_finished_fold_is_left_alone_or_made_longer(run: Run) -> None:
    first = train(run, iterations=4, epochs=1)
    manifest = sha256(run[0] / "model" / "manifest.json")
    with pytest.raises(UsageError, match="finished already"):
        train(run, iterations=4, epochs=1)
    older = run[0] / "folds" / "3d_fullres" / "fold_0" / "state" / "state-00000000.json"
    older.write_text("left where the run before ended between its result and its tidying up")
    assert train(run, mode="resume") == first
    assert not older.exists()
    assert train(run, mode="resume", iterations=4, epochs=1) == first
    assert sha256(run[0] / "model" / "manifest.json") == manifest
    with pytest.raises(UsageError, match="can be made longer"):
        train(run, mode="resume", iterations=5)
    longer = train(run, mode="resume", epochs=2)
    assert (longer.steps, longer.epochs) == (8, 2)
    assert train(run, mode="restart", iterations=4, epochs=1).weights_sha256 == first.weights_sha256


def test_interrupted_while_validating_it_goes_on_there(run: Run) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what.startswith("Validating") and done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedByUserError):
        train(run, iterations=4, epochs=1, progress=progress)
    folder = run[0] / "folds" / "3d_fullres" / "fold_0"
    (written,) = (folder / "validation").glob("*.nii.gz")
    before = written.stat().st_mtime_ns
    for left in (folder, folder / "validation"):
        (left / ".tmp-left-by-a-kill.nii.gz").write_bytes(b"x")
    events: list[dict[str, Any]] = []
    result = train(run, mode="resume", watch=events.append)
    assert result.cases == 2
    assert written.stat().st_mtime_ns == before
    assert not any(event["event"] == "epoch" for event in events)
    assert not list(folder.rglob(".tmp-*"))


def test_folds_and_a_model_of_all_cases_lie_side_by_side(run: Run) -> None:
    train(run, "1", iterations=2, epochs=1)
    full = train(run, "full", iterations=2, epochs=1)
    assert full.mean_dice is None
    assert full.cases == 0
    assert open_package(run[0]).folds("3d_fullres") == ("1", "full")


def test_changed_data_is_noticed(raw: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "Dataset002_Copy"
    shutil.copytree(raw, copy)
    run = made_run(copy, tmp_path / "run")

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedByUserError):
        train(run, iterations=2, watch=watch)
    volume = read_volume(copy / "imagesTr" / "case_3_0000.nii.gz")
    write_image(copy / "imagesTr" / "case_3_0000.nii.gz", volume.array + np.arange(SIZE, dtype=np.float32), volume.geometry)
    with pytest.raises(UsageError, match="the data changed"):
        train(run, mode="resume")


def test_what_cannot_be_trained_is_refused(run: Run) -> None:
    folder, dataset, plan = run
    with pytest.raises(UsageError, match="no such fold"):
        train(run, "5")
    with pytest.raises(UsageError, match="no such configuration"):
        train_fold(folder, dataset, plan, configuration="2d", fold="0")
    with lock(folder / "folds" / "3d_fullres" / "fold_0"), pytest.raises(LockedError):
        train(run)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"seconds": -1}, {"mode": "anew"}, {"workers": -1}, {"seconds": float("nan")}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TrainOptions(**wrong)


def test_which_weights_are_chosen() -> None:
    def ended(*losses: float, ema: float = 0.5) -> Progress:
        return Progress(ema=ema, best_ema=0.8, log=[{"attempt": 1, "loss": loss} for loss in losses])

    falling, risen = [1.0 / (i + 1) for i in range(30)], [1.0 / (i + 1) for i in range(20)] + [0.9] * 10
    sgd = TrainingPlan()
    assert choose_weights(ended(*falling), sgd) == "final"
    assert choose_weights(ended(*falling), TRAINING) == "averaged"
    assert choose_weights(ended(*risen), TRAINING) == "best"
    assert choose_weights(Progress(), sgd) == "final"
    # What held-out cases say decides nothing: whether the pseudo-Dice fell far below its best, all stays as it is.
    assert choose_weights(ended(*falling, ema=0.1), sgd) == choose_weights(ended(*falling, ema=0.8), sgd)


def test_the_threads_of_the_caller_are_left_as_they_were(run: Run) -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    train(run, iterations=1, epochs=1, threads=1, validate_cases=False)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
