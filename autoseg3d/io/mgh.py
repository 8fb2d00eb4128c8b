"""Reading FreeSurfer's MGH and MGZ. Source: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.io.grids import checked, positive
from autoseg3d.io.payload import Payload, open_payload
from autoseg3d.io.voxels import Layout

_HEADER = struct.Struct(">7ih15f")  # version, sizes x y z frames, type, dof; good-RAS flag; spacing, directions, centre
_FIRST_VOXEL = 284
_DTYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def looks_like_mgh(head: bytes) -> bool:
    """Whether `head` (decompressed) begins like an MGH file: version 1, four sizes, a known type, all big-endian."""
    if len(head) < _HEADER.size:
        return False
    version, *sizes, kind, _ = struct.unpack_from(">7i", head)
    return version == 1 and kind in _DTYPES and all(0 < n < 2**16 for n in sizes)


@contextlib.contextmanager
def open_mgh(path: Path) -> Iterator[tuple[Payload, Layout]]:
    """The layout of an MGH or MGZ file and its verified bytes, standing before the first voxel."""
    with open_payload(path) as payload:
        head = payload.read(_FIRST_VOXEL)
        if len(head) < _FIRST_VOXEL or not looks_like_mgh(head):
            raise ReadError("not an MGH file", file=path, code="E_HEADER", remedy="Export the scan again")
        yield payload, _layout(head, path)


def _layout(head: bytes, path: Path) -> Layout:
    _, x, y, z, frames, kind, _, good_ras, *numbers = _HEADER.unpack_from(head)
    if good_ras <= 0:
        raise GeometryError(
            "the header does not say how the patient lies", file=path, field="goodRASFlag", code="E_NO_ORIENT", got=good_ras
        )
    spacing = positive(np.array(numbers[:3]), path=path, field="spacing")
    directions, centre = np.array(numbers[3:12]).reshape(3, 3).T, np.array(numbers[12:])
    matrix = np.eye(4)
    with np.errstate(invalid="ignore", over="ignore"):
        matrix[:3, :3] = directions * spacing
        matrix[:3, 3] = centre - matrix[:3, :3] @ (np.array([x, y, z]) / 2)
    geometry, notes = checked((z, y, x), matrix, path=path)
    return Layout(geometry=geometry, dtype=np.dtype(_DTYPES[kind]), channels=frames, footer=True, notes=notes)
