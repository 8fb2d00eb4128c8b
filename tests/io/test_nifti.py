"""NIfTI files read to the same voxels and grid as nibabel reads them, in every form the format has."""

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_making import MakeNifti, nifti_bytes

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import read_channels, read_geometry, read_volume


def _code(path: Path, **options: object) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        read_volume(path, **options)  # type: ignore[arg-type]
    assert str(path.name) in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_in_every_wrapping(make_nifti: MakeNifti, oblique: np.ndarray, version: int, order: str, name: str, dtype: str) -> None:
    array = (np.arange(60).reshape(3, 4, 5) % 120).astype(dtype)
    path = make_nifti(name, array, oblique, version=version, order=order)
    read = read_volume(path)
    assert read.array.dtype == np.float32
    assert read.array.flags.writeable
    assert read.array.flags.c_contiguous
    assert np.array_equal(read.array, array)
    assert np.allclose(read.geometry.matrix, oblique, atol=1e-5)
    assert read.notes == ()
    assert read_geometry(path) == read.geometry
    labels = read_volume(path, labels=True)
    assert labels.array.dtype == np.int16
    assert np.array_equal(labels.array, array)


def test_pairs_are_found_from_either_file(tmp_path: Path, volume: np.ndarray) -> None:
    nib.Nifti1Pair(volume.T, np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "a.hdr")
    for name in ("a.hdr", "a.img"):
        assert np.array_equal(read_volume(tmp_path / name).array, volume)
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-1])
    with pytest.raises(Autoseg3dError) as caught:
        read_volume(tmp_path / "a.hdr")
    assert caught.value.code == "E_TRUNCATED"
    (tmp_path / "a.img").unlink()
    assert _code(tmp_path / "a.hdr") == "E_MISSING"
    (tmp_path / "b.img").write_bytes(b"")
    assert _code(tmp_path / "b.img") == "E_MISSING"


