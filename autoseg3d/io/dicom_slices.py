"""The slices of DICOM images: what each header says, and whether together they make one regular volume.

The positions and orientations of the slices are believed, nothing else: not the file names, not the instance
numbers, not the stated distance between slices. Source: DICOM PS3.3, C.7.6.2 (image plane) and C.7.6.16 (multi-frame).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg3d.errors import DataError, GeometryError, ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.io.grids import SHEAR_REPAIRED, checked, from_lps

# A slice may lie this far, in parts of the distance between slices, from where a regular volume has it.
_POSITION_TOLERANCE = 0.1
_ORIENTATION_TOLERANCE = 1e-3
# And so far, in parts of a pixel, to a side; headers round positions to a tenth of a millimetre at worst.
_SIDEWAYS_TOLERANCE = 0.25
_ROWS_SHOWN = 60


@dataclass(frozen=True)
class Slice:
    """One plane: its file (and frame), its series, and its place in the patient (LPS, millimetres).

    cosines   direction of growing column index, then of growing row index: six numbers
    spacing   distance between columns, then between rows (the order of x and y, not of the DICOM attribute)
    size      columns, rows
    """

    file: Path
    frame: int
    series: str
    position: tuple[float, float, float]
    cosines: tuple[float, ...]
    spacing: tuple[float, float]
    size: tuple[int, int]

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.cosines[:3], self.cosines[3:])

    @property
    def depth(self) -> float:
        """Position along the slice's own normal, in millimetres."""
        return float(np.dot(self.normal, self.position))


def arrange(slices: Sequence[Slice], *, path: Path) -> tuple[list[Slice], Geometry, tuple[str, ...]]:
    """The slices in order along their normal, the volume's grid, and notes.

    Raises E_SERIES where the slices do not belong together, with a table of those that do; E_SLICES where some are missing,
    doubled or unevenly spaced, E_TILT where they are shifted against each other, with the table of slices.
    """
    _refuse_mixture(slices, path)
    if len(slices) < 2:
        raise _fault("a single slice is no volume", "E_SLICES", slices, path, "Give the folder that holds the whole series")
    ordered = sorted(slices, key=lambda s: s.depth)
    depths = np.array([s.depth for s in ordered])
    gaps = np.diff(depths)
    step = float(depths[-1] - depths[0]) / len(gaps)
    if (gaps < 0.01 * max(float(np.median(gaps)), 1e-3)).any():
        raise _fault(
            "several slices lie in the same place (phases, echoes or copies)", "E_SLICES", ordered, path, "Keep one phase per folder"
        )
    even = depths[0] + step * np.arange(len(ordered))
    if (np.abs(depths - even) > _POSITION_TOLERANCE * min(step, float(np.median(gaps)))).any():
        remedy = "Export the whole series again; a slice is missing or the spacing changes"
        raise _fault("the slices are not evenly spaced", "E_SLICES", ordered, path, remedy)
    shifts = np.array([s.position for s in ordered]) - np.outer(depths, ordered[0].normal)
    line = shifts[0] + np.outer(np.linspace(0, 1, len(ordered)), shifts[-1] - shifts[0])
    if (np.linalg.norm(shifts - line, axis=1) > _SIDEWAYS_TOLERANCE * min(ordered[0].spacing)).any():
        raise _fault("slices are shifted sideways against the others", "E_SLICES", ordered, path, "Export the whole series again")
    return ordered, *_grid(ordered, step, path)


