"""Files whose header is text (NRRD, MetaImage): one set of laws for both. Voxels and grid as SimpleITK has them, damage and
unclear headers refused."""

import bz2
import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nifti_making import turned_affine
from text_headers import itk_image, meta, nrrd

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import read_channels, read_geometry, read_volume

AFFINE = turned_affine((12.0, -7.0, 160.0), (0.7, 0.9, 3.0), (-80.0, 20.0, 300.0))
Make = Callable[..., Path]


def _code(path: Path, **options: object) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        read_volume(path, **options)  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_what_simpleitk_writes(tmp_path: Path, ending: str, compress: bool, dtype: str) -> None:
    array = (np.arange(120).reshape(4, 5, 6) % 100).astype(dtype)
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(itk_image(array, AFFINE), str(path), useCompression=compress)
    read = read_volume(path)
    assert np.array_equal(read.array, array)
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-5 if ending.startswith("m") else 1e-9)
    assert read.notes == ()
    assert read_geometry(path) == read.geometry


@pytest.mark.parametrize(
    ("make", "packed", "how"),
    [
        (nrrd, gzip.compress, {"encoding": "gzip"}),
        (nrrd, bz2.compress, {"encoding": "bz2"}),
        (meta, zlib.compress, {"CompressedData": "True"}),
        (meta, gzip.compress, {"CompressedData": "True"}),
    ],
)
def test_truncation_and_damage(
    tmp_path: Path, volume: np.ndarray, make: Make, packed: Callable[[bytes], bytes], how: dict[str, str]
) -> None:
    path, little = tmp_path / "a.x", volume.astype("<i2").tobytes()
    whole = packed(little)
    assert np.array_equal(read_volume(make(path, volume, data=whole, **how)).array, volume)
    for cut in (1, 4, 20):
        assert _code(make(path, volume, data=whole[:-cut], **how)) == "E_TRUNCATED"
    damaged = bytearray(whole)
    damaged[-1 if packed is zlib.compress else -7] ^= 1  # in the checksum
    assert _code(make(path, volume, data=bytes(damaged), **how)) in ("E_CORRUPT", "E_TRUNCATED")
    assert _code(make(path, volume, data=little[:-1])) == "E_TRUNCATED"
    assert _code(make(path, volume, data=little * 2)) == "E_DIM"


def test_a_stated_size_of_compressed_voxels_that_is_wrong_never_passes_in_silence(tmp_path: Path, volume: np.ndarray) -> None:
    whole = zlib.compress(volume.astype("<i2").tobytes())

    def stating(size: object) -> Path:
        return meta(tmp_path / "a.mha", volume, data=whole, CompressedData="True", CompressedDataSize=str(size))

    assert read_volume(stating(len(whole))).notes == ()
    for smaller in (0, len(whole) - 1):
        read = read_volume(stating(smaller))
        assert np.array_equal(read.array, volume)
        assert f"CompressedDataSize says {smaller}" in read.notes[0]
    assert _code(stating(len(whole) + 1)) == "E_TRUNCATED"
    assert [_code(stating(size)) for size in ("1e-30", "many", "nan", "")] == ["E_HEADER"] * 4


def test_a_header_that_promises_more_than_bzip2_holds_allocates_nothing(tmp_path: Path, volume: np.ndarray) -> None:
    packed = bz2.compress(bytes(10_000_000))
    tracemalloc.start()
    try:
        assert _code(nrrd(tmp_path / "a.nrrd", volume, data=packed, encoding="bz2", sizes="1000 1000 900")) == "E_TRUNCATED"
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def _spelt(array: np.ndarray) -> bytes:
    return "\n".join(" ".join(map(str, row)) for row in array.reshape(-1, array.shape[-1]).tolist()).encode() + b"\n"


@pytest.mark.parametrize(
    ("make", "how"), [(nrrd, {"encoding": "ascii"}), (nrrd, {"encoding": "txt", "endian": "big"}), (meta, {"BinaryData": "False"})]
)
def test_voxels_as_text(tmp_path: Path, volume: np.ndarray, make: Make, how: dict[str, str]) -> None:
    path, text = tmp_path / "a.x", _spelt(volume)
    assert np.array_equal(read_volume(make(path, volume, data=text, **how)).array, volume)
    assert np.array_equal(read_volume(make(path, volume, data=text.replace(b" ", b", "), **how)).array, volume)
    kind = {"type": "float"} if make is nrrd else {"ElementType": "MET_FLOAT"}
    assert np.array_equal(read_volume(make(path, volume, data=_spelt(volume / 4), **how, **kind)).array, volume / 4)
    for end in (1, 2, 5, 60):
        assert _code(make(path, volume, data=text[:-end], **how)) == "E_TRUNCATED"
    assert _code(make(path, volume, data=text * 2, **how)) == "E_DIM"
    for wrong in (
        text.replace(b"-300", b"-3_00"),
        text.replace(b"-300", b"-3x0"),
        text.replace(b"-300", b"-30000000"),
        text.replace(b"-300", b"3.5"),
    ):
        assert _code(make(path, volume, data=wrong, **how)) == "E_CORRUPT"