def test_extensions_before_the_voxels_are_skipped(tmp_path: Path, volume: np.ndarray) -> None:
    image = nib.Nifti1Image(volume.T, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a note about nothing"))
    nib.save(image, tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, volume)


def test_scaling_follows_the_standard(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    path = make_nifti("a.nii.gz", volume, scl_slope=0.25, scl_inter=-1024)
    assert np.array_equal(read_volume(path).array, nib.load(path).get_fdata(dtype=np.float32).T)
    # slope 0 means no scaling, whatever the intercept (nifti1.h)
    assert np.array_equal(read_volume(make_nifti("b.nii.gz", volume, scl_slope=0, scl_inter=5)).array, volume)
    assert _code(make_nifti("c.nii", volume, scl_slope=np.nan)) == "E_SCALE"
    assert _code(make_nifti("d.nii", volume, scl_slope=1, scl_inter=np.inf)) == "E_SCALE"


@pytest.mark.parametrize("content", [b"", b"This is a letter, not a scan.", b"\x1f\x8b", bytes(1000)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_rubbish_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert _code(tmp_path / name) == ("E_TRUNCATED" if content == b"\x1f\x8b" else "E_NOT_NIFTI")


def test_analyze_is_told_from_rubbish(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    path = make_nifti("a.nii", volume, magic=b"")
    with pytest.raises(Autoseg3dError, match=r"Analyze 7\.5"):
        read_volume(path)


def test_the_bytes_decide_whether_a_file_is_compressed(tmp_path: Path, volume: np.ndarray) -> None:
    data = nifti_bytes(volume, np.diag([1.0, 1, 1, 1]))
    (tmp_path / "packed.nii").write_bytes(gzip.compress(data))
    (tmp_path / "plain.nii.gz").write_bytes(data)
    for name, note in (("packed.nii", "gzip-compressed, against its name"), ("plain.nii.gz", "not gzip-compressed, against its name")):
        read = read_volume(tmp_path / name)
        assert np.array_equal(read.array, volume)
        assert read.notes == (note,)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dim": [3, 6, 5, -4, 1, 1, 1, 1]}, "E_DIM"),
        ({"dim": [3, 6, 0, 4, 1, 1, 1, 1]}, "E_DIM"),
        ({"dim": [9, 6, 5, 4, 1, 1, 1, 1]}, "E_DIM"),
        ({"dim": [1, 120, 1, 1, 1, 1, 1, 1]}, "E_DIM"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "E_TRUNCATED"),
        ({"dim": [3, 600, 500, 400, 1, 1, 1, 1]}, "E_TRUNCATED"),
        ({"dim": [3, 6, 5, 5, 1, 1, 1, 1]}, "E_TRUNCATED"),
        ({"dim": [3, 6, 5, 3, 1, 1, 1, 1]}, "E_DIM"),  # a plane would be dropped unseen
        ({"datatype": 2, "bitpix": 8}, "E_DIM"),  # half of the bytes would be left over
        ({"datatype": 4, "bitpix": 8}, "E_DTYPE"),
        ({"datatype": 77}, "E_DTYPE"),
        ({"datatype": 1, "bitpix": 1}, "E_DTYPE"),
        ({"datatype": 128, "bitpix": 24}, "E_DIM"),
        ({"datatype": 32, "bitpix": 64}, "E_DIM"),
        ({"vox_offset": np.nan}, "E_NOT_NIFTI"),
        ({"vox_offset": 100}, "E_NOT_NIFTI"),
        ({"vox_offset": 1e9}, "E_TRUNCATED"),
        ({"magic": b"n+3"}, "E_NOT_NIFTI"),
        ({"srow_y": [0, -1.5, 0, 1e30], "qform_code": 0}, "E_SPACING"),  # out of reach, and too far for its own precision
        ({"sizeof_hdr": 349}, "E_NOT_NIFTI"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_lies_of_the_header(make_nifti: MakeNifti, volume: np.ndarray, name: str, fields: dict[str, object], code: str) -> None:
    assert _code(make_nifti(name, volume, **fields)) == code


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_file_that_does_not_say_where_its_voxels_begin_must_prove_it(
    make_nifti: MakeNifti, volume: np.ndarray, name: str, version: int
) -> None:
    """Readers that trust a zero there take the header itself for voxels, or begin four bytes early."""
    path = make_nifti(name, volume, version=version, vox_offset=0)
    read = read_volume(path)
    assert np.array_equal(read.array, volume)
    assert ["begin" in note for note in read.notes] == [True]
    data = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    for other, code in ((data + b"ab", "E_HEADER"), (data[:-4], "E_TRUNCATED"), (data[:348] + bytes(16) + data[348:], "E_HEADER")):
        path.write_bytes(gzip.compress(other) if name.endswith("gz") else other)
        assert _code(path) == code


def test_bytes_without_end_are_not_waited_for(tmp_path: Path, volume: np.ndarray) -> None:
    """Twenty gigabytes of zeros, in a megabyte, behind a sound volume."""
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_bytes(volume, np.eye(4))) + gzip.compress(bytes(20_000_000), 9) * 1000)
    began = time.monotonic()
    assert _code(tmp_path / "a.nii.gz") == "E_DIM"
    assert time.monotonic() - began < 2


def test_a_few_bytes_after_the_voxels_are_noted(tmp_path: Path, volume: np.ndarray) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(volume, np.eye(4)) + b"end")
    read = read_volume(tmp_path / "a.nii")
    assert np.array_equal(read.array, volume)
    assert read.notes == ("3 bytes after the last voxel were ignored",)


def test_axes_of_length_one_are_dropped(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    for lead in ((1,), (1, 1), (1, 1, 1, 1)):
        assert np.array_equal(read_volume(make_nifti("a.nii", volume.reshape(*lead, 4, 5, 6))).array, volume)
    assert read_volume(make_nifti("slice.nii", volume[:1])).array.shape == (1, 5, 6)
    assert read_volume(make_nifti("voxel.nii", volume[:1, :1, :1])).array.shape == (1, 1, 1)


def test_stacked_volumes_are_channels_only_where_asked_for(make_nifti: MakeNifti, volume: np.ndarray) -> None:
    stack = np.stack([volume, -volume, volume + 1])
    path = make_nifti("a.nii.gz", stack)
    assert _code(path) == "E_DIM"
    assert np.array_equal(read_channels(path, 3).array, stack)
    with pytest.raises(Autoseg3dError) as caught:
        read_channels(path, 2)
    assert caught.value.code == "E_CHANNEL"
    assert _code(make_nifti("vectors.nii.gz", stack[:, None])) == "E_DIM"


def test_nonfinite_voxels(make_nifti: MakeNifti) -> None:
    array = np.linspace(-5, 5, 8000, dtype=np.float32).reshape(20, 20, 20)
    array[3, 4, 5], array[6, 7, 8] = np.nan, np.inf
    path = make_nifti("few.nii.gz", array)
    with pytest.raises(Autoseg3dError, match="2 of 8000 voxels, the first at x=5 y=4 z=3") as caught:
        read_volume(path)
    assert caught.value.code == "E_NONFINITE"
    read = read_volume(path, nonfinite="replace")
    assert read.array[3, 4, 5] == read.array[6, 7, 8] == -5
    assert read.notes == ("NaN or infinite voxels took the smallest finite value: 2",)
    array[:1] = -np.inf
    assert _code(make_nifti("many.nii.gz", array), nonfinite="replace") == "E_NONFINITE"
    assert _code(make_nifti("all.nii.gz", np.full_like(array, np.nan)), nonfinite="replace") == "E_NONFINITE"
    assert _code(make_nifti("huge.nii.gz", np.full((2, 2, 2), 1e300))) == "E_NONFINITE"


def test_labels_are_whole_numbers(make_nifti: MakeNifti) -> None:
    array = np.zeros((3, 4, 5), dtype=np.float32)
    array[1, 2, 3] = 0.9999
    read = read_volume(make_nifti("near.nii.gz", array), labels=True)
    assert read.array.dtype == np.int16
    assert read.array[1, 2, 3] == 1
    assert read.array.sum() == 1
    assert read.notes == ("labels up to 0.0001 from an integer were rounded",)
    assert read_volume(make_nifti("whole.nii.gz", np.rint(array)), labels=True).notes == ()
    array[2, 0, 1] = 0.4
    with pytest.raises(Autoseg3dError, match=r"got 0\.4 at x=1 y=0 z=2") as caught:
        read_volume(make_nifti("half.nii.gz", array), labels=True)
    assert caught.value.code == "E_LABEL"
    array[2, 0, 1] = np.nan
    assert _code(make_nifti("nan.nii.gz", array), labels=True) == "E_NONFINITE"


def test_large_and_scaled_labels(make_nifti: MakeNifti) -> None:
    array = np.zeros((2, 2, 2), dtype=np.uint16)
    array[0, 0, 0] = 60_000
    assert read_volume(make_nifti("a.nii.gz", array), labels=True).array.dtype == np.int32
    assert read_volume(make_nifti("b.nii.gz", array.astype(np.uint8)), labels=True).array.dtype == np.int16
    scaled = read_volume(make_nifti("c.nii.gz", array // 60_000, scl_slope=3.0), labels=True)
    assert scaled.array.dtype == np.int16
    assert scaled.array[0, 0, 0] == 3
    assert _code(make_nifti("d.nii.gz", array.astype(np.uint64) * 10**6), labels=True) == "E_LABEL"
