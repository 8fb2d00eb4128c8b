"""Reading DICOM images: a folder with one series, or one multi-frame file.

Headers and pixels of classic slices are read by GDCM (SimpleITK); the frames of multi-frame files need pydicom
(`pip install autoseg3d[dicom]`), since GDCM does not give the place of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.io.dicom_decoding import Tags, no_place, read_frames, read_pixels, read_tags
from autoseg3d.io.dicom_slices import Slice, arrange
from autoseg3d.io.dicom_structure import MAGIC_AT, pixel_bytes, starts_like_dicom
from autoseg3d.io.names import is_clutter
from autoseg3d.io.payload import truncated
from autoseg3d.io.voxels import Volume

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66."
_ENDINGS = (".dcm", ".dicom", ".ima")
# The stated distance between slices is often rounded, sometimes wrong by the gap; a missing slice doubles the step.
_STEP_TOLERANCE = 0.25


def is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's magic after its preamble, or begins with DICOM's first elements."""
    with open(path, "rb") as file:
        return starts_like_dicom(file.read(MAGIC_AT + 4))


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, by name; hidden files, the DICOMDIR and files of other kinds left out."""
    return [path for path in _files(folder) if is_dicom(path)]


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.is_file() and not is_clutter(p.name) and p.name.upper() != "DICOMDIR"]


def read_series(path: Path) -> Volume:
    """A folder with one series of slices, or one multi-frame file, as (Z, Y, X) float32 after modality rescale.

    Raises E_FORMAT (no DICOM there), E_DICOM (a kind that is not supported), E_DIM (colour), E_SERIES, E_SLICES, E_TILT,
    E_NO_ORIENT and E_TRUNCATED.
    """
    found = _slices(path)
    ordered, geometry, notes = arrange([one.slice for one in found], path=path)
    array = np.empty(geometry.shape, dtype=np.float32)
    if all(one.file == ordered[0].file for one in ordered):
        frames = read_pixels(ordered[0].file)
        for k, one in enumerate(ordered):
            array[k] = frames[one.frame]
    else:
        for k, one in enumerate(ordered):
            array[k] = read_pixels(one.file)[0]
    return Volume(array, geometry, notes + _doubts(found, geometry))


def series_geometry(path: Path) -> Geometry:
    """The grid of a series from its headers. Raises as `read_series`."""
    return arrange([one.slice for one in _slices(path)], path=path)[1]


@dataclass(frozen=True)
class _Found:
    """A slice, and what its header says of the others; 0 where it says nothing.

    images    how many images the acquisition has
    step_mm   distance between two slices
    """

    slice: Slice
    images: int = 0
    step_mm: float = 0.0


def _doubts(found: list[_Found], geometry: Geometry) -> tuple[str, ...]:
    """Notes where headers and positions disagree: slices missing at an end, or every second one, leave no gap that would tell."""
    images, steps, step = max(one.images for one in found), {one.step_mm for one in found if one.step_mm > 0}, geometry.spacing_mm[0]
    notes: tuple[str, ...] = ()
    if images > len(found):
        notes += (f"the headers speak of {images} images, {len(found)} are there",)
    if steps and step > (1 + _STEP_TOLERANCE) * max(steps):
        notes += (f"the headers speak of {max(steps):g} mm between slices, by their positions it is {step:g} mm",)
    return notes


def _slices(path: Path) -> list[_Found]:
    files = _whole_series(path) if path.is_dir() else [path]
    return [one for file in files for one in _slices_of(file)]


def _whole_series(folder: Path) -> list[Path]:
    """The DICOM files of a folder, none of which may have lost its beginning: a slice less might not be noticed."""
    files = dicom_files(folder)
    if not files:
        raise ReadError("the folder holds no DICOM files", file=folder, code="E_FORMAT", wanted="the slices of one series")
    endings = {file.suffix.lower() for file in files}
    for other in sorted(set(_files(folder)) - set(files)):
        ending = other.suffix.lower()
        if ending in _ENDINGS or (ending in endings and (other.stat().st_size == 0 or b"\0" in other.read_bytes()[:MAGIC_AT])):
            raise ReadError(
                "a file among the slices is empty or damaged",
                file=other,
                code="E_TRUNCATED",
                wanted="a DICOM file",
                got=f"{other.stat().st_size} bytes",
                remedy="Copy or export the series again; remove the file if it does not belong there",
            )
    return files


def _numbers(tags: Tags, tag: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(word) for word in tags.get(tag, "").split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and bool(np.isfinite(values).all()) else None


def _slices_of(file: Path) -> list[_Found]:
    stored = pixel_bytes(file)
    tags = read_tags(file)
    size = _size(file, tags)
    _refuse_unsupported(file, tags)
    _check_pixels(file, tags, size, stored)
    if tags.get("0028|0008", "") not in ("", "1"):
        series, places = read_frames(file)
        return [_Found(_slice(file, frame, series, *place, size)) for frame, place in enumerate(places)]
    position, cosines, spacing = _numbers(tags, "0020|0032", 3), _numbers(tags, "0020|0037", 6), _numbers(tags, "0028|0030", 2)
    if position is None or cosines is None or spacing is None:
        raise no_place(file)
    images, step = ((_numbers(tags, tag, 1) or (0.0,))[0] for tag in ("0020|1002", "0018|0088"))
    return [_Found(_slice(file, 0, tags.get("0020|000e", ""), position, cosines, spacing, size), int(images), step)]


def _size(file: Path, tags: Tags) -> tuple[int, int]:
    """Columns and rows."""
    columns, rows = _numbers(tags, "0028|0011", 1), _numbers(tags, "0028|0010", 1)
    if columns is None or rows is None or min(*columns, *rows) < 1:
        raise ReadError("the DICOM file does not state its size", file=file, field="Rows, Columns", code="E_DICOM")
    return int(columns[0]), int(rows[0])


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
    square = abs(np.linalg.norm(x) - 1) <= 1e-2 and abs(np.linalg.norm(y) - 1) <= 1e-2 and abs(float(x @ y)) <= 1e-2
    if not square or min(spacing) <= 0:
        raise no_place(file)
    unit = (*(x / np.linalg.norm(x)), *(y / np.linalg.norm(y)))
    place = (float(position[0]), float(position[1]), float(position[2]))
    return Slice(file, frame, series, place, tuple(float(v) for v in unit), (float(spacing[1]), float(spacing[0])), size)


def _refuse_unsupported(file: Path, tags: Tags) -> None:
    photometric = tags.get("0028|0004", "")
    if tags.get("0008|0016", "").startswith(_SEGMENTATION):
        raise ReadError("a DICOM segmentation, not an image", file=file, code="E_DICOM", remedy="Give the series that it was drawn on")
    if tags.get("0028|0002", "") not in ("", "1"):
        raise GeometryError("voxels hold colours", file=file, code="E_DIM", wanted="one number per voxel", got=photometric)
    if photometric != "MONOCHROME2":
        raise ReadError(
            "a kind of pixels that is not supported", file=file, code="E_DICOM", wanted="MONOCHROME2", got=photometric or "nothing"
        )


def _check_pixels(file: Path, tags: Tags, size: tuple[int, int], stored: int | None) -> None:
    if tags.get("0028|0103") not in ("0", "1"):
        got = tags.get("0028|0103") or "nothing"
        raise ReadError("voxels are neither signed nor unsigned", file=file, field="PixelRepresentation", code="E_DICOM", got=got)
    for tag, name in (("0028|1053", "RescaleSlope"), ("0028|1052", "RescaleIntercept")):
        if tags.get(tag) and _numbers(tags, tag, 1) is None:
            raise ReadError("the scaling of voxel values is no number", file=file, field=name, code="E_SCALE", got=ascii(tags[tag]))
    bits, frames = _numbers(tags, "0028|0100", 1) or (0.0,), _numbers(tags, "0028|0008", 1) or (1.0,)
    wanted = int(size[0] * size[1] * bits[0] * frames[0]) // 8
    if stored is not None and stored < wanted:
        raise truncated(file, wanted=wanted, got=stored)
