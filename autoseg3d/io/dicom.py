"""Reading DICOM images: a folder with one series, or one multi-frame file. Pixels are decoded by GDCM (SimpleITK).

Headers of classic slices are read with GDCM too; those of multi-frame files need pydicom (`pip install autoseg3d[dicom]`),
since GDCM does not give the place of each frame.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.io.dicom_slices import Slice, arrange
from autoseg3d.io.voxels import Volume

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66."
_UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
_MAGIC = b"DICM"
_MAGIC_AT = 128


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's magic after its preamble."""
    with open(path, "rb") as file:
        return file.read(_MAGIC_AT + 4)[_MAGIC_AT:] == _MAGIC


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by name; hidden files, the DICOMDIR and files of other kinds left out."""
    files = (p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and p.name.upper() != "DICOMDIR")
    return [p for p in files if is_dicom(p)]


def read_series(path: Path) -> Volume:
    """A folder with one series of slices, or one multi-frame file, as (Z, Y, X) float32 after modality rescale.

    Raises E_FORMAT (no DICOM there), E_DICOM (a kind that is not supported), E_DIM (colour), E_SERIES, E_SLICES, E_TILT,
    E_NO_ORIENT and E_TRUNCATED.
    """
    ordered, geometry, notes = arrange(_slices(path), path=path)
    array = np.empty(geometry.shape, dtype=np.float32)
    frames: np.ndarray | None = None
    for k, one in enumerate(ordered):
        if len(ordered) > 1 and all(s.file == one.file for s in ordered):
            frames = _pixels(one.file) if frames is None else frames
            array[k] = frames[one.frame]
        else:
            array[k] = _pixels(one.file)[0]
    return Volume(array, geometry, notes)


def series_geometry(path: Path) -> Geometry:
    """The grid of a series from its headers. Raises as `read_series`."""
    return arrange(_slices(path), path=path)[1]


def _slices(path: Path) -> list[Slice]:
    files = dicom_files(path) if path.is_dir() else [path]
    if not files:
        raise ReadError("the folder holds no DICOM files", file=path, code="E_FORMAT", wanted="the slices of one series")
    return [one for file in files for one in _slices_of(file)]


@contextlib.contextmanager
def _gdcm(file: Path) -> Iterator[Any]:
    """SimpleITK with its warnings off; its exceptions become E_DICOM naming the file."""
    sitk = importlib.import_module("SimpleITK")
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield sitk
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ReadError(
            f"the DICOM file cannot be decoded ({lines[-1].strip()[:200]})", file=file, code="E_DICOM", remedy="Export the series again"
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


class _Tags:
    """Text values of a header's tags, trailing padding removed."""

    def __init__(self, file: Path) -> None:
        with _gdcm(file) as sitk:
            reader = sitk.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            self._values: dict[str, str] = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
        self.file = file

    def text(self, tag: str) -> str:
        return self._values.get(tag, "")

    def numbers(self, tag: str, count: int) -> tuple[float, ...] | None:
        try:
            values = tuple(float(word) for word in self.text(tag).split("\\"))
        except ValueError:
            return None
        return values if len(values) == count and bool(np.isfinite(values).all()) else None


def _slices_of(file: Path) -> list[Slice]:
    tags = _Tags(file)
    _refuse_unsupported(tags)
    if tags.text("0028|0008") not in ("", "1"):
        return _frames(file)
    position, cosines, spacing = tags.numbers("0020|0032", 3), tags.numbers("0020|0037", 6), tags.numbers("0028|0030", 2)
    size = tags.numbers("0028|0011", 1), tags.numbers("0028|0010", 1)
    if position is None or cosines is None or spacing is None or min(spacing) <= 0 or None in size:
        raise _no_place(file)
    return [_slice(file, 0, tags.text("0020|000e"), position, cosines, spacing, (int(size[0][0]), int(size[1][0])))]  # type: ignore[index]


