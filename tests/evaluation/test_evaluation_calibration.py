"""Saved probabilities beside a prediction are scored; those that do not fit are named and nothing else is lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg3d.errors import DataError
from autoseg3d.evaluation import Scores, evaluate_folder
from autoseg3d.evaluation.calibration import calibrate
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import write_labels
from planners.labels import LabelTable, label_table

SHAPE = (8, 30, 30)
SPACING = (3.0, 1.0, 1.0)
TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})
GRID = Geometry.from_affine(SHAPE, np.diag([1.0, 1.0, 3.0, 1.0]))


def _truth() -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[3:5, 14:17, 14:17] = 1
    return labels


def _probabilities(labels: np.ndarray, sure: float, classes: int = 3) -> np.ndarray:
    values = np.full((classes, *labels.shape), (1 - sure) / (classes - 1), dtype=np.float32)
    for value in range(classes):
        values[value][labels == value] = sure
    return values


@pytest.mark.parametrize("sure", [1.0, 0.75])
def test_brier_and_calibration_error_of_a_sure_and_right_model(sure: float, tmp_path: Path) -> None:
    truth = _truth()
    np.savez_compressed(tmp_path / "a.npz", probabilities=_probabilities(truth, sure))
    found = calibrate(tmp_path / "a.npz", truth, truth, spacing=SPACING, labels=TABLE)
    assert set(found) == {"organ"}, "a label that is in neither map has no calibration"
    box = truth[:, 4:27, 4:27]
    inside = (box == 1).mean()
    other = (1 - sure) / 2
    assert found["organ"].brier == pytest.approx(inside * (1 - sure) ** 2 + (1 - inside) * other**2, abs=1e-6)
    assert found["organ"].ece == pytest.approx(inside * (1 - sure) + (1 - inside) * other, abs=1e-6)


def test_voxels_to_ignore_are_left_out(tmp_path: Path) -> None:
    table = label_table({"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
    prediction = _truth()
    reference = np.where(prediction == 1, 3, 0).astype(np.uint8)
    np.savez_compressed(tmp_path / "a.npz", probabilities=_probabilities(prediction, 1.0))
    assert calibrate(tmp_path / "a.npz", prediction, reference, spacing=SPACING, labels=table)["organ"].brier == 0


def test_regions_have_a_channel_each_and_no_background(tmp_path: Path) -> None:
    table = label_table({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
    truth = _truth()
    truth[3, 15, 15] = 2
    values = np.stack([truth > 0, truth == 2]).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", probabilities=values)
    found = calibrate(tmp_path / "a.npz", truth, truth, spacing=SPACING, labels=table)
    assert [(name, one.brier, one.ece) for name, one in found.items()] == [("whole", 0, 0), ("core", 0, 0)]


@pytest.mark.parametrize("shape", [(2, *SHAPE), (3, 8, 30, 31)])
def test_other_classes_or_another_grid_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", probabilities=np.zeros(shape, dtype=np.float32))
    with pytest.raises(DataError, match="another grid"):
        calibrate(tmp_path / "a.npz", _truth(), _truth(), spacing=SPACING, labels=TABLE)


def _folders(tmp_path: Path, *, dtype: type = np.float32) -> tuple[Path, Path]:
    """A reference stored turned against the prediction, whose probabilities lie on the prediction's grid."""
    predictions, reference = tmp_path / "predictions", tmp_path / "labelsTs"
    axes, flips = (2, 0, 1), (True, False, True)
    for case in ("a", "b"):
        write_labels(predictions / f"{case}.nii.gz", _truth(), GRID)
        write_labels(reference / f"{case}.nii.gz", turn(_truth(), axes, flips), GRID.turned(axes, flips))
    np.savez_compressed(predictions / "a.npz", probabilities=_probabilities(_truth(), 0.75).astype(dtype))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1, "lesion": 2}}))
    return predictions, reference


def _values(scores: Scores, case: str) -> list[float | None]:
    return [row.brier for row in scores.rows if row.case == case]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_probabilities_beside_a_prediction_are_found(dtype: type, tmp_path: Path) -> None:
    predictions, reference = _folders(tmp_path, dtype=dtype)
    scores = evaluate_folder(predictions, reference, out=tmp_path / "out")
    organ, lesion = _values(scores, "a")
    assert organ == pytest.approx(0.0156 + (0.0625 - 0.0156) * 18 / (8 * 23 * 23), abs=1e-4)
    assert lesion is None
    assert _values(scores, "b") == [None, None]
    assert scores.summary.label("organ").measures["brier"].n == 1
    assert "Brier" in (tmp_path / "out" / "summary.md").read_text()
    assert "brier" in (tmp_path / "out" / "scores.csv").read_text().splitlines()[0]


def test_probabilities_that_do_not_fit_are_noted_and_the_rest_is_scored(tmp_path: Path) -> None:
    predictions, reference = _folders(tmp_path)
    (predictions / "b.npz").write_text("no archive")
    scores = evaluate_folder(predictions, reference, out=tmp_path / "out")
    assert not scores.failures
    assert _values(scores, "b") == [None, None]
    assert len(scores.notes) == 1
    assert "b.npz" in scores.notes[0]
    assert "b.npz" in (tmp_path / "out" / "summary.md").read_text()


def test_without_a_label_table_the_classes_are_unknown_and_nothing_is_guessed(tmp_path: Path) -> None:
    predictions, reference = _folders(tmp_path)
    (tmp_path / "dataset.json").unlink()
    assert _values(evaluate_folder(predictions, reference), "a") == [None]
    table: LabelTable = TABLE
    assert _values(evaluate_folder(predictions, reference, labels=table), "a")[0] is not None
