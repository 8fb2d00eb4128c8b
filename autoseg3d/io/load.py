"""Loading a case: its channels and labels on one grid, checked against each other and the label table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg3d.case import Case
from autoseg3d.errors import DataError, GeometryError, LabelError, ReadError
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.grids import SAME_GRID_VOXELS
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.regrid import is_sheared, resample, straight_grid
from autoseg3d.io.volume import read_channels, read_volume
from autoseg3d.io.voxels import Nonfinite, Volume
from planners.labels import LabelTable

_VALUES_SHOWN = 10


@dataclass(frozen=True)
class LoadedCase:
    """A case ready for preprocessing.

    case    image and labels on one right-angled grid
    notes   what was repaired, assumed or resampled while reading; a clinic flags a case that has any
    native  the grid of the scan's own file; differs from `case.geometry` only where that one is sheared
    """

    case: Case
    notes: tuple[str, ...]
    native: Geometry

    def to_native(self, labels: np.ndarray) -> np.ndarray:
        """A (Z, Y, X) label map on `case.geometry`, brought to the scan's own grid; the same array where they are one."""
        if self.native == self.case.geometry:
            return labels
        return resample(labels, self.case.geometry, self.native, order=0, fill=0)


def load_case(files: CaseFiles, *, labels: LabelTable | None, geometry: GeometryChoice = "auto") -> LoadedCase:
    """Reads a case: for training with `labels`, for prediction with None.

    Channels on another grid than the first are resampled to it, linearly in patient space, with a note. A sheared grid is
    straightened. In training NaN and infinite voxels are refused, in prediction up to 0.1 % are replaced and noted.

    Raises whatever `read_volume` raises, and E_CONSTANT (an image of one value), E_CHANNEL (a channel that lies
    elsewhere), E_SHAPE and E_ALIGN (a label map on another grid), E_LABEL (values not in the table); each names the case.
    """
    try:
        if files.fault is not None:
            raise files.fault
        image, native, notes = _image(files, geometry, nonfinite="replace" if labels is None else "refuse")
        label_map = None
        if labels is not None:
            volume = _labels(files, native, labels, geometry)
            label_map, notes = volume.array, notes + _named(files.label, volume.notes)
        if is_sheared(native):
            return _straightened(files.id, image, label_map, native, notes)
        return LoadedCase(Case(files.id, image, native, label_map), notes, native)
    except DataError as error:
        error.case = error.case or files.id
        raise


def _image(files: CaseFiles, geometry: GeometryChoice, *, nonfinite: Nonfinite) -> tuple[np.ndarray, Geometry, tuple[str, ...]]:
    """(C, Z, Y, X) float32 on the first channel's grid, that grid, and notes."""
    first = read_channels(files.images[0], files.stacked_channels, geometry=geometry, nonfinite=nonfinite)
    notes = _named(files.images[0], first.notes)
    image, grid = first.array, first.geometry
    if len(files.images) > 1:
        image = np.empty((len(files.images), *grid.shape), dtype=np.float32)
        image[0] = first.array[0]
        del first
        for channel, path in enumerate(files.images[1:], start=1):
            volume = _on_grid(read_volume(path, geometry=geometry, nonfinite=nonfinite), grid, path)
            image[channel] = volume.array
            notes += _named(path, volume.notes)
    for channel, values in enumerate(image):
        path = files.images[min(channel, len(files.images) - 1)]
        if (low := values.min()) == values.max():
            raise _constant(path, float(low))
    return image, grid, notes


def _constant(path: Path, value: float) -> ReadError:
    remedy = "Check that this is the right file, or leave the case out"
    return ReadError("every voxel has the same value", file=path, code="E_CONSTANT", wanted="an image", got=f"{value:g}", remedy=remedy)


def _on_grid(volume: Volume, grid: Geometry, path: Path) -> Volume:
    if grid.same_grid(volume.geometry, SAME_GRID_VOXELS):
        return volume
    fill = float(volume.array.min())
    resampled = resample(volume.array, volume.geometry, grid, order=1, fill=fill)
    if resampled.min() == resampled.max() and volume.array.max() > fill:
        raise GeometryError(
            "this channel lies elsewhere in the patient than the first one",
            file=path,
            code="E_CHANNEL",
            wanted=_described(grid),
            got=_described(volume.geometry),
            remedy="Check that all channels belong to one examination",
        )
    note = f"resampled from {_described(volume.geometry)} to the grid of the first channel, {_described(grid)}"
    return Volume(resampled, grid, (*volume.notes, note))


