"""All folds: a fold's failure stays its own, what was held out is gathered, and several processes change nothing."""

import csv
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from runs import Run, full_resolution, made_run, train, write_spheres

from autoseg3d import api
from autoseg3d.evaluation import read_scores
from autoseg3d.files import lock, read_contract
from autoseg3d.package import open_package
from autoseg3d.training import FoldResult, TrainOptions
from autoseg3d.training.cross_validation import CrossValidation, train_folds
from autoseg3d.training.side_by_side import FoldFailure, in_processes

SHORT: dict[str, Any] = {"device": "cpu", "precision": "fp32", "workers": 0, "epochs": 1, "iterations": 4, "threads": 1, "pictures": False}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spheres(tmp_path_factory.mktemp("Dataset004_Four"), 4)


@pytest.fixture
def run(few: Path, tmp_path: Path) -> Run:
    return made_run(few, tmp_path / "run", folds=2)


def test_a_fold_that_fails_does_not_stop_the_others_and_all_is_gathered_in_the_end(run: Run) -> None:
    folder, *_ = run
    with lock(folder / "folds" / "3d_fullres" / "fold_0"):
        trained = api.train(folder, fold="all", options=TrainOptions(**SHORT))
    assert [result.fold for result in trained.results] == ["1"]
    assert [(failure.fold, failure.exit_code) for failure in trained.failures] == [("0", 4)]
    assert trained.exit_code == 4
    assert trained.cross_validation is None
    trained = api.train(folder, fold="all", options=TrainOptions(**SHORT))
    assert trained.exit_code == 0
    assert open_package(folder).folds("3d_fullres") == ("0", "1")

    gathered = folder / "folds" / "3d_fullres" / "cross_validation"
    rows = list(csv.DictReader((gathered / "scores.csv").open()))
    assert sorted({row["case"] for row in rows}) == [f"case_{i}" for i in range(4)]
    assert read_scores(gathered).summary.cases == 4
    found = read_contract(gathered / "folds.json", CrossValidation)
    assert found == trained.cross_validation
    over_folds = [result.mean_dice for result in trained.results]
    assert list(found.folds.values()) == pytest.approx(over_folds)
    assert found.labels["mean"]["folds"].mean == pytest.approx(statistics.fmean(v for v in over_folds if v is not None))
    bright = [float(row["dice"]) for row in rows if row["label_name"] == "bright"]
    assert found.labels["bright"]["cases"].std == pytest.approx(statistics.stdev(bright))
    assert found.missing == ()


def test_folds_side_by_side_are_those_trained_in_turn(run: Run, few: Path, tmp_path: Path) -> None:
    folder, dataset, plan = run
    events: list[dict[str, Any]] = []
    options = TrainOptions(**SHORT)
    results, failures = train_folds(
        folder, dataset, plan, configuration="3d_fullres", folds=["0", "1"], options=options, devices=["cpu", "cpu"], watch=events.append
    )
    assert failures == ()
    other = made_run(few, tmp_path / "other", folds=2)
    in_turn = [train(other, fold, **SHORT) for fold in ("0", "1")]
    assert [result.weights_sha256 for result in results] == [result.weights_sha256 for result in in_turn]
    assert {event["fold"] for event in events if event["event"] == "epoch"} == {"0", "1"}


def _dies(code: int, **ignored: Any) -> FoldResult:
    os._exit(code)


def test_a_process_that_dies_is_a_failure_of_its_fold() -> None:
    (outcome,) = in_processes(partial(_dies, 7), ["3"], TrainOptions(), ["cpu"], watch=lambda event: None)
    assert outcome == FoldFailure("3", "its process died with code 7; --resume goes on where it was saved", 4)


def test_all_folds_of_a_cascade_train_its_first_stage_before(few: Path, tmp_path: Path) -> None:
    full = full_resolution()
    coarse = full.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0), "patch_size": (8, 8, 8)})
    stages = {"3d_lowres": coarse, "3d_cascade_fullres": full.model_copy(update={"previous_stage": "3d_lowres"})}
    folder, *_ = made_run(few, tmp_path / "run", folds=2, configurations=stages)
    trained = api.train(folder, fold="all", configuration="3d_cascade_fullres", options=TrainOptions(**SHORT))
    assert trained.exit_code == 0
    package = open_package(folder)
    assert package.folds("3d_lowres") == package.folds("3d_cascade_fullres") == ("0", "1")
    for stage in stages:
        assert (folder / "folds" / stage / "cross_validation" / "summary.json").is_file()
