"""Scans are found under the names that people give them; clashes are refused before the first is read."""

from pathlib import Path

import numpy as np
import pytest
from test_dicom import make_series

from autoseg3d.errors import DatasetError, UsageError
from autoseg3d.geometry import Geometry
from autoseg3d.io import CaseFiles, find_scans, load_case, write_image

GRID = Geometry.from_affine((3, 4, 5), np.eye(4))


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"not opened while looking for scans")
    return folder


def found(path: Path, channels: int = 1, **options: str) -> dict[str, list[str]]:
    return {case.id: [p.name for p in case.images] for case in find_scans(path, num_channels=channels, **options)}


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b_0000.NII", "other.nii")
    assert found(tmp_path / "a.nii.gz") == {"a": ["a.nii.gz"]}
    assert found(tmp_path / "b_0000.NII") == {"b": ["b_0000.NII"]}


def test_one_channel_with_and_without_its_number(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b_0000.nii.gz", "p_0001.nii.gz", "p_0002.nii.gz", "x.hdr", "x.img", "n.nrrd", "m.MHA", "f.mgz")
    assert found(tmp_path) == {
        "a": ["a.nii.gz"],
        "b": ["b_0000.nii.gz"],
        "p_0001": ["p_0001.nii.gz"],
        "p_0002": ["p_0002.nii.gz"],
        "x": ["x.hdr"],
        "n": ["n.nrrd"],
        "m": ["m.MHA"],
        "f": ["f.mgz"],
    }
    assert list(found(tmp_path, file_ending=".nii.gz")) == ["a", "b", "p_0001", "p_0002"]


def test_clutter_and_other_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "._a.nii.gz", ".DS_Store", "Thumbs.db", "dataset.json", "notes.txt")
    (tmp_path / "folder").mkdir()
    assert found(tmp_path) == {"a": ["a.nii.gz"]}


def test_several_channels(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz", "d.nii.gz")
    cases = {case.id: case for case in find_scans(tmp_path, num_channels=2)}
    assert [p.name for p in cases["a"].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert cases["a"].fault is None
    assert cases["d"].stacked_channels == 2
    for case, got in (("b", "0001"), ("c", "0000, 0001, 0002")):
        fault = cases[case].fault
        assert fault is not None
        assert (fault.code, fault.wanted, fault.got) == ("E_CHANNEL", "0000, 0001", got)
    assert list(found(tmp_path / "a_0000.nii.gz", 2).values()) == [["a_0000.nii.gz", "a_0001.nii.gz"]]


def test_channels_given_to_a_model_of_one_channel(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b.nii.gz")
    cases = {case.id: case.fault for case in find_scans(tmp_path, num_channels=1)}
    assert cases["b"] is None
    assert [case for case, fault in cases.items() if fault is not None and fault.code == "E_CHANNEL"] == ["a_0000", "a_0001"]


@pytest.mark.parametrize("names", [("a.nii", "a.nii.gz"), ("a.nii.gz", "A.nii.gz"), ("a.nii.gz", "a_0000.nii.gz"), ("a b.nii", "a_b.nii")])
def test_clashes_are_refused_first(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *names, "z.nii")
    with pytest.raises(DatasetError) as caught:
        find_scans(tmp_path, num_channels=1)
    assert [fault.code for fault in caught.value.faults] == ["E_DUP_ID"]
    assert all(name in str(caught.value) for name in names)


def test_names_of_all_kinds(tmp_path: Path) -> None:
    names = [
        "-rf.nii",
        "with space.nii",
        "q'uote\".nii",
        "new\nline.nii",
        "Müller.nii",
        "患者.nii",
        "$HOME.nii",
        "x" * 240 + ".nii",
        ";.nii",
    ]
    touch(tmp_path, *names)
    cases = find_scans(tmp_path, num_channels=1)
    assert len(cases) == len(names)
    assert {case.images[0].name for case in cases} == set(names)
    assert all(len(case.id) <= 100 and case.id.isascii() for case in cases)


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_scans(tmp_path / "gone", num_channels=1)
    assert caught.value.code == "E_MISSING"
    touch(tmp_path, "a.txt", "b.pdf")
    with pytest.raises(UsageError, match=r"got a\.txt, b\.pdf") as caught:
        find_scans(tmp_path, num_channels=1)
    assert caught.value.code == "E_NO_SCANS"


def test_series_of_slices(tmp_path: Path) -> None:
    make_series(tmp_path / "scans/first")
    make_series(tmp_path / "scans/second_0000")
    write_image(tmp_path / "scans/third.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5), GRID)
    assert found(tmp_path / "scans") == {"first": ["first"], "second": ["second_0000"], "third": ["third.nii.gz"]}
    assert found(tmp_path / "scans/first") == {"first": ["first"]}
    for case in find_scans(tmp_path / "scans", num_channels=1):
        assert load_case(case, labels=None).case.image.ndim == 4


def test_series_at_any_depth_as_on_a_disc(tmp_path: Path) -> None:
    for place in ("disc/DICOM/ST0/SE1", "disc/DICOM/ST0/SE2", "disc/DICOM/__MACOSX"):
        make_series(tmp_path / place)
    touch(tmp_path / "disc", "DICOMDIR", "autorun.inf")
    (tmp_path / "disc/DICOM/ST0/up").symlink_to(tmp_path / "disc")
    assert found(tmp_path / "disc") == {"DICOM_ST0_SE1": ["SE1"], "DICOM_ST0_SE2": ["SE2"]}
    for case in find_scans(tmp_path / "disc", num_channels=1):
        assert load_case(case, labels=None).notes == ()


def test_a_bad_scan_does_not_stop_the_others(tmp_path: Path) -> None:
    touch(tmp_path, "rubbish.nii.gz")
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "nowhere")
    write_image(tmp_path / "good.nii.gz", np.arange(60, dtype=np.int16).reshape(3, 4, 5), GRID)
    cases = find_scans(tmp_path, num_channels=1)
    assert [case.id for case in cases] == ["dangling", "good", "loop", "rubbish"]
    outcomes = {}
    for case in cases:
        try:
            load_case(case, labels=None)
            outcomes[case.id] = "done"
        except Exception as error:
            outcomes[case.id] = getattr(error, "code", repr(error))
    assert outcomes == {"dangling": "E_MISSING", "good": "done", "loop": "E_PATH", "rubbish": "E_NOT_NIFTI"}
    assert isinstance(cases[0], CaseFiles)
