"""Surfels: the pieces of surface that marching cubes lays between voxel centres, and their areas.

Each cube of 2×2×2 voxel centres has a *code*: eight bits, one per centre, set where the centre lies in the mask. The
surface in the cube runs through the midpoints of the edges that join a set to an unset centre. Two choices are left
open by that, and they are settled here so that areas agree with those of the `surface-distance` library, on which
Metrics Reloaded and most published surface Dice values rest:

- on a face with both diagonals mixed, the centres of the rarer kind in the cube are cut off one by one;
- a polygon of more than three corners is cut into the triangles of largest total area on the unit cube.

Source: Lorensen and Cline, Marching Cubes, SIGGRAPH 1987; Nikolov et al., arXiv 1809.04430 (surfels weighted by area).
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product

import numpy as np

Corner = tuple[int, int, int]
Midpoint = frozenset[Corner]
"""The middle of the cube's edge between two corners."""

_CORNERS: tuple[Corner, ...] = tuple((z, y, x) for z, y, x in product((0, 1), repeat=3))
_MOST_TRIANGLES = 4


def codes(mask: np.ndarray) -> np.ndarray:
    """The code of every 2×2×2 neighbourhood of a boolean mask (Z, Y, X): uint8 (Z-1, Y-1, X-1).

    The first voxel (lowest z, y, x) is the highest bit, then x, y, z count on. Pad the mask by one voxel of False to
    have the surface at its faces too.
    """
    bits: np.ndarray = mask.view(np.uint8) if mask.dtype == bool else mask.astype(bool).view(np.uint8)
    bits = (bits[..., :-1] << 1) | bits[..., 1:]
    bits = (bits[:, :-1] << 2) | bits[:, 1:]
    bits = (bits[:-1] << 4) | bits[1:]
    return bits  # noqa: RET504 - the type would be lost


def area_table(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Area in mm² of the surface in a cube, by code: float64 (256,). `spacing_mm` in the mask's axis order (z, y, x)."""
    z, y, x = spacing_mm
    normals = _normals() * np.array([y * x, z * x, z * y])
    area: np.ndarray = np.linalg.norm(normals, axis=-1).sum(axis=-1)
    return area


@cache
def _normals() -> np.ndarray:
    """The normals (z, y, x) of each code's triangles on the unit cube, of length their area: (256, 4, 3), zero-filled.

    Complementary codes share one surface, so only those with at most four set bits are built. Areas scale with the
    products of two spacings, normal by normal, which is why normals are kept rather than areas.
    """
    table = np.zeros((256, _MOST_TRIANGLES, 3))
    for code in range(256):
        inside = {corner for i, corner in enumerate(_CORNERS) if code >> (7 - i) & 1}
        if len(inside) > 4:
            continue
        triangles = [t for polygon in _polygons(inside) for t in _largest_triangulation(polygon)]
        for i, triangle in enumerate(triangles):
            table[code, i] = table[255 - code, i] = _normal(*triangle)
    return table


def _polygons(inside: set[Corner]) -> list[list[Midpoint]]:
    """The closed polygons, as midpoints in order, that part the corners `inside` (at most four) from the others."""
    neighbours: dict[Midpoint, list[Midpoint]] = {}
    for axis, side in product(range(3), (0, 1)):
        for a, b in _cuts(_face(axis, side), inside):
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
    polygons = []
    while neighbours:
        polygon = [next(iter(neighbours))]
        while onward := [n for n in neighbours.pop(polygon[-1]) if n in neighbours]:
            polygon.append(onward[0])
        polygons.append(polygon)
    return polygons


def _face(axis: int, side: int) -> list[Corner]:
    """The four corners of one face of the cube, in order around it."""
    around = [(0, 0), (0, 1), (1, 1), (1, 0)]
    corners = [(*pair[:axis], side, *pair[axis:]) for pair in around]
    return [(z, y, x) for z, y, x in corners]


def _cuts(face: list[Corner], inside: set[Corner]) -> list[tuple[Midpoint, Midpoint]]:
    """The straight cuts across a face that part its corners `inside` from the others."""
    edges = [(face[i - 1], face[i]) for i in range(4)]
    crossed = [frozenset(edge) for edge in edges if (edge[0] in inside) != (edge[1] in inside)]
    if len(crossed) < 4:
        return [(crossed[0], crossed[1])] if crossed else []
    return [(frozenset((face[i - 1], face[i])), frozenset((face[i], face[(i + 1) % 4]))) for i in range(4) if face[i] in inside]


def _largest_triangulation(polygon: list[Midpoint]) -> list[tuple[Midpoint, Midpoint, Midpoint]]:
    """The cut of a polygon into triangles between its corners with the largest total area on the unit cube."""
    n = len(polygon)
    best: dict[tuple[int, int], tuple[float, list[tuple[Midpoint, Midpoint, Midpoint]]]] = {(i, i + 1): (0.0, []) for i in range(n - 1)}
    for first, last in sorted(combinations(range(n), 2), key=lambda pair: pair[1] - pair[0]):
        for middle in range(first + 1, last):
            triangle = (polygon[first], polygon[middle], polygon[last])
            left, right = best[first, middle], best[middle, last]
            total = float(np.linalg.norm(_normal(*triangle))) + left[0] + right[0]
            if (first, last) not in best or total > best[first, last][0] + 1e-9:
                best[first, last] = (total, [*left[1], triangle, *right[1]])
    return best[0, n - 1][1]


def _normal(a: Midpoint, b: Midpoint, c: Midpoint) -> np.ndarray:
    """The normal of a triangle, as long as its area."""
    p, q, r = (np.mean(list(point), axis=0) for point in (a, b, c))
    normal: np.ndarray = np.cross(q - p, r - p) / 2
    return normal
