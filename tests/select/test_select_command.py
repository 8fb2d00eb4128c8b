"""The command says what was tried, what was chosen and which score to report, and predict then applies it."""

from pathlib import Path

import numpy as np
import pytest
from held_out_runs import eroded, with_islands, write_run
from typer.testing import CliRunner

from autoseg3d import api
from autoseg3d.cli import app
from autoseg3d.errors import UsageError
from autoseg3d.package import open_package


def test_select_says_what_it_tried_and_what_to_report(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": with_islands, "2d": eroded}, folds=("0", "1", "2"))
    done = CliRunner().invoke(app, ["select", str(run), "--configurations", "3d_fullres, 2d", "--workers", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "candidates were tried" in done.stdout
    assert "report this" in done.stdout
    chosen = open_package(run).selection
    assert chosen is not None
    assert f"Chosen: {chosen.choice}" in done.stdout
    assert dict(api.info(run))["chosen"].startswith("3d_fullres, folds 0, 1, 2")


def test_cases_that_were_left_out_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": with_islands, "2d": eroded}, folds=("0", "1", "2"))
    (run / "folds" / "2d" / "fold_1" / "result.json").unlink()
    done = CliRunner().invoke(app, ["select", str(run), "--workers", "1"], catch_exceptions=False)
    chosen = open_package(run).selection
    assert chosen is not None
    assert len(chosen.left_out) == 3
    assert f"Left out, since not all configurations predicted them: {', '.join(chosen.left_out)}" in done.stdout


def test_a_licence_goes_into_model_and_file(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": with_islands}, folds=("0",))
    file = tmp_path / "model.a3d"
    done = CliRunner().invoke(app, ["package", str(run), "-o", str(file), "--licence", "CC BY 4.0"], catch_exceptions=False)
    assert done.exit_code == 0
    assert dict(api.info(run))["licence"] == dict(api.info(file))["licence"] == "CC BY 4.0"
    with pytest.raises(UsageError):
        api.package(run, tmp_path / "model.zip", licence="other")
    assert dict(api.info(run))["licence"] == "CC BY 4.0"


def test_compare_shows_the_table_the_cases_and_the_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": with_islands, "2d": eroded}, folds=("0",), cases=30)
    folders = [str(run / "folds" / name / "fold_0" / "validation") for name in ("3d_fullres", "2d")]
    out = tmp_path / "out"
    arguments = ["compare", *folders, "--reference", str(tmp_path / "raw" / "labelsTr"), "--out", str(out), "--names", "islands,eroded"]
    done = CliRunner().invoke(app, [*arguments, "--tolerance", "organ=3", "--workers", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "6 cases, A: islands, B: eroded" in done.stdout
    assert "On 6 cases, islands reached a mean Dice of" in done.stdout
    assert "Scored on neither side" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["cases.csv", "compare.csv", "compare.json"]
    assert np.genfromtxt(out / "cases.csv", delimiter=",", skip_header=1, usecols=3).shape == (6,)


def test_names_are_two(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", "a", "b", "--names", "one"])
    assert done.exit_code == 2
