"""Outputs lie on the input's grid bit for bit, are the same bytes every time, and appear whole or not at all."""

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_making import MakeNifti, turned_affine

from autoseg3d.errors import StorageError, UsageError
from autoseg3d.geometry import Geometry
from autoseg3d.io import nifti_bytes, read_volume, write_image, write_labels

# Spatial fields of NIfTI-1 by byte: pixdim, xyzt_units, codes to srow_z.
SPATIAL = (slice(76, 108), slice(123, 124), slice(252, 328))


def _raw(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (2, 0), (3, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_spatial_fields_are_copied_bit_for_bit(make_nifti: MakeNifti, tmp_path: Path, codes: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = turned_affine(tuple(rng.uniform(-180, 180, 3)), tuple(rng.uniform(0.3, 4, 3)), tuple(rng.uniform(-200, 200, 3)))
    array = rng.integers(-100, 100, (4, 5, 6)).astype(np.int16)
    path = make_nifti(
        "in.nii.gz", array, affine, qform_code=codes[0], sform_code=codes[1], xyzt_units=10, descrip=b"Jane Doe", db_name=b"Doe"
    )
    geometry = read_volume(path).geometry
    again = Geometry.model_validate_json(geometry.model_dump_json())  # as it travels inside a Placement
    write_labels(tmp_path / "out.nii.gz", (array > 0).astype(np.int16), again)
    before, after = _raw(path), _raw(tmp_path / "out.nii.gz")
    assert all(before[part] == after[part] for part in SPATIAL)
    assert b"Doe" not in after
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj).T, array > 0)


def test_nifti_2_stays_nifti_2(make_nifti: MakeNifti, tmp_path: Path, volume: np.ndarray, oblique: np.ndarray) -> None:
    path = make_nifti("in.nii", volume, oblique, version=2)
    write_labels(tmp_path / "out.nii", np.abs(volume), read_volume(path).geometry)
    before, after = _raw(path), _raw(tmp_path / "out.nii")
    assert before[104:168] == after[104:168]
    assert before[344:504] == after[344:504]
    assert np.array_equal(read_volume(tmp_path / "out.nii").array, np.abs(volume))


@pytest.mark.parametrize(("top", "dtype"), [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16)])
@pytest.mark.parametrize("given", [np.int32, np.int64, np.uint16])
def test_the_smallest_type_that_holds_the_labels(tmp_path: Path, top: int, dtype: type, given: type) -> None:
    labels = np.zeros((2, 3, 4), dtype=given)
    labels[1, 2, 3] = top
    write_labels(tmp_path / "a.nii.gz", labels, Geometry.from_affine((2, 3, 4), np.eye(4)))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(image.dataobj).T, labels)


def test_images_keep_their_type(tmp_path: Path, volume: np.ndarray) -> None:
    geometry = Geometry.from_affine(volume.shape, np.diag([1.0, 2, 3, 1]))
    for array in (volume, (volume / 7).astype(np.float32), np.asfortranarray(volume), volume[:, ::-1]):
        write_image(tmp_path / "a.nii.gz", array, geometry)
        image = nib.load(tmp_path / "a.nii.gz")
        assert image.get_data_dtype() == array.dtype
        assert np.array_equal(np.asarray(image.dataobj).T, array)


