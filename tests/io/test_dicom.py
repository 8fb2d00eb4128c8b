"""DICOM series: right where they are regular, refused with a table of slices where they are not (faults, rows 61 to 65)."""

import os
import signal
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nifti_making import turned_affine

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import dicom_decoding, read_geometry, read_volume

pydicom = pytest.importorskip("pydicom")

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
ARRAY = np.random.default_rng(4).integers(-1000, 1000, (6, 5, 7)).astype(np.int16)
AFFINE = turned_affine((6.0, -11.0, 17.0), (0.7, 0.9, 2.5), (-80.0, 20.0, 300.0))
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def make_slice(path: Path, pixels: np.ndarray, affine: np.ndarray, z: float, **tags: Any) -> Path:
    """One classic slice of a volume on a RAS `affine`, at slice index `z`."""
    lps = TO_LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT)
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{zlib.crc32(path.name.encode())}"
    header = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.SeriesInstanceUID, header.StudyInstanceUID = "1.2.3.4", "1.2.3"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 1
    header.ImagePositionPatient = [f"{v:.8g}" for v in (lps @ (0, 0, z, 1))[:3]]
    header.ImageOrientationPatient = [f"{v:.10g}" for v in (lps[:3, :2] / lengths[:2]).T.ravel()]
    header.PixelSpacing = [lengths[1], lengths[0]]
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    header.PixelData = pixels.astype("<i2").tobytes()
    for name, value in tags.items():
        setattr(header, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def make_series(
    folder: Path, array: np.ndarray = ARRAY, affine: np.ndarray = AFFINE, *, depths: list[float] | None = None, **tags: Any
) -> Path:
    """A folder of slices whose names are in no useful order."""
    for k, pixels in enumerate(array):
        make_slice(folder / f"{(k * 5) % len(array)}_{k}.dcm", pixels, affine, k if depths is None else depths[k], **tags)
    return folder


def _refused(path: Path, code: str) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        read_volume(path)
    assert caught.value.code == code
    return str(caught.value)


def test_a_regular_series(tmp_path: Path) -> None:
    read = read_volume(make_series(tmp_path / "s"))
    assert np.array_equal(read.array, ARRAY)
    assert read.array.dtype == np.float32
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-4)
    assert read.notes == ()
    assert read_geometry(tmp_path / "s") == read.geometry
    labels = read_volume(tmp_path / "s", labels=True)
    assert labels.array.dtype == np.int16
    assert np.array_equal(labels.array, ARRAY)


