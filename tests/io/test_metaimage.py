"""MetaImage files: voxels and grid as SimpleITK has them, damage and unclear headers refused."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_making import turned_affine
from test_nrrd import itk_image

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import read_channels, read_geometry, read_volume

AFFINE = turned_affine((-12.0, 7.0, 80.0), (0.7, 0.9, 3.0), (-80.0, 20.0, 300.0))


def meta(path: Path, array: np.ndarray, *, data: bytes | None = None, drop: tuple[str, ...] = (), **fields: str) -> Path:
    """A MetaImage file made by hand."""
    header = {
        "ObjectType": "Image",
        "NDims": str(array.ndim),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "2 2 3",
        "DimSize": " ".join(str(n) for n in reversed(array.shape)),
        "ElementType": "MET_SHORT",
        **fields,
    }
    header["ElementDataFile"] = fields.get("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if key not in drop)
    path.write_bytes(text.encode() + (array.astype("<i2").tobytes() if data is None else data))
    return path


def _code(path: Path, **options: object) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        read_volume(path, **options)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize("ending", ["mha", "mhd"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_what_simpleitk_writes(tmp_path: Path, ending: str, compress: bool, dtype: str) -> None:
    array = (np.arange(120).reshape(4, 5, 6) % 100).astype(dtype)
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(itk_image(array, AFFINE), str(path), useCompression=compress)
    read = read_volume(path)
    assert np.array_equal(read.array, array)
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-5)
    assert read.notes == ()
    assert read_geometry(path) == read.geometry


def test_vector_images_are_channels(tmp_path: Path, volume: np.ndarray) -> None:
    stack = np.stack([volume, volume + 1, -volume])
    sitk.WriteImage(sitk.GetImageFromArray(np.moveaxis(stack, 0, -1), isVector=True), str(tmp_path / "a.mha"))
    assert _code(tmp_path / "a.mha") == "E_DIM"
    assert np.array_equal(read_channels(tmp_path / "a.mha", 3).array, stack)
    identity = " ".join(str(v) for v in np.eye(4, dtype=int).ravel())
    path = meta(tmp_path / "b.mha", stack, TransformMatrix=identity, Offset="0 0 0 0", ElementSpacing="1 1 1 1")
    assert np.array_equal(read_channels(path, 3).array, stack)


def test_truncation_and_damage(tmp_path: Path, volume: np.ndarray) -> None:
    little = volume.astype("<i2").tobytes()
    packed = bytearray(zlib.compress(little))
    assert _code(meta(tmp_path / "a.mha", volume, data=little[:-1])) == "E_TRUNCATED"
    for cut in (1, 4, 20):
        assert _code(meta(tmp_path / "a.mha", volume, data=bytes(packed[:-cut]), CompressedData="True")) == "E_TRUNCATED"
    packed[-1] ^= 1
    assert _code(meta(tmp_path / "a.mha", volume, data=bytes(packed), CompressedData="True")) == "E_CORRUPT"
    assert _code(meta(tmp_path / "a.mha", volume, data=little * 2)) == "E_DIM"
    assert _code(meta(tmp_path / "a.mhd", volume, data=b"", ElementDataFile="gone.raw")) == "E_MISSING"


def test_byte_order_and_header_size(tmp_path: Path, volume: np.ndarray) -> None:
    big = meta(tmp_path / "a.mha", volume, data=volume.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True")
    assert np.array_equal(read_volume(big).array, volume)
    for size in ("-1", "4"):
        path = meta(tmp_path / "b.mha", volume, data=b"junk" + volume.astype("<i2").tobytes(), HeaderSize=size)
        assert np.array_equal(read_volume(path).array, volume)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"NDims": "2"}, "E_DIM"),
        ({"DimSize": "6 5 -4"}, "E_DIM"),
        ({"DimSize": "6 5"}, "E_HEADER"),
        ({"DimSize": "6 5 nan"}, "E_HEADER"),
        ({"DimSize": "6 5 1e400"}, "E_HEADER"),
        ({"DimSize": "6 5 4.5"}, "E_HEADER"),
        ({"NDims": "inf"}, "E_HEADER"),
        ({"ElementNumberOfChannels": "RGB"}, "E_HEADER"),
        ({"DimSize": "600 500 400"}, "E_TRUNCATED"),
        ({"ElementType": "MET_LONG"}, "E_DTYPE"),
        ({"BinaryData": "False"}, "E_HEADER"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0"}, "E_HEADER"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}, "E_GEOMETRY"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "E_GEOMETRY"),
        ({"ElementSpacing": "2 2 0"}, "E_GEOMETRY"),
        ({"ElementSpacing": "2 -2 3"}, "E_GEOMETRY"),
        ({"ElementSpacing": "2 2 0.001"}, "E_SPACING"),
        ({"ElementDataFile": "LIST"}, "E_HEADER"),
        ({"HeaderSize": "-2"}, "E_HEADER"),
        ({"drop": ("TransformMatrix",)}, "E_NO_ORIENT"),
        ({"drop": ("ElementSpacing",)}, "E_HEADER"),
        ({"drop": ("ElementDataFile",)}, "E_HEADER"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, volume: np.ndarray, fields: dict[str, str], code: str) -> None:
    assert _code(meta(tmp_path / "a.mha", volume, **fields)) == code  # type: ignore[arg-type]


def test_a_missing_origin_is_noted(tmp_path: Path, volume: np.ndarray) -> None:
    assert "no origin" in read_volume(meta(tmp_path / "a.mha", volume, drop=("Offset",))).notes[0]


def test_orientation_can_be_assumed(tmp_path: Path, volume: np.ndarray) -> None:
    read = read_volume(meta(tmp_path / "a.mha", volume, drop=("TransformMatrix",)), geometry="pixdim")
    assert read.geometry.orientation == "LPS"
    assert "no orientation" in read.notes[0]