def test_equal_content_gives_equal_bytes_without_name_or_time(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, (20, 30, 40))
    geometry = Geometry.from_affine(labels.shape, np.eye(4))
    for name in ("a/one.nii.gz", "b/Jane_Doe.nii.gz"):
        write_labels(tmp_path / name, labels, geometry)
    one, other = ((tmp_path / name).read_bytes() for name in ("a/one.nii.gz", "b/Jane_Doe.nii.gz"))
    assert one == other
    assert one[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    assert struct.unpack("<I", one[-4:])[0] == labels.size + 352


@pytest.mark.parametrize("seed", range(40))
def test_both_forms_are_built_for_grids_of_other_formats(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = tuple(rng.choice([0.0, 90.0, -90.0, 180.0, 30.0, 179.99, rng.uniform(-180, 180)], 3))
    affine = turned_affine(angles, tuple(rng.uniform(0.3, 4, 3)), tuple(rng.uniform(-200, 200, 3)))
    affine[:3, :3] *= rng.choice([-1, 1], 3)
    geometry = Geometry.from_affine((30, 40, 50), affine)
    write_labels(tmp_path / "a.nii", np.zeros((30, 40, 50), dtype=np.uint8), geometry)
    read = read_volume(tmp_path / "a.nii")
    assert read.notes == ()
    assert geometry.corner_distance_voxels(read.geometry) < 1e-3
    header = nib.load(tmp_path / "a.nii").header
    if header["qform_code"]:
        assert np.allclose(header.get_qform(), affine, atol=0.01 * min(geometry.spacing_mm))
        assert (header["qform_code"], header["sform_code"]) == (1, 1)
    else:  # a quaternion in float32 cannot say every turn near a half one
        assert header["sform_code"] == 2


def test_a_sheared_grid_gets_no_qform(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1, 3, 1])
    affine[1, 2] = 0.8
    write_labels(tmp_path / "a.nii", np.zeros((30, 40, 50), dtype=np.uint8), Geometry.from_affine((30, 40, 50), affine))
    header = nib.load(tmp_path / "a.nii").header
    assert (header["qform_code"], header["sform_code"]) == (0, 2)
    assert np.allclose(read_volume(tmp_path / "a.nii").geometry.matrix, affine)


def test_a_grid_longer_than_nifti_1_can_say_becomes_nifti_2(tmp_path: Path) -> None:
    geometry = Geometry.from_affine((1, 1, 40_000), np.diag([0.05, 1, 1, 1]))
    write_labels(tmp_path / "a.nii.gz", np.ones((1, 1, 40_000), dtype=np.uint8), geometry)
    assert nib.load(tmp_path / "a.nii.gz").header["sizeof_hdr"] == 540
    assert read_volume(tmp_path / "a.nii.gz").array.sum() == 40_000


def test_wrong_use(tmp_path: Path) -> None:
    geometry = Geometry.from_affine((2, 2, 2), np.eye(4))
    with pytest.raises(ValueError, match="integers from 0 to 65535"):
        write_labels(tmp_path / "a.nii", np.full((2, 2, 2), -1), geometry)
    with pytest.raises(ValueError, match="float32 or int16"):
        write_image(tmp_path / "a.nii", np.zeros((2, 2, 2)), geometry)
    with pytest.raises(ValueError, match="wanted an array of shape"):
        write_labels(tmp_path / "a.nii", np.zeros((2, 2, 3), dtype=int), geometry)
    with pytest.raises(UsageError):
        write_labels(tmp_path / "a.nrrd", np.zeros((2, 2, 2), dtype=int), geometry)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError):
        write_labels(tmp_path / "a.nii", np.zeros((2, 2, 2), dtype=int), Geometry.from_affine((2, 2, 2), np.eye(4)))


def test_a_disk_that_alters_bytes_is_noticed_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry.from_affine((2, 2, 2), np.eye(4))
    write_labels(tmp_path / "a.nii", np.ones((2, 2, 2), dtype=int), geometry)
    before = (tmp_path / "a.nii").read_bytes()
    real = open

    class Altering:
        def __init__(self, path: Path, mode: str) -> None:
            self._file = real(path, mode)

        def __enter__(self) -> "Altering":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> int:
            return self._file.write(bytes(data).replace(b"\x02", b"\x03"))

    monkeypatch.setattr("autoseg3d.io.nifti_write.open", Altering, raising=False)
    with pytest.raises(StorageError) as caught:
        write_labels(tmp_path / "a.nii", np.full((2, 2, 2), 2), geometry)
    assert caught.value.code == "E_VERIFY"
    assert (tmp_path / "a.nii").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_bytes_in_memory_are_the_file_that_would_be_written(dtype: str) -> None:
    array = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    geometry = Geometry.from_affine((2, 3, 4), np.array([[-1.5, 0, 0, 3], [0, 2, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]]))
    read = nib.Nifti1Image.from_bytes(nifti_bytes(array, geometry))
    assert np.array_equal(np.asanyarray(read.dataobj).T, array)
    assert read.get_data_dtype() == np.dtype(dtype)
    assert np.allclose(read.affine, geometry.matrix)