def _labels(files: CaseFiles, grid: Geometry, table: LabelTable, geometry: GeometryChoice) -> Volume:
    if files.label is None:
        raise ReadError("the case has no label map", case=files.id, code="E_MISSING", remedy="Add it, or leave the case out")
    volume = read_volume(files.label, geometry=geometry, labels=True)
    if files.images[0].is_dir():
        volume = _in_the_order_of_slices(volume, grid)
    image = files.images[0].name
    if volume.geometry.shape != grid.shape:
        raise LabelError(
            f"the label map and its image {image} differ in shape",
            file=files.label,
            code="E_SHAPE",
            wanted=_size(grid),
            got=_size(volume.geometry),
            remedy=_turned_remedy(volume.geometry, grid) or "Export the label map on the grid of the image",
        )
    gap = grid.corner_distance_voxels(volume.geometry)
    if gap > SAME_GRID_VOXELS:
        raise GeometryError(
            f"the label map lies elsewhere in the patient than its image {image}",
            file=files.label,
            code="E_ALIGN",
            wanted=f"corners within {SAME_GRID_VOXELS} voxel, {_described(grid)}",
            got=f"{gap:.3g} voxels apart, {_described(volume.geometry)}",
            remedy=_turned_remedy(volume.geometry, grid)
            or "Copy the image's geometry into the label map if its voxels match, else resample it onto the image",
        )
    _refuse_unexpected(volume.array, table, files.label)
    return volume


def _in_the_order_of_slices(labels: Volume, series: Geometry) -> Volume:
    """A label map of a DICOM series turned to the order that the series is read in, which no file states; any other as it is."""
    turn_to = labels.geometry.turn_to(series, SAME_GRID_VOXELS)
    if turn_to in (None, ((0, 1, 2), (False, False, False))):
        return labels
    axes, flips = turn_to
    note = f"turned from {labels.geometry.orientation} to the order of its slices, {series.orientation}"
    return Volume(np.ascontiguousarray(turn(labels.array, axes, flips)), series, (*labels.notes, note))


def _turned_remedy(labels: Geometry, image: Geometry) -> str | None:
    """What to do about a label map that covers the image's own voxels, but in another order; None for any other.

    It is not turned here: a header that was mirrored by mistake looks the same.
    """
    if labels.turn_to(image, SAME_GRID_VOXELS) is None:
        return None
    return (
        "By its header the label map covers the same voxels in another order. Look at both in a viewer: if they match there, "
        f"store the label map as {image.orientation}, like the image; if not, its header is mirrored"
    )


def _refuse_unexpected(labels: np.ndarray, table: LabelTable, path: Path) -> None:
    allowed, low, high = set(table.allowed_values), int(labels.min()), int(labels.max())
    if high - low < len(allowed) and allowed.issuperset(range(low, high + 1)):
        return
    known = np.isin(labels, sorted(allowed))
    if known.all():
        return
    strange = np.flatnonzero(~known.ravel())
    values, places, counts = np.unique(labels.ravel()[strange], return_index=True, return_counts=True)
    shown = []
    for value, place, count in list(zip(values.tolist(), places, counts, strict=True))[:_VALUES_SHOWN]:
        z, y, x = (int(i) for i in np.unravel_index(strange[place], labels.shape))
        shown.append(f"{value} in {count} voxel{'s' if count > 1 else ''}, first at x={x} y={y} z={z}")
    more = f"; and {len(values) - _VALUES_SHOWN} more values" if len(values) > _VALUES_SHOWN else ""
    raise LabelError(
        "the label map holds values that the label table does not know",
        file=path,
        wanted=", ".join(map(str, table.allowed_values)),
        got="; ".join(shown) + more,
        remedy="Correct the label map, or add the values to the labels of dataset.json",
    )


def _straightened(case: str, image: np.ndarray, labels: np.ndarray | None, native: Geometry, notes: tuple[str, ...]) -> LoadedCase:
    grid = straight_grid(native)
    straight = np.stack([resample(channel, native, grid, order=1, fill=float(channel.min())) for channel in image])
    label_map = None if labels is None else resample(labels, native, grid, order=0, fill=0)
    note = f"sheared scan resampled onto a right-angled grid of {_size(grid)} voxels; its labels go back to its own"
    return LoadedCase(Case(case, straight, grid, label_map), (*notes, note), native)


def _named(path: Path | None, notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{path.name}: {note}" for note in notes) if path is not None else notes


def _size(geometry: Geometry) -> str:
    return "×".join(str(n) for n in reversed(geometry.shape))


def _described(geometry: Geometry) -> str:
    spacing = "×".join(f"{v:.4g}" for v in reversed(geometry.spacing_mm))
    return f"{_size(geometry)} voxels of {spacing} mm, {geometry.orientation}"
