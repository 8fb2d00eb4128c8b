"""Signed distances to simple bodies, and how they join: the clay that the phantom is made of.

A shape is a function of points (3, Z, Y, X) in mm, x to the right, y to the front, z upwards; it gives the distance to
its surface in mm, below 0 inside (near the surface true to a few percent, which is all that is needed). The smooth
joins are those of I. Quilez' articles on distance functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Points = np.ndarray
Vector = Sequence[float] | np.ndarray
Distance = np.ndarray


def ellipsoid(points: Points, centre: Vector, radii: Vector) -> Distance:
    """An ellipsoid with half-axes `radii` in mm along x, y, z; an infinite radius makes it a cylinder."""
    offset = [points[i] - centre[i] for i in range(3)]
    once = np.sqrt(sum((d / r) ** 2 for d, r in zip(offset, radii, strict=True)))
    twice = np.sqrt(sum((d / r**2) ** 2 for d, r in zip(offset, radii, strict=True)))
    return np.where(once < 1e-6, -float(np.min(radii)), once * (once - 1) / np.maximum(twice, 1e-9))


def turned(points: Points, centre: Vector, degrees: Vector) -> Points:
    """The points as seen from a body that is rotated about `centre` by `degrees` about x, then y, then z."""
    matrix = rotation(degrees)
    middle = np.asarray(centre, dtype=np.float64).reshape(3, 1, 1, 1)
    seen: Points = np.einsum("ji,j...->i...", matrix, points - middle) + middle
    return seen


def rotation(degrees: Vector) -> np.ndarray:
    """The 3×3 rotation by `degrees` about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[one, one] = step[other, other] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def join(a: Distance, b: Distance, rounding: float = 0.0) -> Distance:
    """The union of two shapes, its seam rounded over `rounding` mm."""
    joined: Distance = np.minimum(a, b)
    if rounding > 0:
        joined = joined - np.maximum(rounding - np.abs(a - b), 0) ** 2 / (4 * rounding)
    return joined


def meet(a: Distance, b: Distance, rounding: float = 0.0) -> Distance:
    """What two shapes share, its edge rounded over `rounding` mm."""
    return -join(-a, -b, rounding)


def cut(a: Distance, b: Distance, rounding: float = 0.0) -> Distance:
    """Shape `a` without shape `b`, its edge rounded over `rounding` mm."""
    return meet(a, -b, rounding)


def cover(distance: Distance, blur_mm: float) -> np.ndarray:
    """How much of a voxel a shape fills, from 0 to 1: a ramp `blur_mm` wide across the surface (partial volume)."""
    return np.clip(0.5 - distance / blur_mm, 0, 1)
