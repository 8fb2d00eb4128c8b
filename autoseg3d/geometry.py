"""Geometry: where a voxel array lies in the patient, and the turns that bring it to the canonical orientation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from types import EllipsisType
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from planners.contract import Contract, PositiveTriple, Triple

Row = tuple[float, float, float, float]
Flips = tuple[bool, bool, bool]

_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


class NiftiHeader(Contract):
    """The spatial fields of a NIfTI header, as stored, so that an output can copy them bit for bit.

    float32 values are kept as the Python floats they widen to, which narrow back to the same bits. Text fields are
    left out on purpose: they carry patient names.
    """

    version: int = Field(ge=1, le=2)
    pixdim: tuple[float, ...] = Field(min_length=8, max_length=8)
    qform_code: int
    sform_code: int
    quatern_bcd: tuple[float, float, float]
    qoffset_xyz: tuple[float, float, float]
    srow_x: Row
    srow_y: Row
    srow_z: Row
    xyzt_units: int


class Geometry(Contract):
    """The voxel grid of one volume.

    shape    (z, y, x) of the array
    affine   three rows of the 4×4 matrix that takes voxel indices (i, j, k) = (x, y, z) to millimetres in the
             patient, x to the right, y to the front, z upwards (RAS+, the convention of NIfTI)
    header   the NIfTI fields the grid was read from, None for other formats
    """

    shape: PositiveTriple
    affine: tuple[Row, Row, Row]
    header: NiftiHeader | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        matrix = self.matrix
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if not np.all(np.isfinite(matrix)) or np.any(lengths == 0):
            raise ValueError(f"affine must be finite with three axes of positive length, got {self.affine}")
        if abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-3:
            raise ValueError(f"affine axes must span space, got {self.affine}")
        return self

    @classmethod
    def from_affine(cls, shape: Triple, affine: np.ndarray, header: NiftiHeader | None = None) -> Self:
        """Geometry of a (z, y, x) `shape` and a 4×4 or 3×4 RAS+ `affine` over (x, y, z) indices."""
        rows = tuple(tuple(float(v) for v in row) for row in np.asarray(affine, dtype=np.float64)[:3])
        return cls.model_validate({"shape": tuple(int(n) for n in shape), "affine": rows, "header": header})

    @property
    def matrix(self) -> np.ndarray:
        """The 4×4 affine, float64."""
        return np.array([*self.affine, (0.0, 0.0, 0.0, 1.0)])

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along the array axes (z, y, x): the lengths of the affine's columns."""
        x, y, z = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return (float(z), float(y), float(x))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres: |det| of the affine / 1000, right for sheared grids too."""
        return float(abs(np.linalg.det(self.matrix[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """Three letters for x, y, z naming the direction in which each index grows, "RAS" when canonical."""
        axes, flips = self._world_axes()
        return "".join(_LETTERS[world][not flip] for world, flip in zip(axes, flips, strict=True))

    def _world_axes(self) -> tuple[Triple, Flips]:
        """For voxel axes x, y, z: the world axis each is closest to, and whether it runs against it.

        The assignment is the one with the largest sum of |cosines| among all six, so that no two voxel axes share a
        world axis even on strongly oblique grids.
        """
        cosines = self.matrix[:3, :3] / np.linalg.norm(self.matrix[:3, :3], axis=0)
        best = max(_permutations(), key=lambda p: sum(abs(cosines[p[i], i]) for i in range(3)))
        flips = (bool(cosines[best[0], 0] < 0), bool(cosines[best[1], 1] < 0), bool(cosines[best[2], 2] < 0))
        return best, flips

    def to_canonical(self) -> tuple[Triple, Flips]:
        """(axes, flips) that bring a stored (z, y, x) array to canonical (S, A, R): transpose(axes), then flip.

        `axes[i]` is the stored axis that becomes axis i; `flips[i]` tells whether axis i of the result is reversed.
        """
        world, against = self._world_axes()
        stored = {world[voxel]: 2 - voxel for voxel in range(3)}
        flip = {world[voxel]: against[voxel] for voxel in range(3)}
        return (stored[2], stored[1], stored[0]), (flip[2], flip[1], flip[0])

    def turned(self, axes: Triple, flips: Flips) -> Geometry:
        """The geometry of `turn(array, axes, flips)`; its header is dropped, as the stored fields no longer hold."""
        matrix = self.matrix
        columns, origin = [], matrix[:3, 3].copy()
        for axis, flip in zip(axes, flips, strict=True):
            column = matrix[:3, 2 - axis].copy()
            if flip:
                origin += column * (self.shape[axis] - 1)
                column = -column
            columns.append(column)
        turned = np.column_stack([columns[2], columns[1], columns[0], origin])
        return Geometry.from_affine((self.shape[axes[0]], self.shape[axes[1]], self.shape[axes[2]]), turned)

    def corner_distance_voxels(self, other: Geometry) -> float:
        """Largest distance between the same corner voxels of two grids of one shape, in voxels of this one's finest axis."""
        corners = np.array([(x, y, z, 1) for z, y, x in product(*((0, n - 1) for n in self.shape))], dtype=np.float64)
        gap = np.linalg.norm(corners @ (self.matrix - other.matrix).T, axis=1)
        return float(gap.max() / min(self.spacing_mm))

    def same_grid(self, other: Geometry, tolerance_voxels: float = 0.1) -> bool:
        """Whether both grids have one shape and their corners lie within `tolerance_voxels` of each other."""
        return self.shape == other.shape and self.corner_distance_voxels(other) <= tolerance_voxels

    def turn_to(self, other: Geometry, tolerance_voxels: float = 0.1) -> tuple[Triple, Flips] | None:
        """(axes, flips) that bring an array on this grid onto `other`, where both have the same voxels in another order; else None."""
        turns = product(_permutations(), product((False, True), (False, True), (False, True)))
        return next((turn for turn in turns if self.turned(*turn).same_grid(other, tolerance_voxels)), None)

    def obliquity_degrees(self) -> float:
        """Largest angle between a voxel axis and the world axis it is assigned to, in degrees."""
        cosines = self.matrix[:3, :3] / np.linalg.norm(self.matrix[:3, :3], axis=0)
        world, _ = self._world_axes()
        return max(math.degrees(math.acos(min(1.0, abs(float(cosines[w, i]))))) for i, w in enumerate(world))


def turn(array: np.ndarray, axes: Triple, flips: Flips) -> np.ndarray:
    """A view of an array (…, Z, Y, X) with its last three axes permuted by `axes` and then reversed where `flips` says."""
    lead = array.ndim - 3
    turned = array.transpose(*range(lead), *(lead + axis for axis in axes))
    return turned[_reversal(flips)]


def turn_back(array: np.ndarray, axes: Triple, flips: Flips) -> np.ndarray:
    """The inverse of `turn`: turn_back(turn(a, axes, flips), axes, flips) is a."""
    lead = array.ndim - 3
    unflipped = array[_reversal(flips)]
    inverse = [axes.index(i) for i in range(3)]
    return unflipped.transpose(*range(lead), *(lead + axis for axis in inverse))


def _reversal(flips: Flips) -> tuple[EllipsisType | slice, ...]:
    return (..., *(slice(None, None, -1 if flip else 1) for flip in flips))


def _permutations() -> Iterator[Triple]:
    yield from ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