@pytest.mark.parametrize("flip", [(1, 1, -1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
def test_slices_are_ordered_along_their_normal(tmp_path: Path, flip: tuple[int, ...]) -> None:
    """The order of acquisition does not matter; every voxel keeps its place in the patient."""
    affine = AFFINE @ np.diag([*flip, 1])
    read = read_volume(make_series(tmp_path / "s", affine=affine))
    for z, y, x in [(0, 0, 0), (5, 4, 6), (2, 1, 3)]:
        place = affine @ (x, y, z, 1)
        i, j, k = np.rint(np.linalg.solve(read.geometry.matrix, place)[:3]).astype(int)
        assert read.array[k, j, i] == ARRAY[z, y, x]


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    for k, pixels in enumerate(ARRAY):
        make_slice(tmp_path / f"{k}.dcm", pixels, AFFINE, k, RescaleSlope=f"{0.5 * (k + 1)}", RescaleIntercept=f"{10 * k}")
    expected = np.stack([pixels * 0.5 * (k + 1) + 10 * k for k, pixels in enumerate(ARRAY)])
    assert np.allclose(read_volume(tmp_path).array, expected)


def test_other_files_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    folder = make_series(tmp_path / "s")
    for name in ("._0.dcm", ".DS_Store", "notes.txt", "DICOMDIR"):
        (folder / name).write_bytes(b"something else")
    assert np.array_equal(read_volume(folder).array, ARRAY)


@pytest.mark.parametrize("depths", [[0, 1, 2, 4, 5, 6], [0, 1, 2, 3, 5, 7], [0, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 9], [0, 1, 2, 3.4, 4, 5]])
def test_missing_or_uneven_slices(tmp_path: Path, depths: list[float]) -> None:
    text = _refused(make_series(tmp_path / "s", depths=depths), "E_SLICES")
    assert "not evenly spaced" in text
    assert text.count(".dcm") == 6
    assert "gap mm" in text


def test_a_slice_that_is_shifted_sideways(tmp_path: Path) -> None:
    """Its distance to the others along the normal is right, so only its place in the plane tells."""
    moved = AFFINE.copy()
    moved[:3, 3] += 3 * AFFINE[:3, 0]
    folder = make_series(tmp_path / "s")
    make_slice(folder / "3_3.dcm", ARRAY[3], moved, 3)
    text = _refused(folder, "E_SLICES")
    assert "sideways" in text
    assert "2.10" in text  # three voxels of 0.7 mm
    moved[:3, 3] -= 2.9 * AFFINE[:3, 0]
    make_slice(folder / "3_3.dcm", ARRAY[3], moved, 3)
    assert np.array_equal(read_volume(folder).array, ARRAY)


def test_uneven_by_rounding_is_even(tmp_path: Path) -> None:
    assert read_volume(make_series(tmp_path / "s", depths=[0, 1.02, 1.99, 3, 4.01, 5])).notes == ()


def test_two_phases_in_one_series(tmp_path: Path) -> None:
    assert "same place" in _refused(make_series(tmp_path / "s", depths=[0, 0, 1, 1, 2, 2]), "E_SLICES")


def test_series_that_do_not_belong_together(tmp_path: Path) -> None:
    make_series(tmp_path / "two")
    make_series(tmp_path / "two/more", depths=[6, 7, 8, 9, 10, 11], SeriesInstanceUID="1.2.3.5")
    for path in (tmp_path / "two/more").iterdir():
        path.rename(tmp_path / "two" / f"b{path.name}")
    (tmp_path / "two/more").rmdir()
    text = _refused(tmp_path / "two", "E_SERIES")
    assert "several series" in text
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["6", "6"]  # two parts of six slices
    scout = make_series(tmp_path / "scout")
    make_slice(scout / "scout.dcm", ARRAY[0], turned_affine((90.0, 0.0, 0.0), (0.7, 0.9, 2.5), (0.0, 0.0, 0.0)), 0)
    assert "different orientations" in _refused(scout, "E_SERIES")
    sizes = make_series(tmp_path / "sizes")
    make_slice(sizes / "x.dcm", ARRAY[0, :4], AFFINE, 6)
    assert "different sizes" in _refused(sizes, "E_SERIES")
    spacing = make_series(tmp_path / "spacing")
    make_slice(spacing / "x.dcm", ARRAY[0], AFFINE, 6, PixelSpacing=[0.9, 0.8])
    assert "different pixel spacing" in _refused(spacing, "E_SERIES")


def test_a_tilted_gantry(tmp_path: Path) -> None:
    tilted = np.diag([0.7, 0.9, 2.5, 1.0])
    tilted[1, 2] = 2.5 * np.tan(np.deg2rad(13.5))
    assert "tilted gantry" in _refused(make_series(tmp_path / "s", affine=tilted), "E_TILT")


VALUE_TABLE = pydicom.dataset.Dataset()
VALUE_TABLE.add_new("LUTDescriptor", "US", [4, 0, 16])
VALUE_TABLE.add_new("LUTData", "OW", bytes(8))


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "E_DICOM"),
        ({"ModalityLUTSequence": [VALUE_TABLE]}, "E_DICOM"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "E_DICOM"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "E_NO_ORIENT"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "E_NO_ORIENT"),
        ({"PixelSpacing": [0, 0.9]}, "E_NO_ORIENT"),
        ({"ImagePositionPatient": None}, "E_NO_ORIENT"),
        ({"PixelSpacing": [200, 200]}, "E_SPACING"),
        ({"PixelRepresentation": 2}, "E_DICOM"),
    ],
)
def test_slices_that_are_not_supported(tmp_path: Path, tags: dict[str, Any], code: str) -> None:
    position = {} if "ImagePositionPatient" not in tags else tags
    if position:
        for k, pixels in enumerate(ARRAY):
            path = make_slice(tmp_path / "s" / f"{k}.dcm", pixels, AFFINE, k)
            header = pydicom.dcmread(path)
            del header.ImagePositionPatient
            header.save_as(path)
    else:
        make_series(tmp_path / "s", **tags)
    _refused(tmp_path / "s", code)


@pytest.mark.parametrize(("old", "new"), [(b"-10.5", b"-10,5"), (b"-10.5", b"10.5-"), (b"\xe0\x7f\x10\0OW", b"\xe0\x7f\x12\0OW")])
def test_damaged_elements(tmp_path: Path, old: bytes, new: bytes) -> None:
    """GDCM reads "-10,5" as -10, and gives zeros where there are no pixels."""
    folder = make_series(tmp_path / "s", RescaleIntercept="-10.5")
    path = sorted(folder.iterdir())[1]
    path.write_bytes(path.read_bytes().replace(old, new))
    _refused(folder, "E_SCALE" if b"10" in old[:3] else "E_TRUNCATED")


