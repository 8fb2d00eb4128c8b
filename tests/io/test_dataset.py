"""Dataset folders: three layouts opened, every fault of a folder found at once and named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg3d.errors import Autoseg3dError, DatasetError
from autoseg3d.geometry import Geometry
from autoseg3d.io import load_case, open_dataset, write_image, write_labels

GRID = Geometry.from_affine((4, 5, 6), np.diag([1.0, 1.0, 2.0, 1.0]))
IMAGE = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, (4, 5, 6))
BASIC: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def make(root: Path, cases: tuple[str, ...] = ("c1", "c2"), channels: int = 1, **entries: Any) -> Path:
    """An nnU-Net v2 dataset; an entry None is left out of dataset.json."""
    for case in cases:
        for channel in range(channels):
            write_image(root / f"imagesTr/{case}_{channel:04d}.nii.gz", IMAGE + channel, GRID)
        write_labels(root / f"labelsTr/{case}.nii.gz", LABELS, GRID)
    document = {key: value for key, value in {**BASIC, **entries}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def faults(root: Path, **options: Any) -> list[Autoseg3dError]:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, **options)
    assert all(str(fault) in str(caught.value) for fault in caught.value.faults)
    assert caught.value.exit_code == 3
    return list(caught.value.faults)


def codes(root: Path, **options: Any) -> list[str]:
    return sorted(fault.code for fault in faults(root, **options))


def test_the_layout_of_nnunet(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "Dataset001_x", channels=2, channel_names={"0": "T1", "1": "T2"}))
    assert (dataset.name, dataset.channel_names, dataset.num_training) == ("Dataset001_x", ("T1", "T2"), 2)
    assert dataset.labels.values == (1, 2)
    assert [case.id for case in dataset.cases] == ["c1", "c2"]
    assert [p.name for p in dataset.cases[0].images] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert dataset.warnings == ()
    assert load_case(dataset.cases[1], labels=dataset.labels).case.image.shape == (2, 4, 5, 6)


def test_regions_and_ignore(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    table = open_dataset(make(tmp_path, labels=labels, regions_class_order=[1, 2, 3])).labels
    assert table.has_regions
    assert table.ignore == 4
    assert [label.values for label in table.labels] == [(1, 2, 3), (2, 3), (3,)]


def test_older_and_looser_documents(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path, channel_names=None, modality={"0": "MRI"}, numTraining=7, file_ending=None, name="Brain"))
    assert (dataset.name, dataset.channel_names, dataset.num_training) == ("Brain", ("MRI",), 2)
    assert dataset.warnings == ("dataset.json says numTraining 7, found 2 cases; 2 is used",)


def test_a_list_of_cases_in_the_document(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    listed = {case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"} for case in ("c2", "c1")}
    listed["far"] = {"images": ["../else/x.nii.gz"], "label": str(tmp_path / "else/y.nii.gz")}
    write_image(tmp_path / "else/x.nii.gz", IMAGE, GRID)
    write_labels(tmp_path / "else/y.nii.gz", LABELS, GRID)
    make(root, dataset=listed, numTraining=3)
    dataset = open_dataset(root)
    assert [case.id for case in dataset.cases] == ["c1", "c2", "far"]
    assert dataset.warnings == ("1 cases have files outside the dataset's folder, the first far",)
    assert load_case(dataset.cases[2], labels=dataset.labels).case.id == "far"


def test_the_layout_of_the_decathlon(tmp_path: Path) -> None:
    root = tmp_path / "Task01"
    stack = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in ("x_001", "x_002")]
    make(root, ("x_001", "x_002"))
    for path in sorted((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace("_0000", "")))
    document = {"name": "Task", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ", "2": "tumour"}, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps({**document, "training": stack, "test": []}))
    dataset = open_dataset(root)
    assert [case.id for case in dataset.cases] == ["x_001", "x_002"]
    assert [label.name for label in dataset.labels.labels] == ["organ", "tumour"]
    document["modality"] = {"0": "T1", "1": "T2"}
    (root / "dataset.json").write_text(json.dumps({**document, "training": stack}))
    assert open_dataset(root).cases[0].stacked_channels == 2
    # nnU-Net v1 lists names without the channel numbers that its files have
    for path in sorted((root / "imagesTr").iterdir()):
        for channel in range(2):
            write_image(path.with_name(path.name.replace(".nii", f"_{channel:04d}.nii")), IMAGE, GRID)
        path.unlink()
    assert [p.name for p in open_dataset(root).cases[0].images] == ["x_001_0000.nii.gz", "x_001_0001.nii.gz"]


@pytest.mark.parametrize("names", [("images", "labels"), ("Images", "Labels"), ("imagesTr", "labelsTr")])
@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_a_plain_pair_of_folders(tmp_path: Path, names: tuple[str, str], suffix: str) -> None:
    for case in ("p_0001", "p_0002"):
        write_image(tmp_path / names[0] / f"{case}{suffix}.nii.gz", IMAGE, GRID)
        write_labels(tmp_path / names[1] / f"{case}.nii", LABELS * 5, GRID)
    seen: list[tuple[str, int, int]] = []
    dataset = open_dataset(tmp_path, progress=lambda *step: seen.append(step))
    assert [case.id for case in dataset.cases] == ["p_0001", "p_0002"]
    assert dataset.labels.values == (5, 10)
    assert dataset.channel_names == ("channel 0",)
    assert "no dataset.json" in dataset.warnings[0]
    assert seen == [("reading label values", 1, 2), ("reading label values", 2, 2)]
    assert open_dataset(tmp_path, channel_names=["CT"]).channel_names == ("CT",)


def test_plain_folders_with_faults(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.nii.gz", IMAGE, GRID)
    write_labels(tmp_path / "labels/a.nii.gz", LABELS * 0, GRID)
    assert codes(tmp_path) == ["E_NO_FOREGROUND"]
    (tmp_path / "labels/a.nii.gz").write_bytes(b"")
    assert codes(tmp_path) == ["E_NOT_NIFTI"]
    write_image(tmp_path / "images/a.nii", IMAGE, GRID)
    write_labels(tmp_path / "labels/b.nii.gz", LABELS, GRID)
    assert codes(tmp_path) == ["E_DUP_ID", "E_MISSING"]


def test_all_faults_of_a_folder_at_once(tmp_path: Path) -> None:
    root = make(tmp_path, ("c1", "c2", "c3", "c4"), numTraining=4)
    (root / "labelsTr/c1.nii.gz").unlink()
    (root / "imagesTr/c2_0000.nii.gz").unlink()
    write_image(root / "imagesTr/c3_0001.nii.gz", IMAGE, GRID)
    write_image(root / "imagesTr/C4_0000.nii.gz", IMAGE, GRID)
    write_labels(root / "labelsTr/C4.nii.gz", LABELS, GRID)
    write_image(root / "imagesTr/one more_0000.nii.gz", IMAGE, GRID)
    write_labels(root / "labelsTr/one_more.nii.gz", LABELS, GRID)
    found = {(fault.code, fault.case) for fault in faults(root)}
    assert found == {("E_MISSING", "c1"), ("E_MISSING", "c2"), ("E_CHANNEL", "c3"), ("E_DUP_ID", "C4"), ("E_MISSING", "one_more")}


def test_names_that_are_no_ids_are_changed_and_told(tmp_path: Path) -> None:
    names = ["Patient A", "patiënt b", "p(3)", "p'6", "-rf"]
    for name in names:
        write_image(tmp_path / f"images/{name}.nii.gz", IMAGE, GRID)
        write_labels(tmp_path / f"labels/{name}.nii.gz", LABELS, GRID)
    dataset = open_dataset(tmp_path)
    assert {case.images[0].name.removesuffix(".nii.gz") for case in dataset.cases} == set(names)
    assert [case.id for case in dataset.cases if case.images[0].name == "Patient A.nii.gz"] == ["Patient_A"]
    assert all(case.id.isascii() and " " not in case.id for case in dataset.cases)
    assert any("'Patient A' is Patient_A" in warning for warning in dataset.warnings)
    write_image(tmp_path / "images/Patient_A.nii.gz", IMAGE, GRID)
    write_labels(tmp_path / "labels/Patient_A.nii.gz", LABELS, GRID)
    assert codes(tmp_path) == ["E_DUP_ID"]


def test_an_ending_that_no_file_has_is_told_with_the_one_they_have(tmp_path: Path) -> None:
    root = make(tmp_path, file_ending=".nii")
    assert [fault.remedy for fault in faults(root)] == ["Correct file_ending in dataset.json: the files here end in .nii.gz"]
    assert [fault.remedy for fault in faults(make(tmp_path, file_ending="nii.gz"))] == ['Write ".nii.gz"']


def test_clutter_is_ignored_and_listed(tmp_path: Path) -> None:
    root = make(tmp_path)
    for name in ("._c1_0000.nii.gz", ".DS_Store", "readme.txt"):
        (root / "imagesTr" / name).write_bytes(b"x")
    assert open_dataset(root).warnings == ("ignored in imagesTr: .DS_Store, ._c1_0000.nii.gz, readme.txt",)


def test_missing_folders(tmp_path: Path) -> None:
    assert codes(tmp_path / "nowhere") == ["E_MISSING"]
    assert codes(tmp_path) == ["E_MISSING"]
    (tmp_path / "dataset.json").write_text(json.dumps(BASIC))
    assert codes(tmp_path) == ["E_MISSING", "E_MISSING"]
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    assert codes(tmp_path) == ["E_MISSING"]


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ({"labels": None}, "labels"),
        ({"labels": {"background": 0, "a": "one"}}, "labels.a"),
        ({"labels": {"background": 0, "a": True}}, "labels.a"),
        ({"labels": {"background": 0, "a": 1.5}}, "labels.a"),
        ({"labels": {"background": 0, "a": -1}}, "labels.a"),
        ({"labels": {"background": 1, "a": 2}}, "labels"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels"),
        ({"labels": {"background": 0}}, "labels"),
        ({"labels": {"background": 0, "a": [1, 2]}}, "labels"),
        ({"labels": {"background": 0, "a": [1, 2]}, "regions_class_order": "1"}, "regions_class_order"),
        ({"labels": ["background", "a"]}, "labels"),
        ({"channel_names": None}, "channel_names"),
        ({"channel_names": ["CT"]}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, "channel_names"),
        ({"channel_names": {"0": 5}}, "channel_names.0"),
        ({"file_ending": ".jpg"}, "file_ending"),
        ({"numTraining": "two"}, "numTraining"),
        ({"dataset": []}, "dataset"),
        ({"dataset": {"c1": {"images": "x", "label": "y"}}}, "dataset.c1.images"),
        ({"dataset": {"c1": {"images": ["imagesTr/c1_0000.nii.gz"]}}}, "dataset.c1.label"),
        ({"training": [{"image": 5}]}, "training.0"),
    ],
)
def test_faults_of_the_document_name_their_place(tmp_path: Path, entries: dict[str, Any], field: str) -> None:
    found = [fault for fault in faults(make(tmp_path, **entries)) if fault.code == "E_DATASET_JSON"]
    assert [fault.field for fault in found] == [field]
    assert "Value error" not in str(found[0])
    assert "pydantic" not in str(found[0])


def test_faults_of_document_and_folders_come_together(tmp_path: Path) -> None:
    root = make(tmp_path, labels={"background": 0}, channel_names=None)
    (root / "labelsTr/c1.nii.gz").unlink()
    assert codes(root) == ["E_DATASET_JSON", "E_DATASET_JSON", "E_MISSING"]


def test_labels_of_the_old_style_get_the_right_form_as_remedy(tmp_path: Path) -> None:
    (fault,) = faults(make(tmp_path, labels={"0": "background", "1": "liver"}))
    assert fault.remedy == 'Turn the entries round: {"background": 0, "liver": 1}'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E_JSON"),
        ("{", "E_JSON"),
        ('{"labels": NaN}', "E_JSON"),
        ('{"labels": {}, "labels": {}}', "E_JSON"),
        ("[" * 5000, "E_JSON"),
        ("[]", "E_DATASET_JSON"),
    ],
)
def test_documents_that_are_not_json_objects(tmp_path: Path, text: str, code: str) -> None:
    make(tmp_path)
    (tmp_path / "dataset.json").write_text(text)
    assert codes(tmp_path) == [code]


@pytest.mark.parametrize("case", ["../../../evil", "/etc/x", "$HOME", "C:\\x", "..", ""])
def test_case_names_that_leave_the_folder(tmp_path: Path, case: str) -> None:
    entry = {"images": ["imagesTr/c1_0000.nii.gz"], "label": "labelsTr/c1.nii.gz"}
    assert codes(make(tmp_path, dataset={case: entry}, numTraining=1)) == ["E_CASE_ID"]


def test_listed_files_that_do_not_exist_or_do_not_fit(tmp_path: Path) -> None:
    listed = {
        "gone": {"images": ["imagesTr/gone_0000.nii.gz"], "label": "labelsTr/gone.nii.gz"},
        "long": {"images": ["imagesTr/c1_0000.nii.gz"], "label": "x" * 300},
        "two": {"images": ["imagesTr/c1_0000.nii.gz", "imagesTr/c2_0000.nii.gz"], "label": "labelsTr/c1.nii.gz"},
    }
    assert codes(make(tmp_path, dataset=listed)) == ["E_CHANNEL", "E_MISSING", "E_MISSING", "E_MISSING"]


def test_groups_reach_the_cases(tmp_path: Path) -> None:
    root = make(tmp_path, ("p1_a", "p1_b", "p2_a"), numTraining=3)
    assert [case.group for case in open_dataset(root).cases] == [None, None, None]
    assert [case.group for case in open_dataset(root, group_pattern=r"p\d").cases] == ["p1", "p1", "p2"]
    (root / "groups.json").write_text(json.dumps({"p1_a": "x", "p1_b": "x"}))
    dataset = open_dataset(root)
    assert [case.group for case in dataset.cases] == ["x", "x", None]
    assert "p2_a" in dataset.warnings[0]
    (root / "groups.json").write_text("[]")
    assert codes(root) == ["E_GROUPS"]


@pytest.mark.parametrize("name", ["ACDC_small", "Hippocampus", "MouseBrain", "OpenKBP_HN"])
def test_real_datasets(shared_data: Path, name: str) -> None:
    dataset = open_dataset(shared_data / name)
    document = json.loads((shared_data / name / "dataset.json").read_text())
    assert len(dataset.cases) == dataset.num_training == document["numTraining"]
    assert dataset.warnings == ()
    for case in dataset.cases[:: max(1, len(dataset.cases) // 3)]:
        loaded = load_case(case, labels=dataset.labels)
        assert loaded.notes == ()
