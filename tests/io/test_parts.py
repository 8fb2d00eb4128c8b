"""Every file that holds part of a volume is among its parts, so that a change of any is noticed; no other file is."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_making import MakeNifti
from text_headers import meta, nrrd

from autoseg3d.io.parts import parts, stamps
from autoseg3d.io.volume import read_volume


def _metaimage(folder: Path, array: np.ndarray) -> Path:
    return meta(folder / "scan.mhd", array, data=b"", ElementDataFile="voxels.raw")


def _nrrd(folder: Path, array: np.ndarray) -> Path:
    return nrrd(folder / "scan.nhdr", array, data=b"", data_file="voxels.raw")


@pytest.mark.parametrize("make", [_metaimage, _nrrd])
def test_voxels_in_a_file_of_another_name_are_seen(tmp_path: Path, volume: np.ndarray, make: object) -> None:
    (tmp_path / "voxels.raw").write_bytes(volume.astype("<i2").tobytes())
    (tmp_path / "scan.raw").write_bytes(b"of another scan")
    path = make(tmp_path, volume)  # type: ignore[operator]
    assert np.array_equal(read_volume(path).array, volume)
    assert [p.name for p in parts(path)] == [path.name, "voxels.raw"]
    before = stamps(path)
    os.utime(tmp_path / "voxels.raw", ns=(1, 1))
    assert stamps(path) != before
    (tmp_path / "voxels.raw").unlink()
    assert parts(path) == [path]


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
def test_parts_of_what_simpleitk_writes_are_all_files_of_the_folder(tmp_path: Path, volume: np.ndarray, ending: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / f"a.{ending}"))
    assert parts(tmp_path / f"a.{ending}") == sorted(tmp_path.iterdir(), key=lambda p: p.suffix != f".{ending}")


def test_pairs_folders_and_single_files(tmp_path: Path, make_nifti: MakeNifti, volume: np.ndarray) -> None:
    single = make_nifti("a.nii.gz", volume)
    assert parts(single) == [single]
    for name in ("b.hdr", "b.img", "b.txt"):
        (tmp_path / name).write_bytes(b"x")
    pair = [tmp_path / "b.hdr", tmp_path / "b.img"]
    assert parts(pair[0]) == parts(pair[1]) == pair
    folder = tmp_path / "series"
    folder.mkdir()
    for name in ("2", "1", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    assert parts(folder) == [folder / "1", folder / "2"]


def test_of_a_header_that_cannot_be_read_only_itself_is_known(tmp_path: Path) -> None:
    for name, data in (("a.mhd", b"ObjectType = Image\nDimSize = 3\n"), ("b.nhdr", b"NRRD0004\ndata file: LIST\n"), ("c.hdr", b"x")):
        (tmp_path / name).write_bytes(data)
        assert parts(tmp_path / name) == [tmp_path / name]
