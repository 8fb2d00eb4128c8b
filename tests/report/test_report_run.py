"""The report of a run: what it says, and that wrong labels come first."""

from pathlib import Path

import numpy as np
import pytest
from reported import plan_run, validate, write_raw

from autoseg3d.errors import UsageError
from autoseg3d.evaluation import read_scores
from autoseg3d.io import read_volume
from autoseg3d.report import make_report, suspects
from autoseg3d.report.folds import read_folds, validated
from autoseg3d.run import RunFolder

CASES = 16


def _without(value: int) -> object:
    return lambda labels: np.where(labels == value, 0, labels)


def _exchanged(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 1, 2, np.where(labels == 2, 1, labels))


PLANTED = {
    "phantom_002": _exchanged,
    "phantom_005": lambda labels: np.roll(labels, 4, axis=1),
    "phantom_007": _without(2),
    "phantom_011": lambda labels: np.zeros_like(labels),
    "phantom_014": lambda labels: np.flip(labels, 0).copy(),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"), CASES)


@pytest.fixture(scope="module")
def run(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run, _ = plan_run(raw, tmp_path_factory.mktemp("run"))
    validate(run, raw, spoil=PLANTED)
    return run


@pytest.fixture(scope="module")
def page(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_report(run.path, tmp_path_factory.mktemp("page") / "r.html").read_text(encoding="utf-8")


def test_planted_wrong_labels_are_the_most_suspicious(run: RunFolder) -> None:
    (found,) = validated(read_folds(run))
    assert {suspect.case for suspect in suspects(found.scores.rows)[: len(PLANTED)]} == set(PLANTED)


def test_a_label_is_judged_by_its_own_habits(run: RunFolder) -> None:
    (found,) = validated(read_folds(run))
    rows = found.scores.rows
    harder = [row.model_copy(update={"dice": row.dice / 2}) if row.label == 3 and row.dice else row for row in rows]
    assert [s.case for s in suspects(harder)][: len(PLANTED)] == [s.case for s in suspects(rows)][: len(PLANTED)]
    assert suspects([]) == ()


def test_the_page_says_what_a_person_wants_to_know(page: str) -> None:
    for words in (
        "Labels to look at again",
        "The 10 lowest cases",
        "How it learned",
        "The dataset at a glance",
        "The plan, and why",
        "Scores",
    ):
        assert f"<h2>{words}</h2>" in page
    assert page.count("data:image/jpeg;base64,") >= 10
    assert "look exchanged" in page
    assert "is not in the reference" in page
    assert "&lt;b&gt;the loss is high&lt;/b&gt;" in page


def test_folds_are_put_together_and_unfinished_ones_shown(run: RunFolder, raw: Path) -> None:
    unfinished = run.path / "folds" / "3d_fullres" / "fold_1"
    unfinished.mkdir()
    (unfinished / "log.jsonl").write_text((run.path / "folds" / "3d_fullres" / "fold_0" / "log.jsonl").read_text())
    page = make_report(run.path, viewer=False).read_text(encoding="utf-8")
    assert "not validated yet" in page
    assert "fold 1, training" in page
    assert "<script" not in page
    (found,) = validated(read_folds(run))
    assert found.folds == ("0",)
    assert found.scores.summary == read_scores(run.path / "folds" / "3d_fullres" / "fold_0").summary


def test_a_run_that_was_only_planned_shows_dataset_and_plan(raw: Path, tmp_path: Path) -> None:
    run, _ = plan_run(raw, tmp_path / "run")
    page = make_report(run.path).read_text(encoding="utf-8")
    assert "No held-out case is scored yet" in page
    assert "The dataset at a glance" in page


def test_without_the_dataset_the_page_says_why_there_are_no_pictures(run: RunFolder, tmp_path: Path) -> None:
    page = make_report(run.path, tmp_path / "r.html", scans=tmp_path).read_text(encoding="utf-8")
    assert "Give its folder with --scans" in page
    assert '<img src="data:image/jpeg' not in page


def test_any_other_folder_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run nor a folder of predictions"):
        make_report(tmp_path)


def test_saved_probabilities_are_judged(raw: Path, tmp_path: Path) -> None:
    run, plan = plan_run(raw, tmp_path / "run")
    folder = validate(run, raw)
    assert "<h2>Calibration</h2>" not in make_report(run.path, viewer=False).read_text(encoding="utf-8")
    shape = read_volume(raw / "labelsTr" / "phantom_001.nii.gz", labels=True).array.shape
    np.savez(folder / "validation" / "phantom_001.npz", probabilities=np.full((plan.labels.num_classes, *shape), 0.5, dtype=np.float32))
    (folder / "validation" / "phantom_003.npz").write_bytes(b"damaged")
    page = make_report(run.path, viewer=False).read_text(encoding="utf-8")
    assert "<h2>Calibration</h2>" in page
    assert 'number">0.2500<' in page
