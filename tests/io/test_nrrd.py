"""NRRD files: voxels and grid as SimpleITK has them, damage and unclear headers refused."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_making import turned_affine

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import read_channels, read_geometry, read_volume

AFFINE = turned_affine((12.0, -7.0, 160.0), (0.7, 0.9, 3.0), (-80.0, 20.0, 300.0))
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """A SimpleITK image of a (Z, Y, X) array on a right-angled RAS grid."""
    image = sitk.GetImageFromArray(array)
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def nrrd(path: Path, array: np.ndarray, *, data: bytes | None = None, drop: tuple[str, ...] = (), **fields: str) -> Path:
    """An NRRD file made by hand; keys of `fields` have underscores for spaces."""
    header = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in reversed(array.shape)),
        "space directions": "(2,0,0) (0,2,0) (0,0,3)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(1,2,3)",
        **{key.replace("_", " "): value for key, value in fields.items()},
    }
    lines = ["NRRD0005", "# a comment", *(f"{k}: {v}" for k, v in header.items() if k not in drop), "key:=value: with colon", "", ""]
    path.write_bytes("\n".join(lines).encode() + (array.astype("<i2").tobytes() if data is None else data))
    return path


def _code(path: Path, **options: object) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        read_volume(path, **options)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize("ending", ["nrrd", "nhdr"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_what_simpleitk_writes(tmp_path: Path, ending: str, compress: bool, dtype: str) -> None:
    array = (np.arange(120).reshape(4, 5, 6) % 100).astype(dtype)
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(itk_image(array, AFFINE), str(path), useCompression=compress)
    read = read_volume(path)
    assert np.array_equal(read.array, array)
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-9)
    assert read.notes == ()
    assert read_geometry(path) == read.geometry


def test_encodings_and_byte_orders(tmp_path: Path, volume: np.ndarray) -> None:
    little = volume.astype("<i2").tobytes()
    for encoding, data in (("gzip", gzip.compress(little)), ("bz2", bz2.compress(little)), ("raw", little)):
        assert np.array_equal(read_volume(nrrd(tmp_path / "a.nrrd", volume, data=data, encoding=encoding)).array, volume)
    big = nrrd(tmp_path / "b.nrrd", volume, data=volume.astype(">i2").tobytes(), endian="big")
    assert np.array_equal(read_volume(big).array, volume)
    skipped = nrrd(tmp_path / "c.nrrd", volume, data=b"junk" + little, byte_skip="-1")
    assert np.array_equal(read_volume(skipped).array, volume)
    skipped = nrrd(tmp_path / "d.nrrd", volume, data=b"junk" + little, byte_skip="4")
    assert np.array_equal(read_volume(skipped).array, volume)


@pytest.mark.parametrize(
    ("space", "orientation"),
    [
        ("left-posterior-superior", "LPS"),
        ("LPS", "LPS"),
        ("right-anterior-superior", "RAS"),
        ("RAS", "RAS"),
        ("left-anterior-superior", "LAS"),
    ],
)
def test_spaces(tmp_path: Path, volume: np.ndarray, space: str, orientation: str) -> None:
    geometry = read_volume(nrrd(tmp_path / "a.nrrd", volume, space=space)).geometry
    assert geometry.orientation == orientation
    assert geometry.spacing_mm == (3, 2, 2)
    signs = [1 if letter in "RAS" else -1 for letter in orientation]
    assert np.allclose(geometry.matrix[:3, 3], np.multiply(signs, (1, 2, 3)))


def test_a_missing_origin_is_noted(tmp_path: Path, volume: np.ndarray) -> None:
    read = read_volume(nrrd(tmp_path / "a.nrrd", volume, drop=("space origin",)))
    assert np.allclose(read.geometry.matrix[:3, 3], 0)
    assert "no origin" in read.notes[0]


def test_vector_axes_are_channels(tmp_path: Path, volume: np.ndarray) -> None:
    stack = np.stack([volume, volume + 1])
    last = nrrd(tmp_path / "a.nrrd", stack, dimension="4", space_directions="(2,0,0) (0,2,0) (0,0,3) none")
    first = nrrd(tmp_path / "b.nrrd", np.moveaxis(stack, 0, -1), dimension="4", space_directions="none (2,0,0) (0,2,0) (0,0,3)")
    for path in (last, first):
        assert _code(path) == "E_DIM"
        assert np.array_equal(read_channels(path, 2).array, stack)


def test_truncation_and_damage(tmp_path: Path, volume: np.ndarray) -> None:
    little = volume.astype("<i2").tobytes()
    packed = bytearray(gzip.compress(little))
    assert _code(nrrd(tmp_path / "a.nrrd", volume, data=little[:-1])) == "E_TRUNCATED"
    assert _code(nrrd(tmp_path / "a.nrrd", volume, data=bytes(packed[:-4]), encoding="gzip")) == "E_TRUNCATED"
    packed[40] ^= 8
    assert _code(nrrd(tmp_path / "a.nrrd", volume, data=bytes(packed), encoding="gzip")) in ("E_CORRUPT", "E_TRUNCATED")
    assert _code(nrrd(tmp_path / "a.nrrd", volume, data=little * 2)) == "E_DIM"
    assert _code(nrrd(tmp_path / "a.nhdr", volume, data=b"", data_file="gone.raw")) == "E_MISSING"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"sizes": "6 5 0"}, "E_DIM"),
        ({"sizes": "6 5"}, "E_DIM"),
        ({"sizes": "6 5 four"}, "E_HEADER"),
        ({"type": "block"}, "E_DTYPE"),
        ({"endian": "middle"}, "E_HEADER"),
        ({"encoding": "ascii"}, "E_HEADER"),
        ({"space": "scanner-xyz"}, "E_NO_ORIENT"),
        ({"space_directions": "(2,0,0) (0,2,0)"}, "E_HEADER"),
        ({"space_directions": "(2,0,0) (0,2,0) (0,0,x)"}, "E_HEADER"),
        ({"space_directions": "(2,0,0) (0,2,0) (0,0,nan)"}, "E_GEOMETRY"),
        ({"space_directions": "(2,0,0) (2,0,0) (0,0,3)"}, "E_GEOMETRY"),
        ({"space_directions": "(2000,0,0) (0,2,0) (0,0,3)"}, "E_SPACING"),
        ({"space_units": '"m" "m" "m"'}, "E_UNIT"),
        ({"line_skip": "3"}, "E_HEADER"),
        ({"line_skip": "many"}, "E_HEADER"),
        ({"space_oripin": "(4,5,6)"}, "E_HEADER"),
        ({"data_file": "."}, "E_MISSING"),
        ({"byte_skip": "-2"}, "E_HEADER"),
        ({"data_file": "LIST"}, "E_HEADER"),
        ({"drop": ("space",)}, "E_NO_ORIENT"),
        ({"drop": ("space directions",)}, "E_NO_ORIENT"),
        ({"drop": ("type",)}, "E_HEADER"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, volume: np.ndarray, fields: dict[str, str], code: str) -> None:
    assert _code(nrrd(tmp_path / "a.nrrd", volume, **fields)) == code  # type: ignore[arg-type]


def test_spacings_without_orientation_can_be_assumed(tmp_path: Path, volume: np.ndarray) -> None:
    path = nrrd(tmp_path / "a.nrrd", volume, drop=("space", "space directions", "space origin"), spacings="2 2 3")
    assert _code(path) == "E_NO_ORIENT"
    read = read_volume(path, geometry="pixdim")
    assert read.geometry.orientation == "LPS"
    assert any("no orientation" in note for note in read.notes)
    for spacings in ("2 2", "2 2 wide", "2 2 3 4", "2 2 -3"):
        path = nrrd(tmp_path / "a.nrrd", volume, drop=("space", "space directions", "space origin"), spacings=spacings)
        assert _code(path, geometry="pixdim") in ("E_HEADER", "E_DIM", "E_GEOMETRY")
