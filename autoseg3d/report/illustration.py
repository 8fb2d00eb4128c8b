"""Pictures and small volumes of cases, made in worker processes; a case that cannot be shown says why."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg3d.errors import DataError, GeometryError
from autoseg3d.geometry import Geometry
from autoseg3d.io import CaseFiles, GeometryChoice, read_channels, read_volume
from autoseg3d.pictures import Picture, overview
from autoseg3d.report.hints import hints
from autoseg3d.report.volumes import SmallVolume, small_volume
from autoseg3d.workers import map_cases
from planners.labels import LabelTable

Progress = Callable[[str, int, int], None]
_WIDTH_INCHES = 8.0


@dataclass(frozen=True)
class Subject:
    """A case to be shown.

    files           its scan; the first channel is shown. None: there is none, and the labels are shown on black
    prediction      the predicted label map, and `reference` the true one, where there is one
    viewer_voxels   of its small volume; None for no viewer
    """

    id: str
    files: CaseFiles | None
    prediction: Path
    reference: Path | None
    labels: LabelTable
    geometry: GeometryChoice = "auto"
    viewer_voxels: int | None = None


@dataclass(frozen=True)
class Illustration:
    """What a page shows of a case.

    picture  a JPEG of three planes, None where it could not be made: `fault` says why
    volume   for the viewer, None where none was asked for
    hints    how the reference differs, in words (see `hints`)
    """

    picture: bytes | None = None
    volume: SmallVolume | None = None
    hints: tuple[str, ...] = ()
    fault: str | None = None
    layers: tuple[str, ...] = field(default=("prediction",))


def illustrate(subjects: Sequence[Subject], *, workers: int, progress: Progress | None = None) -> dict[str, Illustration]:
    """The illustration of each subject by its id. One that cannot be read does not stop the others."""
    made: dict[str, Illustration] = {}
    for outcome in map_cases(_illustrate, subjects, workers=workers, what="Drawing cases", progress=progress):
        subject = subjects[outcome.index]
        if isinstance(outcome.error, DataError):
            made[subject.id] = Illustration(fault=outcome.error.what)
        else:
            made[subject.id] = outcome.result()
    return made


def _illustrate(subject: Subject) -> Illustration:
    predicted = read_volume(subject.prediction, labels=True, geometry=subject.geometry)
    grid = predicted.geometry
    layers = [predicted.array]
    if subject.reference is not None:
        layers.append(_on_grid(subject.reference, grid, subject.geometry))
    image = _image(subject, grid)
    reference = layers[1] if len(layers) > 1 else None
    picture = Picture(image, grid, reference, predicted.array, title=subject.id)
    volume = None
    if subject.viewer_voxels is not None:
        volume = small_volume(image, layers, grid, max_voxels=subject.viewer_voxels)
    return Illustration(
        picture=_drawn(picture, subject.labels),
        volume=volume,
        hints=() if reference is None else hints(reference, predicted.array, grid, subject.labels),
        layers=("prediction", "reference")[: len(layers)],
    )


def _image(subject: Subject, grid: Geometry) -> np.ndarray:
    """The first channel (Z, Y, X). Raises GeometryError where it is not on the grid of the label map."""
    if subject.files is None:
        return np.zeros(grid.shape, dtype=np.float32)
    files = subject.files
    volume = read_channels(files.images[0], files.stacked_channels, geometry=subject.geometry, nonfinite="replace")
    _check(volume.geometry, grid, files.images[0])
    image: np.ndarray = volume.array[0]
    return image


def _on_grid(path: Path, grid: Geometry, geometry: GeometryChoice) -> np.ndarray:
    volume = read_volume(path, labels=True, geometry=geometry)
    _check(volume.geometry, grid, path)
    return volume.array


def _check(found: Geometry, grid: Geometry, path: Path) -> None:
    if not grid.same_grid(found):
        raise GeometryError("the scan and its label map lie on different grids", file=path, code="E_ALIGN")


def _drawn(picture: Picture, labels: LabelTable) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        overview(picture, path, names=painted_names(labels), width_inches=_WIDTH_INCHES)
        return path.read_bytes()


def painted_names(labels: LabelTable) -> dict[int, str]:
    """The name of each value that a label map may hold: that of the label, or of the region which paints it."""
    return {label.paint: label.name for label in labels.labels} | dict(_unpainted(labels))


def _unpainted(labels: LabelTable) -> Iterator[tuple[int, str]]:
    painted = {label.paint for label in labels.labels}
    yield from ((value, f"label {value}") for value in labels.values if value not in painted)
    if labels.ignore is not None:
        yield labels.ignore, "ignored"