def _grid(ordered: Sequence[Slice], step: float, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    first, last = ordered[0], ordered[-1]
    along = np.subtract(last.position, first.position)
    sideways = along - first.normal * (first.normal @ along)
    if np.linalg.norm(sideways) > SHEAR_REPAIRED * np.linalg.norm(along):
        remedy = "Convert it with a tool that corrects the tilt of the gantry, for instance dcm2niix"
        raise _fault("the slices are shifted against each other, as by a tilted gantry", "E_TILT", ordered, path, remedy)
    matrix = np.eye(4)
    matrix[:3, 0] = np.multiply(first.cosines[:3], first.spacing[0])
    matrix[:3, 1] = np.multiply(first.cosines[3:], first.spacing[1])
    matrix[:3, 2] = first.normal * step
    matrix[:3, 3] = first.position
    return checked((len(ordered), first.size[1], first.size[0]), from_lps(matrix), path=path)


_ALIKE: tuple[tuple[str, Callable[[Slice, Slice], bool]], ...] = (
    ("several series", lambda one, other: one.series == other.series),
    ("slices of different sizes", lambda one, other: one.size == other.size),
    ("slices of different orientations", lambda one, other: _near(one.cosines, other.cosines, _ORIENTATION_TOLERANCE)),
    ("slices of different pixel spacing", lambda one, other: _near(one.spacing, other.spacing, 1e-3 * min(other.spacing))),
)


def _refuse_mixture(slices: Sequence[Slice], path: Path) -> None:
    for what, alike in _ALIKE:
        if not all(alike(s, slices[0]) for s in slices):
            remedy = "Put each series, without its scout, into a folder of its own"
            words = f"the folder holds {what}\n{parts_table(slices)}\n"
            raise ReadError(words, file=path, code="E_SERIES", got=f"{len(slices)} slices", remedy=remedy)


def _near(one: Sequence[float], other: Sequence[float], tolerance: float) -> bool:
    return bool(np.abs(np.subtract(one, other)).max() <= tolerance)


def _fault(what: str, code: str, slices: Sequence[Slice], path: Path, remedy: str) -> DataError:
    kind = GeometryError if code == "E_TILT" else ReadError
    return kind(f"{what}\n{table(slices)}\n", file=path, code=code, got=f"{len(slices)} slices", remedy=remedy)


def parts_table(slices: Sequence[Slice]) -> str:
    """Which slices belong together, as lines of text: their number, depth, size, spacing, orientation, series, first file."""
    parts: list[list[Slice]] = []
    for s in slices:
        belongs = (part for part in parts if all(alike(s, part[0]) for _, alike in _ALIKE))
        if (part := next(belongs, None)) is None:
            parts.append([s])
        else:
            part.append(s)
    rows = [f"  {'slices':>6} {'depth mm':>20}  {'size':>9}  {'spacing mm':>13}  normal             series  first file"]
    names = {series: i for i, series in enumerate(dict.fromkeys(s.series for s in slices), start=1)}
    for part in parts[:_ROWS_SHOWN]:
        depths = [s.depth for s in part]
        between = f"{min(depths):.1f} to {max(depths):.1f}"
        rows.append(f"  {len(part):6} {between:>20}  {_looks(part[0])}  {names[part[0].series]:>6}  {part[0].file.name}")
    return "\n".join(rows + ([f"  … and {len(parts) - _ROWS_SHOWN} more"] if len(parts) > _ROWS_SHOWN else []))


def _looks(s: Slice) -> str:
    """Size, spacing and normal of a slice as columns of a table."""
    spacing, size = f"{s.spacing[0]:.4g} × {s.spacing[1]:.4g}", f"{s.size[0]}×{s.size[1]}"
    return f"{size:>9}  {spacing:>13}  " + " ".join(f"{v:5.2f}" for v in s.normal)


def table(slices: Sequence[Slice]) -> str:
    """The slices as lines of text: depth, gap to the one before, shift to a side, size, spacing, orientation, series, file."""
    rows = [f"  {'depth mm':>10} {'gap mm':>8} {'shift mm':>8}  {'size':>9}  {'spacing mm':>13}  normal             series  file"]
    names = {series: i for i, series in enumerate(dict.fromkeys(s.series for s in slices), start=1)}
    before = None
    for s in slices[:_ROWS_SHOWN]:
        gap = "" if before is None else f"{s.depth - before:.3f}"
        frame = f" frame {s.frame + 1}" if s.frame else ""
        away = np.subtract(s.position, slices[0].position)
        shift = np.linalg.norm(away - s.normal * float(s.normal @ away))
        rows.append(f"  {s.depth:10.3f} {gap:>8} {shift:8.2f}  {_looks(s)}  {names[s.series]:>6}  {s.file.name}{frame}")
        before = s.depth
    if len(slices) > _ROWS_SHOWN:
        rows.append(f"  … and {len(slices) - _ROWS_SHOWN} more")
    return "\n".join(rows)
