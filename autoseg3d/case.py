"""Case: one patient's images and labels as read. Placement: the way from a working array back to the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import model_validator

from autoseg3d.geometry import Flips, Geometry, turn
from planners.contract import Contract, PositiveTriple, Triple
from planners.plan import Plan


@dataclass(frozen=True)
class Case:
    """One case as it lies in its files, nothing turned, cropped or scaled.

    image     (C, Z, Y, X) float32, channels on one grid
    labels    (Z, Y, X) integers, None where the case is to be predicted
    geometry  the grid of both
    """

    id: str
    image: np.ndarray
    geometry: Geometry
    labels: np.ndarray | None = None


class Placement(Contract):
    """All that is needed to go from a working array back to the scan's own grid.

    The stored array is turned (`axes`, `flips`: canonical orientation and network axis order in one), cropped to
    the box that starts at `crop_start` with `cropped_shape`, and resized to `working_shape`; all three in
    network-axis order.
    """

    native: Geometry
    axes: Triple
    flips: Flips
    crop_start: Triple
    cropped_shape: PositiveTriple
    working_shape: PositiveTriple

    @model_validator(mode="after")
    def _check(self) -> Placement:
        full = tuple(self.native.shape[axis] for axis in self.axes)
        ends = tuple(start + size for start, size in zip(self.crop_start, self.cropped_shape, strict=True))
        if any(start < 0 or end > n for start, end, n in zip(self.crop_start, ends, full, strict=True)):
            raise ValueError(f"the crop from {self.crop_start} of shape {self.cropped_shape} leaves the scan of shape {full}")
        return self

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing of the cropped, not yet resized array in network-axis order."""
        native = self.native.spacing_mm
        return (native[self.axes[0]], native[self.axes[1]], native[self.axes[2]])

    def crop(self, array: np.ndarray) -> np.ndarray:
        """A view of a stored array (…, Z, Y, X), turned and cropped: (…, *cropped_shape)."""
        (z, y, x), (depth, height, width) = self.crop_start, self.cropped_shape
        return turn(array, self.axes, self.flips)[..., z : z + depth, y : y + height, x : x + width]

    def restore(self, cropped: np.ndarray, fill: float = 0) -> np.ndarray:
        """A (…, *cropped_shape) array back on the scan's own grid, C-contiguous, `fill` outside the crop."""
        if cropped.shape[-3:] != self.cropped_shape:
            raise ValueError(f"wanted an array of shape {self.cropped_shape}, got {cropped.shape[-3:]}")
        whole = np.full((*cropped.shape[:-3], *self.native.shape), fill, dtype=cropped.dtype)
        self.crop(whole)[...] = cropped
        return whole

    def to_native_index(self, index: Triple) -> Triple:
        """The stored (z, y, x) index of a voxel given by its index in the turned, uncropped array."""
        probe = [0, 0, 0]
        for i, axis in enumerate(self.axes):
            size = self.native.shape[axis]
            probe[axis] = size - 1 - index[i] if self.flips[i] else index[i]
        return (probe[0], probe[1], probe[2])


def turn_for_plan(geometry: Geometry, plan: Plan) -> tuple[Triple, Flips]:
    """(axes, flips) that bring a stored array with this geometry to the plan's orientation and axis order."""
    axes, flips = geometry.to_canonical() if plan.orientation == "canonical" else ((0, 1, 2), (False, False, False))
    a, b, c = plan.axis_order
    return (axes[a], axes[b], axes[c]), (flips[a], flips[b], flips[c])


def place(geometry: Geometry, plan: Plan, box: tuple[Triple, Triple], working_shape: Triple) -> Placement:
    """The Placement of a case cropped to `box` = (start, shape) in network axes and resized to `working_shape`."""
    axes, flips = turn_for_plan(geometry, plan)
    start, shape = box
    return Placement(native=geometry, axes=axes, flips=flips, crop_start=start, cropped_shape=shape, working_shape=working_shape)
