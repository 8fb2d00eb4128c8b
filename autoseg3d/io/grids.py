"""Laws that every voxel grid must keep, whatever file it was read from: spacing, extent, shear, units."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoseg3d.errors import GeometryError
from autoseg3d.geometry import Geometry, NiftiHeader
from planners.contract import Triple

# From a fine micro-CT to a whole-body topogram; outside them the unit, not the patient, is unusual (faults, row 15).
SPACING_LIMITS_MM = (0.01, 100.0)
LARGEST_EXTENT_MM = 3000.0
# Tables travel metres at most; further out float32 headers lose a hundredth of a millimetre.
FURTHEST_MM = 100_000.0
# Cosine between two axes: below the first it is rounding, below the second it is repaired, above the third refused.
SHEAR_OF_ROUNDING = 1e-5
SHEAR_REPAIRED = 1e-3
SHEAR_REFUSED = 0.5
# A pair of grids whose corners lie further apart than this many voxels are two grids.
SAME_GRID_VOXELS = 0.1


def shear(matrix: np.ndarray) -> float:
    """Largest |cosine| between two axes of a 4×4 or 3×3 voxel-to-world matrix; 0 for a right-angled grid."""
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def rotation_nearest(matrix: np.ndarray) -> np.ndarray:
    """`matrix` with its axes replaced by the nearest right-angled ones (polar decomposition), spacing and origin kept."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / lengths)
    result = matrix.copy()
    result[:3, :3] = left @ right * lengths
    return result


def straightened(matrix: np.ndarray) -> np.ndarray:
    """`matrix` with the axis that is least square to the others replaced by their normal, plane distance kept.

    For the shear of a tilted CT gantry the planes stay where they are and only shift against each other.
    """
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    cosines = np.abs((matrix[:3, :3] / lengths).T @ (matrix[:3, :3] / lengths))
    leaning = min(range(3), key=lambda axis: cosines[(axis + 1) % 3, (axis + 2) % 3])
    first, second = matrix[:3, (leaning + 1) % 3], matrix[:3, (leaning + 2) % 3]
    normal = np.cross(first, second)
    normal /= np.linalg.norm(normal)
    result = matrix.copy()
    result[:3, leaning] = normal * (normal @ matrix[:3, leaning])
    return result


def is_sound(matrix: np.ndarray) -> bool:
    """Whether a matrix is finite and its axes have length and span space."""
    if not np.isfinite(matrix).all():
        return False
    with np.errstate(over="ignore", under="ignore"):
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(lengths).all() or (lengths <= 0).any():
        return False
    return bool(abs(np.linalg.det(matrix[:3, :3] / lengths)) >= 1e-3)


def plausible(matrix: np.ndarray, shape: Triple) -> str | None:
    """What is implausible about a grid of (z, y, x) `shape` in millimetres; None where nothing is."""
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    low, high = SPACING_LIMITS_MM
    if (spacing < low).any() or (spacing > high).any():
        return f"a spacing of {_triple(spacing)} mm"
    extent = spacing * np.array(shape[::-1])
    if (extent > LARGEST_EXTENT_MM).any():
        return f"an extent of {_triple(extent)} mm"
    if (np.abs(matrix[:3, 3]) > FURTHEST_MM).any():
        return f"a first voxel at {_triple(matrix[:3, 3])} mm"
    return None


def checked(shape: Triple, matrix: np.ndarray, *, path: Path, header: NiftiHeader | None = None) -> tuple[Geometry, tuple[str, ...]]:
    """The Geometry of a (z, y, x) `shape` and a RAS+ matrix in millimetres, with notes on repairs.

    Raises E_GEOMETRY, E_SPACING, E_SHEAR. A shear up to 1e-3 is taken out; a larger one, up to 30 degrees, stays in
    the geometry (`load_case` straightens such a case and carries its labels back).
    """
    if not is_sound(matrix):
        raise GeometryError(
            "the voxel grid is impossible: its axes are not finite, have no length or lie in one plane",
            file=path,
            got=np.array2string(matrix[:3], precision=4, separator=","),
            remedy="Export the scan again",
        )
    if problem := plausible(matrix, shape):
        raise GeometryError(
            "the voxel grid is implausible",
            file=path,
            code="E_SPACING",
            wanted=f"spacing {SPACING_LIMITS_MM[0]} to {SPACING_LIMITS_MM[1]:g} mm, at most {LARGEST_EXTENT_MM / 1000:g} m, "
            f"within {FURTHEST_MM / 1000:g} m of the origin",
            got=problem,
            remedy="Correct spacing or unit in the header",
        )
    lean = shear(matrix)
    notes: tuple[str, ...] = ()
    if lean > SHEAR_REFUSED:
        raise GeometryError(
            "the axes of the voxel grid lean too far",
            file=path,
            code="E_SHEAR",
            wanted=f"a cosine between axes of at most {SHEAR_REFUSED}",
            got=f"{lean:.3f}",
            remedy="Resample the scan onto a right-angled grid first",
        )
    if lean > SHEAR_REPAIRED:
        notes = (f"sheared voxel grid (cosine between axes {lean:.3f})",)
    elif lean > SHEAR_OF_ROUNDING:
        matrix, notes = rotation_nearest(matrix), (f"a shear of {lean:.1g} was taken out of the voxel grid",)
    return Geometry.from_affine(shape, matrix, header), notes


def positive(spacing: np.ndarray, *, path: Path, field: str) -> np.ndarray:
    """`spacing`, a distance along each axis. Raises E_GEOMETRY where one is not above 0: a sign there is no direction."""
    if not (spacing > 0).all():
        raise GeometryError(
            "distances between voxels must be above 0", file=path, field=field, got=_triple(spacing), remedy="Export the scan again"
        )
    return spacing


def from_lps(matrix: np.ndarray) -> np.ndarray:
    """A voxel-to-world matrix of ITK or DICOM (x to the left, y to the back) in RAS+."""
    result = matrix.copy()
    result[:2] *= -1.0
    return result


def _triple(values: np.ndarray) -> str:
    return " × ".join(f"{v:.4g}" for v in values)
