"""Which of a NIfTI header's statements about space to believe, and when they contradict each other too much.

A header may place its voxels three times: by the sform (any matrix), by the qform (rotation, pixdim, offset) and, as
ANALYZE did, by pixdim alone. Readers choose differently: of 10,000 headers with one fault, nibabel and SimpleITK put
left on opposite sides for 645. Here the sform counts if coded, else the qform, and a contradiction is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg3d.errors import GeometryError
from autoseg3d.geometry import Geometry
from autoseg3d.io.grids import SAME_GRID_VOXELS, SHEAR_REPAIRED, checked, is_sound, plausible, rotation_nearest, shear, straightened
from autoseg3d.io.nifti_header import Fields
from planners.contract import Triple

GeometryChoice = Literal["auto", "sform", "qform", "pixdim"]

# Spacing from the axes and from pixdim may differ by rounding and by edits of one part in a hundred.
SPACING_TOLERANCE = 0.01
# Three float32 steps below 1, as in nibabel: what is left of 1 for a after rounding b, c and d.
_QUATERNION_ROUNDING = 3 * 2.0**-23
_UNIT_IN_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {0: "unknown", 1: "metre", 2: "millimetre", 3: "micrometre"}
# Scanner, aligned, Talairach, MNI, other template; some readers pass over a form with another code.
_LAST_CODE = 5
# ANALYZE's habit, kept by FSL, SPM and nibabel: without any form x runs to the patient's left.
_ASSUMED_DIRECTIONS = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class _Forms:
    """Both forms in the header's own unit, None where not coded or not usable; `broken` names a coded, unusable one."""

    sform: np.ndarray | None
    qform: np.ndarray | None
    broken: str | None


def resolve(fields: Fields, choice: GeometryChoice, *, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of a NIfTI file under `choice`, with notes on what was assumed or overridden.

    Raises GeometryError: E_NO_ORIENT, E_GEOMETRY, E_QS_MIRROR, E_QS_MISMATCH, E_SPACING, E_UNIT, E_SHEAR.
    """
    x, y, z = (*fields.shape, 1)[:3]
    shape = (z, y, x)
    forms = _forms(fields, path)
    _refuse_mirror(forms, path)
    if choice == "auto":
        matrix, notes = _auto(forms, fields, shape, path)
    else:
        matrix, notes = _chosen(forms, fields, choice, path)
        notes = notes if _overrides(matrix, forms, fields, shape, path) else ()
    matrix, unit_notes = _in_millimetres(matrix, shape, fields.xyzt_units & 7, path)
    if unknown := [code for code in (fields.qform_code, fields.sform_code) if code > _LAST_CODE]:
        unit_notes += (f"a form is coded {unknown[0]}, which NIfTI does not know; it was taken as any other",)
    header, cleaned = fields.spatial()
    if cleaned:
        unit_notes += ("unused header fields that were not finite are written as 0",)
    geometry, grid_notes = checked(shape, matrix, path=path, header=header)
    return geometry, (*notes, *unit_notes, *grid_notes)


def _forms(fields: Fields, path: Path) -> _Forms:
    sform = np.array([*fields.srow, (0.0, 0.0, 0.0, 1.0)]) if fields.sform_code > 0 else None
    qform = quaternion_matrix(fields) if fields.qform_code > 0 else None
    broken = []
    if sform is not None and not is_sound(sform):
        sform, broken = None, ["sform"]
    if fields.qform_code > 0 and (qform is None or not is_sound(qform)):
        qform, broken = None, [*broken, "qform"]
    if fields.sform_code < 0 or fields.qform_code < 0:
        codes = f"{fields.qform_code}, {fields.sform_code}"
        raise GeometryError(
            "form codes cannot be negative", file=path, field="qform_code, sform_code", got=codes, remedy="Export the scan again"
        )
    return _Forms(sform, qform, " and ".join(broken) or None)


def quaternion_matrix(fields: Fields) -> np.ndarray | None:
    """The qform's 4×4 matrix by nifti1.h's method 2; None where its numbers are no rotation or no positive spacing."""
    rest = 1.0 - sum(v * v for v in fields.quatern_bcd)
    if not rest > -1e-5:  # not a number fails this too
        return None
    return _rotated(fields, math.sqrt(rest) if rest > _QUATERNION_ROUNDING else 0.0)


def _rotated(fields: Fields, a: float) -> np.ndarray | None:
    b, c, d = fields.quatern_bcd
    qfac, dx, dy, dz = fields.pixdim[:4]
    if not all(map(math.isfinite, (b, c, d, dx, dy, dz, *fields.qoffset_xyz))) or min(dx, dy, dz) <= 0 or qfac not in (-1.0, 0.0, 1.0):
        return None
    a, b, c, d = (v / math.sqrt(a * a + b * b + c * c + d * d) for v in (a, b, c, d))
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ]
    matrix[:3, :3] *= (dx, dy, dz if qfac >= 0 else -dz)
    matrix[:3, 3] = fields.qoffset_xyz
    return matrix


def _roundings(fields: Fields, qform: np.ndarray) -> list[np.ndarray]:
    """The qform, and what else its float32 quaternion may have meant.

    Near a half turn the first component, which is not stored, is the root of a small difference: rounding of the
    stored three moves a corner by up to half a voxel, and that is no contradiction.
    """
    rest = 1.0 - sum(v * v for v in fields.quatern_bcd)
    shifts = (-1.0, -0.5, 0.0, 0.5, 1.0) if rest < 1e-3 else ()
    others = (_rotated(fields, math.sqrt(max(0.0, rest + shift * _QUATERNION_ROUNDING))) for shift in shifts)
    return [qform, *(matrix for matrix in others if matrix is not None)]


def _refuse_mirror(forms: _Forms, path: Path) -> None:
    """Handedness differs, or the patient's right lies on opposite sides: nobody may choose between these in a batch."""
    if forms.sform is None or forms.qform is None:
        return
    handed = np.linalg.det(forms.sform[:3, :3]) * np.linalg.det(forms.qform[:3, :3])
    rightward = [row / np.linalg.norm(row) for row in (_directions(forms.sform)[0], _directions(forms.qform)[0])]
    if handed < 0 or float(rightward[0] @ rightward[1]) < 0:
        raise GeometryError(
            "the sform and the qform are mirror images: left and right are not known",
            file=path,
            code="E_QS_MIRROR",
            remedy="Find out from the source which is right and correct the header; no option overrides this",
        )


def _directions(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))