def test_voxels_as_hexadecimal_digits(tmp_path: Path, volume: np.ndarray) -> None:
    digits = volume.astype(">i2").tobytes().hex("\n", 20).encode()
    how = {"encoding": "hex", "endian": "big"}
    assert np.array_equal(read_volume(nrrd(tmp_path / "a.nrrd", volume, data=digits, **how)).array, volume)
    assert _code(nrrd(tmp_path / "a.nrrd", volume, data=digits[:-1], **how)) == "E_CORRUPT"
    assert _code(nrrd(tmp_path / "a.nrrd", volume, data=digits[:-2], **how)) == "E_TRUNCATED"


@pytest.mark.parametrize(
    ("make", "big", "skip"),
    [
        (nrrd, {"endian": "big"}, "byte_skip"),
        (meta, {"BinaryDataByteOrderMSB": "True"}, "HeaderSize"),
    ],
)
def test_byte_order_and_bytes_before_the_voxels(tmp_path: Path, volume: np.ndarray, make: Make, big: dict[str, str], skip: str) -> None:
    assert np.array_equal(read_volume(make(tmp_path / "a.x", volume, data=volume.astype(">i2").tobytes(), **big)).array, volume)
    for size in ("-1", "4"):
        path = make(tmp_path / "a.x", volume, data=b"junk" + volume.astype("<i2").tobytes(), **{skip: size})
        assert np.array_equal(read_volume(path).array, volume)


def test_fields_that_say_the_usual_change_nothing(tmp_path: Path, volume: np.ndarray) -> None:
    usual = {"DistanceUnits": "mm", "ElementToIntensityFunctionSlope": "1.0", "ElementToIntensityFunctionOffset": "0"}
    assert np.array_equal(read_volume(meta(tmp_path / "a.mha", volume, **usual)).array, volume)


@pytest.mark.parametrize(("make", "origin"), [(nrrd, "space origin"), (meta, "Offset")])
def test_a_missing_origin_is_noted(tmp_path: Path, volume: np.ndarray, make: Make, origin: str) -> None:
    read = read_volume(make(tmp_path / "a.x", volume, drop=(origin,)))
    assert np.allclose(read.geometry.matrix[:3, 3], 0)
    assert "no origin" in read.notes[0]


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (meta, {"drop": ("TransformMatrix",)}),
        (nrrd, {"drop": ("space", "space directions", "space origin"), "spacings": "2 2 3"}),
    ],
)
def test_an_orientation_that_is_missing_can_be_assumed(tmp_path: Path, volume: np.ndarray, make: Make, how: dict[str, object]) -> None:
    path = make(tmp_path / "a.x", volume, **how)
    assert _code(path) == "E_NO_ORIENT"
    read = read_volume(path, geometry="pixdim")
    assert read.geometry.orientation == "LPS"
    assert any("no orientation" in note for note in read.notes)


@pytest.mark.parametrize("spacings", ["2 2", "2 2 wide", "2 2 3 4", "2 2 -3"])
def test_spacings_that_are_none(tmp_path: Path, volume: np.ndarray, spacings: str) -> None:
    path = nrrd(tmp_path / "a.nrrd", volume, drop=("space", "space directions", "space origin"), spacings=spacings)
    assert _code(path, geometry="pixdim") in ("E_HEADER", "E_DIM", "E_GEOMETRY")