def test_colours(tmp_path: Path) -> None:
    colour = make_series(tmp_path / "colour", SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    for path in colour.iterdir():
        header = pydicom.dcmread(path)
        header.PixelData = header.PixelData * 3 + b"\0"
        header.save_as(path)
    _refused(colour, "E_DIM")


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "rle"])
def test_a_cut_slice_is_never_read(tmp_path: Path, syntax: str) -> None:
    array = np.repeat(np.repeat(ARRAY, 4, axis=1), 8, axis=2)
    for path in make_series(tmp_path / "cut", array).iterdir():
        header = pydicom.dcmread(path)
        if syntax == "rle":
            header.compress(pydicom.uid.RLELossless)
        if syntax == "implicit":
            header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        header.save_as(path, enforce_file_format=True)
    assert np.array_equal(read_volume(tmp_path / "cut").array, array)
    path = sorted((tmp_path / "cut").iterdir())[2]
    data = path.read_bytes()
    for length in [0, 1, 100, 131, 132, 133, 140, *range(200, len(data), len(data) // 25), *range(len(data) - 9, len(data))]:
        path.write_bytes(data[:length])
        assert path.name in _refused(tmp_path / "cut", "E_TRUNCATED")


def test_an_empty_file_without_ending_among_slices_is_no_other_file(tmp_path: Path) -> None:
    for path in make_series(tmp_path / "s").iterdir():
        path.rename(path.with_suffix(""))
    (tmp_path / "s" / "README").write_bytes(b"of the hospital")
    assert np.array_equal(read_volume(tmp_path / "s").array, ARRAY)
    (tmp_path / "s" / "last").write_bytes(b"")
    _refused(tmp_path / "s", "E_TRUNCATED")


def test_slices_that_leave_no_gap_are_missed_where_headers_tell_of_them(tmp_path: Path) -> None:
    ends = make_series(tmp_path / "ends", ARRAY[:5], ImagesInAcquisition=6)
    assert read_volume(ends).notes == ("the headers speak of 6 images, 5 are there",)
    half = make_series(tmp_path / "half", ARRAY[::2], depths=[0, 2, 4], SpacingBetweenSlices=2.5)
    assert read_volume(half).notes == ("the headers speak of 2.5 mm between slices, by their positions it is 5 mm",)


def test_files_without_preamble_are_dicom_too(tmp_path: Path) -> None:
    for path in make_series(tmp_path / "s").iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert np.array_equal(read_volume(tmp_path / "s").array, ARRAY)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="signals of POSIX")
def test_a_decoder_that_dies_or_hangs_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_series(tmp_path / "s")
    read_volume(folder)
    monkeypatch.setattr(dicom_decoding, "_SECONDS", 0.3)
    for kind, words in ((signal.SIGKILL, "crashes the decoder (SIGKILL)"), (signal.SIGSTOP, "too long")):
        process = dicom_decoding._DECODER._process
        assert process is not None
        os.kill(process._popen.pid, kind)
        assert words in _refused(folder, "E_DICOM")
        monkeypatch.setattr(dicom_decoding, "_SECONDS", 8.0)
        assert np.array_equal(read_volume(folder).array, ARRAY)
        monkeypatch.setattr(dicom_decoding, "_SECONDS", 0.3)


def test_folders_and_single_slices_that_are_no_volume(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _refused(tmp_path / "empty", "E_FORMAT")
    _refused(make_slice(tmp_path / "one.dcm", ARRAY[0], AFFINE, 0), "E_SLICES")


def _multi_frame(path: Path, affine: np.ndarray, order: list[int], *, slopes: list[float] | None = None, place: bool = True) -> Path:
    """An enhanced multi-frame CT whose frames are stored in `order`."""
    make_slice(path, ARRAY[0], affine, 0)
    header = pydicom.dcmread(path)
    slices = [pydicom.dcmread(make_slice(path.with_name("part.dcm"), ARRAY[k], affine, k)) for k in order]
    path.with_name("part.dcm").unlink()
    dataset, sequence = pydicom.dataset.Dataset, pydicom.sequence.Sequence

    def group(**values: Any) -> Any:
        item = dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return sequence([item])

    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    header.NumberOfFrames = len(order)
    shared = dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=header.ImageOrientationPatient)
    shared.PixelMeasuresSequence = group(PixelSpacing=header.PixelSpacing, SliceThickness="2.5")
    header.SharedFunctionalGroupsSequence = sequence([shared])
    frames = []
    for number, one in enumerate(slices):
        frame = dataset()
        if place:
            frame.PlanePositionSequence = group(ImagePositionPatient=one.ImagePositionPatient)
        slope = slopes[number] if slopes else 2.0
        frame.PixelValueTransformationSequence = group(RescaleSlope=str(slope), RescaleIntercept="-5", RescaleType="HU")
        frames.append(frame)
    header.PerFrameFunctionalGroupsSequence = sequence(frames)
    header.PixelData = b"".join(one.PixelData for one in slices)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        del header[name]
    header.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
def test_multi_frame_files_are_placed_by_their_frames(tmp_path: Path, order: list[int]) -> None:
    read = read_volume(_multi_frame(tmp_path / "a.dcm", AFFINE, order))
    assert np.array_equal(read.array, ARRAY * 2.0 - 5)
    assert np.allclose(read.geometry.matrix, AFFINE, atol=1e-4)


def test_multi_frame_files_that_are_refused(tmp_path: Path) -> None:
    _refused(_multi_frame(tmp_path / "a.dcm", AFFINE, [0, 1, 3, 4, 5]), "E_SLICES")
    _refused(_multi_frame(tmp_path / "b.dcm", AFFINE, [0, 1, 2, 0, 1, 2]), "E_SLICES")
    _refused(_multi_frame(tmp_path / "c.dcm", AFFINE, [0, 1, 2], place=False), "E_NO_ORIENT")
    _refused(_multi_frame(tmp_path / "d.dcm", AFFINE, [0, 1, 2], slopes=[1.0, 2.0, 3.0]), "E_DICOM")