def _slice(
    file: Path,
    frame: int,
    series: str,
    position: tuple[float, ...],
    cosines: tuple[float, ...],
    spacing: tuple[float, ...],
    size: tuple[int, int],
) -> Slice:
    """A Slice from attribute values; DICOM's Pixel Spacing gives the distance between rows first."""
    x, y = np.array(cosines[:3]), np.array(cosines[3:])
    if abs(np.linalg.norm(x) - 1) > 1e-2 or abs(np.linalg.norm(y) - 1) > 1e-2 or abs(float(x @ y)) > 1e-2:
        raise _no_place(file)
    unit = (*(x / np.linalg.norm(x)), *(y / np.linalg.norm(y)))
    place = (float(position[0]), float(position[1]), float(position[2]))
    return Slice(file, frame, series, place, tuple(float(v) for v in unit), (float(spacing[1]), float(spacing[0])), size)


def _no_place(file: Path) -> GeometryError:
    return GeometryError(
        "the DICOM file does not say where its slice lies in the patient",
        file=file,
        field="ImagePositionPatient, ImageOrientationPatient, PixelSpacing",
        code="E_NO_ORIENT",
        remedy="Use the original series, not a secondary capture",
    )


def _refuse_unsupported(tags: _Tags) -> None:
    file, photometric = tags.file, tags.text("0028|0004")
    if tags.text("0008|0016").startswith(_SEGMENTATION):
        raise ReadError("a DICOM segmentation, not an image", file=file, code="E_DICOM", remedy="Give the series that it was drawn on")
    if tags.text("0028|0002") not in ("", "1"):
        raise GeometryError("voxels hold colours", file=file, code="E_DIM", wanted="one number per voxel", got=photometric)
    if photometric != "MONOCHROME2":
        raise ReadError(
            "a kind of pixels that is not supported", file=file, code="E_DICOM", wanted="MONOCHROME2", got=photometric or "nothing"
        )
    syntax = tags.text("0002|0010")
    size = [tags.numbers(tag, 1) for tag in ("0028|0010", "0028|0011", "0028|0100")]
    if syntax in _UNCOMPRESSED and None not in size:
        frames = tags.numbers("0028|0008", 1) or (1.0,)
        wanted = int(np.prod([value[0] for value in size if value]) * frames[0]) // 8
        if file.stat().st_size < wanted:
            got = f"{file.stat().st_size} bytes"
            raise ReadError(
                "the file is cut short", file=file, code="E_TRUNCATED", wanted=f"{wanted} bytes", got=got, remedy="Export it again"
            )


def _pixels(file: Path) -> np.ndarray:
    """(frames, rows, columns) float32, modality rescale applied by GDCM."""
    with _gdcm(file) as sitk:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        reader.SetOutputPixelType(sitk.sitkFloat32)
        return np.asarray(sitk.GetArrayFromImage(reader.Execute()), dtype=np.float32)


def _frames(file: Path) -> list[Slice]:
    """The frames of an enhanced multi-frame file, from its functional groups."""
    try:
        pydicom = importlib.import_module("pydicom")
    except ImportError as error:
        remedy = "pip install 'autoseg3d[dicom]', or convert the file to NIfTI"
        raise ReadError("multi-frame DICOM needs pydicom", file=file, code="E_DICOM", remedy=remedy) from error
    header = pydicom.dcmread(file, stop_before_pixels=True)
    shared = header.get("SharedFunctionalGroupsSequence") or [None]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(frames) != int(header.NumberOfFrames):
        raise _no_place(file)
    size = (int(header.Columns), int(header.Rows))
    scales = set()
    slices = []
    for index, frame in enumerate(frames):

        def value(sequence: str, name: str, frame: Any = frame) -> Any:
            for group in (frame, shared[0]):
                if group is not None and group.get(sequence):
                    return group[sequence].value[0].get(name)
            return None

        position = value("PlanePositionSequence", "ImagePositionPatient")
        cosines, spacing = value("PlaneOrientationSequence", "ImageOrientationPatient"), value("PixelMeasuresSequence", "PixelSpacing")
        if not position or not cosines or not spacing:
            raise _no_place(file)
        transformation = "PixelValueTransformationSequence"
        scales.add((value(transformation, "RescaleSlope"), value(transformation, "RescaleIntercept")))
        slices.append(_slice(file, index, header.get("SeriesInstanceUID", ""), tuple(position), tuple(cosines), tuple(spacing), size))
    if len(scales) > 1:
        raise ReadError(
            "the frames are scaled differently, which is not supported", file=file, code="E_DICOM", remedy="Convert the file to NIfTI"
        )
    return slices