@pytest.mark.parametrize(
    ("make", "fields", "code"),
    [
        (nrrd, {"sizes": "6 5 0"}, "E_DIM"),
        (nrrd, {"sizes": "6 5"}, "E_DIM"),
        (nrrd, {"sizes": "6 5 four"}, "E_HEADER"),
        (nrrd, {"type": "block"}, "E_DTYPE"),
        (nrrd, {"endian": "middle"}, "E_HEADER"),
        (nrrd, {"encoding": "ascii"}, "E_CORRUPT"),
        (nrrd, {"encoding": "lz4"}, "E_HEADER"),
        (nrrd, {"encoding": "hex", "byte_skip": "4"}, "E_HEADER"),
        (nrrd, {"space": "scanner-xyz"}, "E_NO_ORIENT"),
        (nrrd, {"space_directions": "(2,0,0) (0,2,0)"}, "E_HEADER"),
        (nrrd, {"space_directions": "(2,0,0) (0,2,0) (0,0,x)"}, "E_HEADER"),
        (nrrd, {"space_directions": "(2,0,0) (0,2,0) (0,0,nan)"}, "E_GEOMETRY"),
        (nrrd, {"space_directions": "(2,0,0) (2,0,0) (0,0,3)"}, "E_GEOMETRY"),
        (nrrd, {"space_directions": "(2000,0,0) (0,2,0) (0,0,3)"}, "E_SPACING"),
        (nrrd, {"space_units": '"m" "m" "m"'}, "E_UNIT"),
        (nrrd, {"line_skip": "3"}, "E_HEADER"),
        (nrrd, {"line_skip": "many"}, "E_HEADER"),
        (nrrd, {"space_oripin": "(4,5,6)"}, "E_HEADER"),
        (nrrd, {"data_file": "."}, "E_MISSING"),
        (nrrd, {"byte_skip": "-2"}, "E_HEADER"),
        (nrrd, {"data_file": "LIST"}, "E_HEADER"),
        (nrrd, {"drop": ("space",)}, "E_NO_ORIENT"),
        (nrrd, {"drop": ("space directions",)}, "E_NO_ORIENT"),
        (nrrd, {"drop": ("type",)}, "E_HEADER"),
        (meta, {"NDims": "2"}, "E_DIM"),
        (meta, {"DimSize": "6 5 -4"}, "E_DIM"),
        (meta, {"DimSize": "6 5"}, "E_HEADER"),
        (meta, {"DimSize": "6 5 nan"}, "E_HEADER"),
        (meta, {"DimSize": "6 5 1e400"}, "E_HEADER"),
        (meta, {"DimSize": "6 5 4.5"}, "E_HEADER"),
        (meta, {"NDims": "inf"}, "E_HEADER"),
        (meta, {"ElementNumberOfChannels": "RGB"}, "E_HEADER"),
        (meta, {"DimSize": "600 500 400"}, "E_TRUNCATED"),
        (meta, {"ElementType": "MET_LONG"}, "E_TRUNCATED"),  # four bytes each, whatever a C compiler makes of the word
        (meta, {"ElementType": "MET_STRING"}, "E_DTYPE"),
        (meta, {"BinaryData": "False"}, "E_CORRUPT"),
        (meta, {"BinaryData": "False", "CompressedData": "True"}, "E_HEADER"),
        (meta, {"TransformMatrix": "1 0 0 0 1 0 0 0"}, "E_HEADER"),
        (meta, {"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}, "E_GEOMETRY"),
        (meta, {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "E_GEOMETRY"),
        (meta, {"ElementSpacing": "2 2 0"}, "E_GEOMETRY"),
        (meta, {"ElementSpacing": "2 -2 3"}, "E_GEOMETRY"),
        (meta, {"ElementSpacing": "2 2 0.001"}, "E_SPACING"),
        (meta, {"ElementDataFile": "LIST"}, "E_HEADER"),
        (meta, {"HeaderSize": "-2"}, "E_HEADER"),
        (meta, {"DistanceUnits": "cm"}, "E_UNIT"),
        (meta, {"ElementToIntensityFunctionSlope": "2"}, "E_SCALE"),
        (meta, {"ElementToIntensityFunctionOffset": "-1024"}, "E_SCALE"),
        (meta, {"drop": ("TransformMatrix",)}, "E_NO_ORIENT"),
        (meta, {"drop": ("ElementSpacing",)}, "E_HEADER"),
        (meta, {"drop": ("ElementDataFile",)}, "E_HEADER"),
        (nrrd, {"data_file": "gone.raw"}, "E_MISSING"),
        (meta, {"ElementDataFile": "gone.raw"}, "E_MISSING"),
    ],
)
def test_headers_that_are_refused(tmp_path: Path, volume: np.ndarray, make: Make, fields: dict[str, str], code: str) -> None:
    assert _code(make(tmp_path / "a.x", volume, **fields)) == code


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


def test_vector_axes_of_nrrd_are_channels(tmp_path: Path, volume: np.ndarray) -> None:
    stack = np.stack([volume, volume + 1])
    last = nrrd(tmp_path / "a.nrrd", stack, dimension="4", space_directions="(2,0,0) (0,2,0) (0,0,3) none")
    first = nrrd(tmp_path / "b.nrrd", np.moveaxis(stack, 0, -1), dimension="4", space_directions="none (2,0,0) (0,2,0) (0,0,3)")
    for path in (last, first):
        assert _code(path) == "E_DIM"
        assert np.array_equal(read_channels(path, 2).array, stack)


def test_vector_images_of_metaimage_are_channels(tmp_path: Path, volume: np.ndarray) -> None:
    stack = np.stack([volume, volume + 1, -volume])
    sitk.WriteImage(sitk.GetImageFromArray(np.moveaxis(stack, 0, -1), isVector=True), str(tmp_path / "a.mha"))
    assert _code(tmp_path / "a.mha") == "E_DIM"
    assert np.array_equal(read_channels(tmp_path / "a.mha", 3).array, stack)
    identity = " ".join(str(v) for v in np.eye(4, dtype=int).ravel())
    path = meta(tmp_path / "b.mha", stack, TransformMatrix=identity, Offset="0 0 0 0", ElementSpacing="1 1 1 1")
    assert np.array_equal(read_channels(path, 3).array, stack)
