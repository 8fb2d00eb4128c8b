"""evaluate_folder: files in, files out; faults named, good cases scored all the same."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer

from autoseg3d.cli.options import tolerances
from autoseg3d.errors import DatasetError, UsageError
from autoseg3d.evaluation import evaluate_folder, find_label_table, read_scores
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import write_labels
from planners.labels import label_table

SHAPE = (6, 7, 8)
TABLE = label_table({"background": 0, "liver": 1, "spleen": 2})


def grid(spacing: tuple[float, float, float] = (3.0, 1.0, 1.0), origin: float = 0.0) -> Geometry:
    affine = np.diag([*reversed(spacing), 1.0])
    affine[:3, 3] = origin
    return Geometry.from_affine(SHAPE, affine)


def label_map(shift: int = 0) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[1:5, 1:5, 1 + shift : 5 + shift], array[5, 6, 7] = 1, 2
    return array


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predictions, reference = tmp_path / "predictions", tmp_path / "labelsTs"
    for case, shift in (("a", 0), ("b", 1)):
        write_labels(reference / f"{case}.nii.gz", label_map(), grid())
        write_labels(predictions / f"{case}.nii.gz", label_map(shift), grid())
    return predictions, reference


def test_scores_and_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    scores = evaluate_folder(*folders, labels=TABLE, out=tmp_path / "out", progress=lambda *step: told.append(step))
    assert [(row.case, row.label_name, row.dice) for row in scores.rows] == [
        ("a", "liver", 1), ("a", "spleen", 1), ("b", "liver", pytest.approx(0.75)), ("b", "spleen", 1),
    ]  # fmt: skip
    assert {row.nsd_tolerance_mm for row in scores.rows} == {1.4}
    assert scores.failures == ()
    assert told[-1][1:] == (2, 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.json", "summary.json", "summary.md"]
    assert read_scores(tmp_path / "out") == scores
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[:4] == ["case", "label", "label_name", "dice"]
    assert float(lines[2]["dice"]) == scores.rows[2].dice
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["foreground"]["dice"]["mean"] == pytest.approx(0.9375)
    assert "label mean" in (tmp_path / "out" / "summary.md").read_text()


def test_in_several_processes_the_same(folders: tuple[Path, Path]) -> None:
    assert evaluate_folder(*folders, labels=TABLE, workers=2) == evaluate_folder(*folders, labels=TABLE)


def test_csv_tells_undefined_from_infinite(tmp_path: Path) -> None:
    empty = np.zeros(SHAPE, dtype=np.uint8)
    write_labels(tmp_path / "p" / "a.nii.gz", empty, grid())
    write_labels(tmp_path / "r" / "a.nii.gz", np.where(label_map() == 1, 1, 0).astype(np.uint8), grid())
    evaluate_folder(tmp_path / "p", tmp_path / "r", labels=TABLE, out=tmp_path / "out")
    with open(tmp_path / "out" / "scores.csv", newline="") as file:
        liver, spleen = csv.DictReader(file)
    assert (liver["dice"], liver["hd95_mm"], liver["precision"]) == ("0.0", "inf", "")
    assert (spleen["dice"], spleen["hd95_mm"]) == ("", "")


def test_other_formats_and_foreign_files(folders: tuple[Path, Path]) -> None:
    predictions, reference = folders
    (predictions / "a.nii.gz").unlink()
    write_labels(predictions / "a.nii", label_map(), grid())
    (predictions / "results.json").write_text("{}")
    (predictions / ".hidden.nii.gz").write_text("")
    assert evaluate_folder(predictions, reference, labels=TABLE).cases == ("a", "b")
    write_labels(predictions / "b.nii", label_map(), grid())
    with pytest.raises(DatasetError, match="twice"):
        evaluate_folder(predictions, reference, labels=TABLE)


def test_single_files(folders: tuple[Path, Path]) -> None:
    predictions, reference = folders
    scores = evaluate_folder(predictions / "b.nii.gz", reference / "a.nii.gz", labels=TABLE)
    assert [row.case for row in scores.rows] == ["b", "b"]


def test_a_prediction_stored_in_another_orientation_is_turned(folders: tuple[Path, Path]) -> None:
    predictions, reference = folders
    axes, flips = (2, 0, 1), (True, False, True)
    write_labels(predictions / "b.nii.gz", np.ascontiguousarray(turn(label_map(), axes, flips)), grid().turned(axes, flips))
    scores = evaluate_folder(predictions, reference, labels=TABLE)
    assert all(row.dice == 1 for row in scores.rows)


def test_every_fault_is_named_and_the_rest_is_scored(folders: tuple[Path, Path]) -> None:
    predictions, reference = folders
    for case in "cdefg":
        write_labels(reference / f"{case}.nii.gz", label_map(), grid())
    write_labels(predictions / "c.nii.gz", label_map(), grid(origin=20.0))
    write_labels(predictions / "d.nii.gz", label_map()[:5], Geometry.from_affine((5, 7, 8), grid().matrix))
    write_labels(predictions / "e.nii.gz", label_map() * 3, grid())
    write_labels(predictions / "f.nii.gz", label_map(), grid())
    whole = (predictions / "f.nii.gz").read_bytes()
    (predictions / "f.nii.gz").write_bytes(whole[:-20])
    write_labels(predictions / "extra.nii.gz", label_map(), grid())
    scores = evaluate_folder(predictions, reference, labels=TABLE)
    assert scores.cases == ("a", "b")
    found = {failure.case: failure.code for failure in scores.failures}
    assert found.pop("f") not in ("", "E_INTERNAL")
    assert found == {"c": "E_ALIGN", "d": "E_SHAPE", "e": "E_LABEL_VALUE", "g": "E_NO_PREDICTION", "extra": "E_NO_REFERENCE"}
    assert all(failure.case in str(failure) for failure in scores.failures)


def test_nothing_to_score_is_an_error_with_all_faults(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        evaluate_folder(tmp_path / "empty", folders[1], out=tmp_path / "out")
    assert [fault.case for fault in caught.value.faults] == ["a", "b"]
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="no such folder"):
        evaluate_folder(tmp_path / "nowhere", folders[1])


def test_labels_from_dataset_json_above_the_reference(folders: tuple[Path, Path]) -> None:
    predictions, reference = folders
    document = {"labels": {"background": 0, "whole": [1, 2], "spleen": [2]}, "regions_class_order": [1, 2]}
    (reference.parent / "dataset.json").write_text(json.dumps(document))
    assert {row.label_name for row in evaluate_folder(predictions, reference).rows} == {"whole", "spleen"}
    (reference / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "milz"}}))
    assert {row.label_name for row in evaluate_folder(predictions, reference).rows} == {"liver", "milz"}


def test_a_wrong_dataset_json_is_refused(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "dataset.json"
    for wrong in ({}, {"labels": {"background": 3}}, {"labels": ["liver"]}, {"labels": {"liver": "one"}}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DatasetError, match="no usable labels"):
            find_label_table(folders[1])
    path.unlink()
    assert find_label_table(folders[0]) is None


def test_without_a_table_the_values_found_are_scored(tmp_path: Path) -> None:
    """Every case gets a row for every value, undefined where neither map has it."""
    for case, value in (("a", 3), ("b", 5)):
        array = np.where(label_map() == 1, value, 0).astype(np.uint8)
        write_labels(tmp_path / "r" / f"{case}.nii.gz", array, grid())
        write_labels(tmp_path / "p" / f"{case}.nii.gz", array, grid())
    scores = evaluate_folder(tmp_path / "p", tmp_path / "r", tolerance_mm={"5": 2.0})
    assert [(row.case, row.label_name, row.dice) for row in scores.rows] == [
        ("a", "3", 1),
        ("a", "5", None),
        ("b", "3", None),
        ("b", "5", 1),
    ]
    assert [row.nsd_tolerance_mm for row in scores.rows] == [1.4, 2.0, 1.4, 2.0]


def test_hippocampus_against_itself(shared_data: Path, tmp_path: Path) -> None:
    labels = shared_data / "Hippocampus" / "labelsTr"
    cases = sorted(path.name for path in labels.glob("*.nii.gz"))[:6]
    for name in cases:
        (tmp_path / name).symlink_to(labels / name)
    scores = evaluate_folder(tmp_path, tmp_path, labels=find_label_table(labels))
    assert len(scores.rows) == 12
    assert all(row.dice == row.nsd == 1 and row.hd95_mm == 0 for row in scores.rows)
    assert scores.summary.foreground_dice == 1


def test_a_tolerance_by_label_is_taken_and_a_misspelt_label_is_refused(folders: tuple[Path, Path]) -> None:
    scores = evaluate_folder(*folders, labels=TABLE, tolerance_mm={"liver": 3.0})
    assert {row.label_name: row.nsd_tolerance_mm for row in scores.rows} == {"liver": 3.0, "spleen": 1.4}
    with pytest.raises(UsageError, match="liver, spleen"):
        evaluate_folder(*folders, labels=TABLE, tolerance_mm={"Liver": 3.0})


@pytest.mark.parametrize(("text", "wanted"), [(None, None), ("2", 2.0), ("liver=3, big spleen=0.5", {"liver": 3.0, "big spleen": 0.5})])
def test_tolerances_are_read_from_the_command_line(text: str | None, wanted: object) -> None:
    assert tolerances(text) == wanted


@pytest.mark.parametrize("text", ["much", "liver=", "-1", "liver=inf", "liver=3,spleen"])
def test_what_is_no_tolerance_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="millimetres"):
        tolerances(text)
