"""Planes through a scan: chosen where there is most to see, turned upright whatever the orientation of the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from autoseg3d.geometry import Geometry, turn
from planners.contract import Triple

Convention = Literal["radiological", "neurological"]
Name = Literal["axial", "coronal", "sagittal"]
NAMES: tuple[Name, ...] = ("axial", "coronal", "sagittal")

_UPWARDS = ("S", "A", "R")
_DOWNWARDS = ("I", "P", "L")
_ERROR_SIZE_MM = 10.0


@dataclass(frozen=True)
class Picture:
    """What is to be shown of one case.

    image       (Z, Y, X), as stored
    geometry    its grid
    labels      the true label map (Z, Y, X), values; None where there is none
    prediction  the predicted one, likewise
    title       a line above
    """

    image: np.ndarray
    geometry: Geometry
    labels: np.ndarray | None = None
    prediction: np.ndarray | None = None
    title: str = ""

    def __post_init__(self) -> None:
        for name in ("image", "labels", "prediction"):
            array = getattr(self, name)
            if array is not None and array.shape != self.geometry.shape:
                raise ValueError(f"{name} must have the shape {self.geometry.shape} of the geometry, got {array.shape}")


@dataclass(frozen=True)
class Plane:
    """One plane as it is drawn: row 0 on top, column 0 on the left.

    name        axial, coronal or sagittal (of an oblique scan: the plane of voxels nearest to it)
    image, labels, prediction: (rows, columns)
    pixel_mm    height and width of a pixel
    window      grey values (darkest, brightest) for the whole scan
    letters     directions at the left, right, top and bottom edge, such as ("R", "L", "A", "P")
    position    where the plane lies, such as "S 12 mm", of its middle pixel
    marks       rows and columns (row, column) where the two other planes cut this one
    """

    name: Name
    image: np.ndarray
    labels: np.ndarray | None
    prediction: np.ndarray | None
    pixel_mm: tuple[float, float]
    window: tuple[float, float]
    letters: tuple[str, str, str, str]
    position: str
    marks: tuple[int, int]


def cut_planes(picture: Picture, *, convention: Convention = "radiological", zoom: bool = True) -> tuple[Plane, Plane, Plane]:
    """The axial, coronal and sagittal plane through the point of interest (see `point_of_interest`).

    Args:
        picture: the case.
        convention: "radiological" shows the patient's right on the left, "neurological" on the right.
        zoom: leave away what lies far from all labels.
    """
    axes, flips = picture.geometry.to_canonical()
    geometry = picture.geometry.turned(axes, flips)
    image, labels, prediction = (
        None if array is None else turn(array, axes, flips) for array in (picture.image, picture.labels, picture.prediction)
    )
    assert image is not None
    spacing = geometry.spacing_mm
    point = point_of_interest(labels, prediction, image.shape, spacing)
    box = shown_box(labels, prediction, image.shape, spacing) if zoom else tuple(slice(0, n) for n in image.shape)
    window = grey_window(image[box])
    z, y, x = (float(v) for v in (geometry.matrix @ [*reversed(point), 1])[2::-1])
    planes = []
    for axis, (name, position) in enumerate(zip(NAMES, (z, y, x), strict=True)):
        rows, columns = (i for i in range(3) if i != axis)
        mirrored = axis == 2 or convention == "radiological"
        planes.append(
            Plane(
                name=name,
                image=_section(image, axis, point, box, mirrored),
                labels=None if labels is None else _section(labels, axis, point, box, mirrored),
                prediction=None if prediction is None else _section(prediction, axis, point, box, mirrored),
                pixel_mm=(spacing[rows], spacing[columns]),
                window=window,
                letters=_letters(rows, columns, mirrored),
                position=f"{(_UPWARDS if position >= 0 else _DOWNWARDS)[axis]} {abs(position):.0f} mm",
                marks=_marks(point, box, rows, columns, mirrored),
            )
        )
    return planes[0], planes[1], planes[2]


def point_of_interest(
    labels: np.ndarray | None, prediction: np.ndarray | None, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> Triple:
    """The voxel through which planes are cut.

    Where truth and prediction differ: the middle of the densest error, seen at a grain of 10 mm. Else, where there is
    foreground: on each axis the slice with most of it. Else the middle of the scan.
    """
    if labels is not None and prediction is not None and (labels != prediction).any():
        wrong = labels != prediction
        box = ndimage.find_objects(wrong.astype(np.uint8))[0]
        density = ndimage.gaussian_filter(wrong[box].astype(np.float32), [_ERROR_SIZE_MM / 2 / s for s in spacing_mm], mode="constant")
        inside = np.unravel_index(int(np.argmax(density)), density.shape)
        z, y, x = (s.start + int(i) for s, i in zip(box, inside, strict=True))
        return z, y, x
    shown = labels if labels is not None else prediction
    if shown is None or not (shown > 0).any():
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    z, y, x = (int(np.count_nonzero(shown > 0, axis=tuple(i for i in range(3) if i != axis)).argmax()) for axis in range(3))
    return z, y, x


def shown_box(
    labels: np.ndarray | None, prediction: np.ndarray | None, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> tuple[slice, ...]:
    """The box of all foreground with a margin of a third of its longest side, so that the surroundings can be judged."""
    boxes = [ndimage.find_objects((array > 0).astype(np.uint8)) for array in (labels, prediction) if array is not None]
    found = [box[0] for box in boxes if box]
    if not found:
        return tuple(slice(0, n) for n in shape)
    low = [min(box[i].start for box in found) for i in range(3)]
    high = [max(box[i].stop for box in found) for i in range(3)]
    margin_mm = max((b - a) * s for a, b, s in zip(low, high, spacing_mm, strict=True)) / 3
    margins = [round(margin_mm / s) for s in spacing_mm]
    return tuple(slice(max(a - m, 0), min(b + m, n)) for a, b, m, n in zip(low, high, margins, shape, strict=True))


def _section(array: np.ndarray, axis: int, point: Triple, box: tuple[slice, ...], mirrored: bool) -> np.ndarray:
    place: list[int | slice] = list(box)
    place[axis] = point[axis]
    section = array[tuple(place)][::-1]
    return section[:, ::-1] if mirrored else section


def _letters(rows: int, columns: int, mirrored: bool) -> tuple[str, str, str, str]:
    left, right = (_UPWARDS, _DOWNWARDS) if mirrored else (_DOWNWARDS, _UPWARDS)
    return left[columns], right[columns], _UPWARDS[rows], _DOWNWARDS[rows]


def _marks(point: Triple, box: tuple[slice, ...], rows: int, columns: int, mirrored: bool) -> tuple[int, int]:
    row = box[rows].stop - 1 - point[rows]
    return row, (box[columns].stop - 1 - point[columns] if mirrored else point[columns] - box[columns].start)


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Grey values for black and white, from the tissue: from all that is clearly brighter than the darkest.

    Its 1st to 99th percentile, but no further from the median than nine times the quartiles, so that bone or a metal
    clip does not flatten the soft tissue of a CT.
    """
    low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
    tissue = image[image > low + 0.1 * (high - low)]
    if not tissue.size or high <= low:
        return low, low + max(high - low, 1e-6)
    p1, p25, p50, p75, p99 = (float(v) for v in np.percentile(tissue, (1, 25, 50, 75, 99)))
    first, last = max(p1, p50 - 9 * (p50 - p25)), min(p99, p50 + 9 * (p75 - p50))
    return first - 0.1 * (last - first), max(last, first + 1e-6)
