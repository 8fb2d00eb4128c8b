"""Reading a volume, whatever its format: what the bytes say decides, not the file's name alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.io.dicom import is_dicom, read_series, series_geometry
from autoseg3d.io.metaimage import looks_like_metaimage, open_metaimage
from autoseg3d.io.mgh import looks_like_mgh, open_mgh
from autoseg3d.io.nifti import header_file, open_nifti
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.nifti_header import looks_like_nifti
from autoseg3d.io.nrrd import looks_like_nrrd, open_nrrd
from autoseg3d.io.payload import Payload, head, is_gzip, reading, refuse_special
from autoseg3d.io.voxels import Layout, Nonfinite, Volume, load_numbers, to_image, to_labels

SUPPORTED = (
    "NIfTI (.nii, .nii.gz, .hdr/.img), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), MGH (.mgh, .mgz) or a folder with one DICOM series"
)
_NIFTI_NAMES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")
_SNIFFED_BYTES = 4096


def read_volume(path: Path | str, *, geometry: GeometryChoice = "auto", labels: bool = False, nonfinite: Nonfinite = "refuse") -> Volume:
    """One volume, verified to its last byte: (Z, Y, X) float32, or int16/int32 label values with `labels`.

    Args:
        path: a file, or a folder with one DICOM series.
        geometry: which statement of a NIfTI header to follow where they disagree; "auto" refuses such files.
        labels: read whole numbers (floating-point files to within 0.001) instead of intensities.
        nonfinite: "replace" lets up to 0.1 % of NaN or infinite voxels become the smallest finite value, noted.

    Raises ReadError, GeometryError or LabelError with a code for every fault (see docs/reference).
    """
    volume = read_channels(path, 1, geometry=geometry, labels=labels, nonfinite=nonfinite)
    return Volume(volume.array[0], volume.geometry, volume.notes)


def read_channels(
    path: Path | str, channels: int, *, geometry: GeometryChoice = "auto", labels: bool = False, nonfinite: Nonfinite = "refuse"
) -> Volume:
    """Like `read_volume` for a file that stacks `channels` volumes along a fourth axis: array (C, Z, Y, X)."""
    path = Path(path)
    if _holds_dicom(path):
        _check_channels(1, channels, path)
        return _read_dicom(path, labels=labels)
    with _opened(path, geometry) as (payload, layout):
        _check_channels(layout.channels, channels, path)
        numbers, notes = load_numbers(payload, layout)
    if labels:
        array, more = to_labels(numbers, layout, path=path)
    else:
        array, more = to_image(numbers, layout, path=path, nonfinite=nonfinite)
    return Volume(array, layout.geometry, layout.notes + notes + more)


def read_geometry(path: Path | str, *, geometry: GeometryChoice = "auto") -> Geometry:
    """The grid of a volume from its header alone; the voxels are neither read nor verified. Raises as `read_volume`."""
    path = Path(path)
    if _holds_dicom(path):
        return series_geometry(path)
    with _opened(path, geometry) as (_, layout):
        return layout.geometry


def count_channels(path: Path | str, *, geometry: GeometryChoice = "auto") -> int:
    """Length of a file's fourth axis from its header alone, 1 for a plain volume."""
    path = Path(path)
    if _holds_dicom(path):
        return 1
    with _opened(path, geometry) as (_, layout):
        return layout.channels


def _holds_dicom(path: Path) -> bool:
    refuse_special(path)
    with reading(path):
        return path.is_dir() or is_dicom(path)


@contextlib.contextmanager
def _opened(path: Path, geometry: GeometryChoice) -> Iterator[tuple[Payload, Layout]]:
    with reading(path):
        path = header_file(path)
        opened = _open_by_content(path, geometry)
        with opened as (payload, layout):
            yield payload, layout


def _open_by_content(path: Path, geometry: GeometryChoice) -> contextlib.AbstractContextManager[tuple[Payload, Layout]]:
    start = head(path, _SNIFFED_BYTES)
    if looks_like_nifti(start) or path.name.lower().endswith(_NIFTI_NAMES):
        return open_nifti(path, geometry=geometry)
    if looks_like_mgh(start):
        return open_mgh(path)
    if looks_like_nrrd(start) and not is_gzip(path):
        return open_nrrd(path, geometry=geometry)
    if looks_like_metaimage(start) and not is_gzip(path):
        return open_metaimage(path, geometry=geometry)
    raise _unknown(path, start)


def _unknown(path: Path, start: bytes) -> ReadError:
    what = "the file is empty" if not start else "a file of a kind that cannot be read"
    return ReadError(what, file=path, code="E_FORMAT", wanted=SUPPORTED, remedy="Convert the scan to one of these")


def _check_channels(found: int, wanted: int, path: Path) -> None:
    if found != wanted:
        raise GeometryError(
            "the file stacks several volumes" if wanted == 1 else "the number of stacked volumes is wrong",
            file=path,
            code="E_DIM" if wanted == 1 else "E_CHANNEL",
            wanted=wanted,
            got=found,
            remedy="Split it into one file per channel or time point",
        )


def _read_dicom(path: Path, *, labels: bool) -> Volume:
    series = read_series(path)
    if not labels:
        return Volume(series.array[None], series.geometry, series.notes)
    array, notes = to_labels(series.array[None], Layout(geometry=series.geometry, dtype=series.array.dtype), path=path)
    return Volume(array, series.geometry, series.notes + notes)