def _auto(forms: _Forms, fields: Fields, shape: Triple, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    matrix = forms.sform if forms.sform is not None else forms.qform
    if matrix is None:
        raise _no_orientation(forms, path)
    notes: tuple[str, ...] = ()
    if forms.broken:
        notes = (_accept_broken(forms, fields, path),)
    if forms.sform is not None and forms.qform is not None:
        notes += _agreement(forms.sform, _roundings(fields, forms.qform), shape, path)
    return matrix, notes + _spacing_agreement(matrix, fields, path)


def _no_orientation(forms: _Forms, path: Path) -> GeometryError:
    if forms.broken:
        what = f"the {forms.broken} of the header cannot be used: not finite, no rotation or without length"
        return GeometryError(what, file=path, remedy="Export the scan again")
    return GeometryError(
        "the header does not say how the patient lies",
        file=path,
        field="qform_code, sform_code",
        code="E_NO_ORIENT",
        wanted="at least one above 0",
        got="0 and 0",
        remedy="Export the scan again, or use --geometry pixdim to assume that x runs to the patient's left, and check the sides",
    )


def _accept_broken(forms: _Forms, fields: Fields, path: Path) -> str:
    """One coded form is unusable: the other counts if both were coded alike, else they mean different spaces."""
    good = "sform" if forms.sform is not None else "qform"
    if fields.qform_code != fields.sform_code:
        raise GeometryError(
            f"the {forms.broken} of the header cannot be used, and the {good} is coded differently",
            file=path,
            got=f"qform_code {fields.qform_code}, sform_code {fields.sform_code}",
            remedy=f"Export the scan again, or use --geometry {good}",
        )
    return f"the {forms.broken} cannot be used; the {good} was taken"


def _agreement(sform: np.ndarray, qforms: list[np.ndarray], shape: Triple, path: Path) -> tuple[str, ...]:
    gap = min(_gap(sform, qform, shape) for qform in qforms)
    if gap <= SAME_GRID_VOXELS:
        return ()
    right_angled = (rotation_nearest(sform), straightened(sform)) if shear(sform) > SHEAR_REPAIRED else ()
    if any(_gap(matrix, qform, shape) <= SAME_GRID_VOXELS for matrix in right_angled for qform in qforms):
        return ("the qform cannot state the shear of the sform; the sform was taken",)
    raise GeometryError(
        "the sform and the qform place the scan differently",
        file=path,
        code="E_QS_MISMATCH",
        wanted=f"corners within {SAME_GRID_VOXELS} voxel",
        got=f"{gap:.3g} voxels apart",
        remedy="Find out which is right and use --geometry sform or --geometry qform",
    )


def _gap(one: np.ndarray, other: np.ndarray, shape: Triple) -> float:
    with np.errstate(over="ignore"):
        return Geometry.from_affine(shape, one).corner_distance_voxels(Geometry.from_affine(shape, other))


def _spacing_agreement(matrix: np.ndarray, fields: Fields, path: Path) -> tuple[str, ...]:
    stored, axes = np.array(fields.pixdim[1:4]), np.linalg.norm(matrix[:3, :3], axis=0)
    dims = np.array((*fields.shape, 1)[:3])
    used = dims > 1  # a single slice has no distance to a next one
    if np.isfinite(stored).all() and (np.abs(np.abs(stored) - axes)[used] <= SPACING_TOLERANCE * axes[used]).all():
        return ("negative spacing in pixdim was ignored",) if (stored < 0).any() else ()
    raise GeometryError(
        "pixdim and the axes of the scan state different spacings",
        file=path,
        code="E_SPACING",
        wanted=f"the same to {SPACING_TOLERANCE:.0%}",
        got=f"pixdim {_numbers(stored)}, axes {_numbers(axes)}",
        remedy="Find out which is right and use --geometry pixdim (spacing from pixdim) or --geometry sform (spacing from the axes)",
    )


def _chosen(forms: _Forms, fields: Fields, choice: GeometryChoice, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    if choice == "pixdim":
        return _by_pixdim(forms, fields, path)
    matrix = forms.sform if choice == "sform" else forms.qform
    if matrix is None:
        raise GeometryError(
            f"there is no usable {choice} in the header",
            file=path,
            code="E_NO_ORIENT",
            got=f"qform_code {fields.qform_code}, sform_code {fields.sform_code}",
            remedy="Use another --geometry",
        )
    return matrix, (f"geometry taken from the {choice} as asked",)


def _overrides(matrix: np.ndarray, forms: _Forms, fields: Fields, shape: Triple, path: Path) -> bool:
    """Whether a chosen matrix differs from what the file would have been read with unasked; only that is worth a note."""
    try:
        unasked, _ = _auto(forms, fields, shape, path)
    except GeometryError:
        return True
    return not is_sound(matrix) or _gap(unasked, matrix, shape) > SAME_GRID_VOXELS


def _by_pixdim(forms: _Forms, fields: Fields, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Directions and origin of the form that counts, spacing of pixdim: what ACDC's shipped headers mean."""
    spacing = np.array(fields.pixdim[1:4])
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise GeometryError("pixdim holds no spacing", file=path, field="pixdim", code="E_SPACING", wanted="above 0", got=_numbers(spacing))
    form = forms.sform if forms.sform is not None else forms.qform
    matrix = np.eye(4) if form is None else form.copy()
    directions = _ASSUMED_DIRECTIONS if form is None else _directions(matrix)
    matrix[:3, :3] = directions * spacing
    if form is None:
        return matrix, ("no orientation in the header: x is assumed to run to the patient's left, y to the front; check the sides",)
    return matrix, ("spacing taken from pixdim as asked",)


def _in_millimetres(matrix: np.ndarray, shape: Triple, unit: int, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The matrix in millimetres. Metres and micrometres are converted, and believed only if the result is plausible."""
    if unit == 2:
        return matrix, ()
    factor = _UNIT_IN_MM.get(unit, 1.0)
    scaled = matrix.copy()
    scaled[:3] *= factor
    name = _UNIT_NAMES.get(unit, f"invalid ({unit})")
    if problem := plausible(scaled, shape):
        raise GeometryError(
            f"the header's unit of length is {name}, which makes {problem}",
            file=path,
            field="xyzt_units",
            code="E_UNIT",
            wanted="millimetre (2)",
            got=unit,
            remedy="Correct xyzt_units in the header, most likely to 2 (millimetre)",
        )
    if factor != 1.0:
        return scaled, (f"lengths were converted from {name} to millimetre",)
    return scaled, () if unit == 0 else (f"the unit of length is {name}; millimetre was assumed",)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{v:.6g}" for v in values)
