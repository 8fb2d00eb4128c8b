"""GDCM (SimpleITK) and pydicom in a process of their own.

They are the only readers here that are not ours. A file that makes them crash, or work without end, costs that file and no
more: the process is killed, the file refused by name, and the next file gets a new process.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.workers import WorkerProcess

# Enough for a slow disk; a stack of frames may take longer by its size.
_SECONDS, _BYTES_PER_SECOND = 8.0, 5e6
_SECONDS_TO_START = 120.0

Tags = dict[str, str]
Place = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]


def read_tags(file: Path) -> Tags:
    """The header's tags ("0020|0032") as text. Raises E_DICOM."""
    return _DECODER.ask("tags", file)  # type: ignore[no-any-return]


def read_pixels(file: Path) -> np.ndarray:
    """(frames, rows, columns) float32, modality rescale applied. Raises E_DICOM."""
    return np.asarray(_DECODER.ask("pixels", file))


def read_frames(file: Path) -> tuple[str, list[Place]]:
    """Series, and (position, cosines, spacing) of each frame of an enhanced multi-frame file. Raises E_DICOM, E_NO_ORIENT."""
    return _DECODER.ask("frames", file)  # type: ignore[no-any-return]


def no_place(file: Path) -> GeometryError:
    """E_NO_ORIENT of a slice without position, orientation or spacing."""
    return GeometryError(
        "the DICOM file does not say where its slice lies in the patient",
        file=file,
        field="ImagePositionPatient, ImageOrientationPatient, PixelSpacing",
        code="E_NO_ORIENT",
        remedy="Use the original series, not a secondary capture",
    )


class _Decoder:
    """The process that decodes for this one; started at the first question, again after a death or a fork."""

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None
        self._owner = 0
        self._guard = threading.Lock()

    def ask(self, what: str, file: Path) -> Any:
        """The answer of `_answer` for one file. Raises its error, or E_DICOM where it died or took too long."""
        with self._guard:
            process = self._started()
            try:
                value, error = process.call((what, str(file)), _SECONDS + file.stat().st_size / _BYTES_PER_SECOND)
            except (EOFError, OSError) as end:
                self._process = None
                cause, _ = process.reap()
                how = "takes the decoder too long" if process.timed_out else f"crashes the decoder ({cause})"
                raise ReadError(f"the DICOM file {how}", file=file, code="E_DICOM", remedy="Export the series again") from end
        if error is not None:
            raise error
        return value

    def _started(self) -> WorkerProcess:
        if self._process is None or self._owner != os.getpid():
            self._process, self._owner = WorkerProcess(_answer, threads=1), os.getpid()
            self._process.call(("start", ""), _SECONDS_TO_START)
        return self._process

    def end(self) -> None:
        """Ends the process where it is ours."""
        if self._process is not None and self._owner == os.getpid():
            self._process.end()
            self._process = None


_DECODER = _Decoder()
atexit.register(_DECODER.end)


def _answer(question: tuple[str, str]) -> Any:
    """Runs in the decoding process."""
    what, name = question
    if what == "start":
        importlib.import_module("SimpleITK")
        return None
    return {"tags": _tags, "pixels": _pixels, "frames": _frames}[what](Path(name))


@contextlib.contextmanager
def _gdcm(file: Path) -> Iterator[tuple[Any, Any]]:
    """SimpleITK and its reader for a file, without warnings; its exceptions become E_DICOM naming the file."""
    sitk = importlib.import_module("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        yield sitk, reader
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise _undecodable(file, lines[-1].strip() if lines else "no reason given") from error


def _undecodable(file: Path, why: str) -> ReadError:
    return ReadError(f"the DICOM file cannot be decoded ({why[:200]})", file=file, code="E_DICOM", remedy="Export the series again")


def _tags(file: Path) -> Tags:
    with _gdcm(file) as (_, reader):
        reader.ReadImageInformation()
        found = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    # Bytes of no encoding come as lone surrogates, which cannot cross to the other process.
    return {key: value.encode("utf-8", "replace").decode().strip(" \0") for key, value in found.items()}


def _pixels(file: Path) -> np.ndarray:
    with _gdcm(file) as (sitk, reader):
        reader.SetOutputPixelType(sitk.sitkFloat32)
        return np.asarray(sitk.GetArrayFromImage(reader.Execute()), dtype=np.float32)


def _frames(file: Path) -> tuple[str, list[Place]]:
    try:
        pydicom = importlib.import_module("pydicom")
    except ImportError as error:
        remedy = "pip install 'autoseg3d[dicom]', or convert the file to NIfTI"
        raise ReadError("multi-frame DICOM needs pydicom", file=file, code="E_DICOM", remedy=remedy) from error
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
        shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
        frames = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        places = [_place(frame, shared) for frame in frames]
        scales = {tuple(map(str, _scale(frame, shared))) for frame in frames}
        series, count = str(header.get("SeriesInstanceUID", "")), int(header.NumberOfFrames)
    except Exception as error:  # pydicom raises whatever a damaged element leads to
        raise _undecodable(file, f"{type(error).__name__}: {error}") from error
    if len(frames) != count or None in places:
        raise no_place(file)
    if len(scales) > 1:
        raise ReadError(
            "the frames are scaled differently, which is not supported", file=file, code="E_DICOM", remedy="Convert the file to NIfTI"
        )
    return series, [place for place in places if place is not None]


def _of_group(frame: Any, shared: Any, sequence: str, name: str) -> Any:
    """A value of a functional group: the frame's own, else the one that all frames share."""
    for group in (frame, shared):
        if group is not None and group.get(sequence):
            return group[sequence].value[0].get(name)
    return None


def _place(frame: Any, shared: Any) -> Place | None:
    values = (
        _of_group(frame, shared, "PlanePositionSequence", "ImagePositionPatient"),
        _of_group(frame, shared, "PlaneOrientationSequence", "ImageOrientationPatient"),
        _of_group(frame, shared, "PixelMeasuresSequence", "PixelSpacing"),
    )
    if not all(values):
        return None
    position, cosines, spacing = (tuple(float(v) for v in value) for value in values)
    return (position, cosines, spacing) if (len(position), len(cosines), len(spacing)) == (3, 6, 2) else None


def _scale(frame: Any, shared: Any) -> tuple[Any, Any]:
    sequence = "PixelValueTransformationSequence"
    return _of_group(frame, shared, sequence, "RescaleSlope"), _of_group(frame, shared, sequence, "RescaleIntercept")
