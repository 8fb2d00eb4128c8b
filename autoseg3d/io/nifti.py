"""Reading NIfTI-1 and NIfTI-2: .nii, .nii.gz and .hdr/.img pairs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.io.nifti_forms import GeometryChoice, resolve
from autoseg3d.io.nifti_header import HEADER_BYTES, Fields, parse, states_version_2
from autoseg3d.io.payload import Payload, open_payload
from autoseg3d.io.voxels import Layout


@contextlib.contextmanager
def open_nifti(path: Path, *, geometry: GeometryChoice = "auto") -> Iterator[tuple[Payload, Layout]]:
    """The layout of a NIfTI file and its verified bytes, standing before the first voxel. `path` is the header's."""
    with open_payload(path) as payload:
        head = payload.read(HEADER_BYTES[1])
        if states_version_2(head):
            head += payload.read(HEADER_BYTES[2] - HEADER_BYTES[1])
        fields = parse(head, path)
        if fields.single_file:
            payload.refuse_if_too_short(fields.vox_offset - payload.position + math.prod(fields.shape) * fields.dtype.itemsize)
        layout = _layout(fields, geometry, path, notes=_compression_note(payload))
        if fields.single_file:
            payload.skip_to(fields.vox_offset)
            yield payload, layout
            return
    with open_payload(image_file(path)) as voxels:
        voxels.skip_to(fields.vox_offset)
        yield voxels, layout


def _layout(fields: Fields, choice: GeometryChoice, path: Path, *, notes: tuple[str, ...]) -> Layout:
    extra = fields.shape[3:]
    channels = extra[0] if extra else 1
    if any(n > 1 for n in extra[1:]):
        raise GeometryError(
            f"the file has {len(fields.shape)} dimensions",
            file=path,
            field="dim",
            code="E_DIM",
            wanted="one volume",
            got=" × ".join(map(str, fields.shape)),
            remedy="Split it into single volumes",
        )
    grid, grid_notes = resolve(fields, choice, path=path)
    notes += grid_notes
    if len(fields.shape) == 2:
        notes += ("a single slice",)
    if not fields.offset_stated:
        notes += ("the header does not say where the voxels begin; by the length of the file they follow it at once",)
    return Layout(
        geometry=grid,
        dtype=fields.dtype,
        channels=channels,
        slope=fields.slope,
        intercept=fields.intercept,
        last=not fields.offset_stated,
        notes=notes,
    )


def header_file(path: Path) -> Path:
    """The .hdr of an .img; any other path as it is. Raises E_MISSING where the .img stands alone."""
    name = path.name.lower()
    if not name.endswith((".img", ".img.gz")):
        return path
    return _partner(path, name.removesuffix(".gz").removesuffix(".img"), (".hdr", ".hdr.gz"))


def image_file(path: Path) -> Path:
    """The .img that belongs to a .hdr. Raises E_MISSING where there is none."""
    return _partner(path, path.name.lower().removesuffix(".gz").removesuffix(".hdr"), (".img", ".img.gz"))


def _partner(path: Path, stem: str, endings: tuple[str, ...]) -> Path:
    wanted = [stem + ending for ending in endings]
    for found in sorted(path.parent.iterdir()):
        if found.name.lower() in wanted:
            return found
    raise ReadError(
        "one file of a .hdr/.img pair is missing", file=path, code="E_MISSING", wanted=" or ".join(wanted), remedy="Copy both files"
    )


def _compression_note(payload: Payload) -> tuple[str, ...]:
    """A note where a file's ending and its bytes disagree about gzip; the bytes are believed."""
    compressed = payload.compression == "gzip"
    if compressed == payload.path.name.lower().endswith(".gz"):
        return ()
    return ("gzip-compressed, against its name",) if compressed else ("not gzip-compressed, against its name",)
