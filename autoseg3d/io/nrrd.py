"""Reading NRRD: .nrrd with its voxels attached, .nhdr with a detached file. Source: https://teem.sourceforge.net/nrrd."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.io.grids import checked, positive
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.payload import Compression, Payload, beside, open_payload
from autoseg3d.io.text_voxels import Spelling, open_text
from autoseg3d.io.voxels import Layout

_LONGEST_HEADER = 1 << 16
_TYPE_NAMES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: dtype for dtype, names in _TYPE_NAMES.items() for name in names.split(",")}
_COMPRESSIONS: dict[str, Compression] = {"raw": "none", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
_SPELLINGS: dict[str, Spelling] = {"ascii": "numbers", "text": "numbers", "txt": "numbers", "hex": "hex"}
_OTHER_NAMES = {
    "datafile": "data file",
    "byteskip": "byte skip",
    "lineskip": "line skip",
    "blocksize": "block size",
    "oldmin": "old min",
    "oldmax": "old max",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "sampleunits": "sample units",
    "centers": "centerings",
}
_FIELDS = {
    *("space", "space dimension", "space units", "space origin", "space directions", "measurement frame", "dimension", "type", "encoding"),
    *("endian", "content", "min", "max", "number", "sizes", "spacings", "thicknesses", "labels", "units", "kinds", *_OTHER_NAMES.values()),
}
_ABBREVIATIONS = {"ras": "right-anterior-superior", "las": "left-anterior-superior", "lps": "left-posterior-superior"}
_TOWARDS_RAS = ({"right": 1.0, "left": -1.0}, {"anterior": 1.0, "posterior": -1.0}, {"superior": 1.0, "inferior": -1.0})


@dataclass(frozen=True)
class _Header:
    fields: dict[str, str]
    length: int
    path: Path

    def get(self, name: str) -> str:
        if name not in self.fields:
            raise _bad(self.path, name, "is missing", None)
        return self.fields[name]

    def integers(self, name: str) -> list[int]:
        try:
            return [int(word) for word in self.get(name).split()]
        except ValueError as error:
            raise _bad(self.path, name, "is not a list of integers", self.fields[name]) from error


def _bad(path: Path, field: str, problem: str, got: object) -> ReadError:
    return ReadError(
        f"the NRRD field '{field}' {problem}", file=path, field=field, code="E_HEADER", got=got, remedy="Export the scan again"
    )


def looks_like_nrrd(head: bytes) -> bool:
    """Whether `head` begins with NRRD's magic."""
    return head.startswith(b"NRRD000")


def voxel_file(path: Path) -> Path:
    """The file that holds the voxels of the header in `path`: itself, or the one it names."""
    return _place(_header(path))[0]


@contextlib.contextmanager
def open_nrrd(path: Path, *, geometry: GeometryChoice = "auto") -> Iterator[tuple[Payload, Layout]]:
    """The layout of an NRRD file and its verified bytes, standing before the first voxel."""
    header = _header(path)
    layout = _layout(header, geometry)
    data, start = _place(header)
    encoding = header.get("encoding").lower()
    if encoding not in (*_COMPRESSIONS, *_SPELLINGS):
        raise _bad(path, "encoding", f"must be one of {', '.join((*_COMPRESSIONS, *_SPELLINGS))}", encoding)
    skip = _byte_skip(header, data, start, layout.num_bytes, raw=encoding == "raw")
    if encoding in _SPELLINGS:
        if skip:
            raise _bad(path, "byte skip", f"does not go with encoding {encoding}", skip)
        with open_text(data, layout, start=start, spelling=_SPELLINGS[encoding]) as payload:
            yield payload, layout
        return
    with open_payload(data, start=start, compression=_COMPRESSIONS[encoding]) as payload:
        payload.skip_to(skip)
        yield payload, layout


def _header(path: Path) -> _Header:
    with open(path, "rb") as file:
        head = file.read(_LONGEST_HEADER)
    ends = [m.end() for m in re.finditer(rb"\r?\n\r?\n", head)]
    length = ends[0] if ends else len(head)
    fields: dict[str, str] = {}
    for line in head[:length].decode("latin-1").splitlines()[1:]:
        if ": " in line and not line.startswith("#") and ":=" not in line.split(": ")[0]:
            name, value = line.split(": ", 1)
            name = _OTHER_NAMES.get(name.lower().replace(" ", ""), name.lower())
            if name not in _FIELDS:  # a misspelt one would be missed in silence
                raise _bad(path, ascii(name[:40]), "is not known", value.strip()[:40])
            if name in fields:
                raise _bad(path, name, "stands twice", value)
            fields[name] = value.strip()
    return _Header(fields, length, path)


def _place(header: _Header) -> tuple[Path, int]:
    """The file that holds the voxels, and where in it they begin."""
    name = header.fields.get("data file")
    if header.fields.get("line skip", "0") not in ("", "0"):
        raise _bad(header.path, "line skip", "is not supported", header.fields["line skip"])
    if name is None:
        return header.path, header.length
    if name.upper().startswith("LIST") or "%" in name or "\0" in name:
        raise _bad(header.path, "data file", "must name one file", name)
    return beside(header.path, name), 0


def _byte_skip(header: _Header, data: Path, start: int, num_bytes: int, *, raw: bool) -> int:
    skip = header.integers("byte skip")[0] if "byte skip" in header.fields else 0
    if skip == -1 and raw and data.is_file():  # "the voxels are the last bytes of the file"
        return max(0, data.stat().st_size - start - num_bytes)
    if skip < 0:
        raise _bad(header.path, "byte skip", "must not be negative", skip)
    return skip


def _layout(header: _Header, choice: GeometryChoice) -> Layout:
    path = header.path
    dtype = _dtype(header)
    sizes = header.integers("sizes")
    if header.integers("dimension") != [len(sizes)] or any(n < 1 for n in sizes):
        raise GeometryError("the header's sizes are impossible", file=path, field="sizes", code="E_DIM", got=header.get("sizes"))
    directions = _directions(header, len(sizes), choice)
    spatial = [axis for axis, direction in enumerate(directions) if direction is not None]
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    if len(spatial) != 3 or len(others) > 1 or (others and others[0] not in (0, 3)):
        raise GeometryError("not a volume", file=path, code="E_DIM", wanted="three spatial axes", got=f"sizes {header.get('sizes')}")
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack([d for d in directions if d is not None])
    matrix[:3, 3] = _vector(header, "space origin", header.fields.get("space origin", "(0,0,0)"))
    matrix[:3] *= np.array(_signs(header, choice))[:, None]
    x, y, z = (sizes[axis] for axis in spatial)
    grid, notes = checked((z, y, x), matrix, path=path)
    if "space origin" not in header.fields:
        notes += ("no origin in the header: the first voxel is taken to lie at 0 0 0",)
    if "space" not in header.fields:
        notes += ("no orientation in the header: x is assumed to run to the patient's left, y to the back; check the sides",)
    channels = sizes[others[0]] if others else 1
    return Layout(geometry=grid, dtype=dtype, channels=channels, interleaved=others == [0], notes=notes)


def _dtype(header: _Header) -> np.dtype:
    kind = _DTYPES.get(header.get("type").lower())
    if kind is None:
        raise ReadError(
            "voxel type not supported", file=header.path, field="type", code="E_DTYPE", wanted="a number type", got=header.get("type")
        )
    unordered = kind[1] == "1" or _SPELLINGS.get(header.get("encoding").lower()) == "numbers"
    order = {"little": "<", "big": ">"}.get(header.fields.get("endian", "little" if unordered else "").lower())
    if order is None:
        raise _bad(header.path, "endian", "must be little or big", header.fields.get("endian"))
    return np.dtype(order + kind)


def _directions(header: _Header, count: int, choice: GeometryChoice) -> list[np.ndarray | None]:
    """One direction times spacing per axis in the header's space, None for an axis that is not spatial."""
    if "space directions" not in header.fields:
        if choice != "pixdim" or "spacings" not in header.fields or count != 3:
            raise _no_orientation(header.path)
        spacings = _vector(header, "spacings", ",".join(header.get("spacings").split()))
        positive(spacings, path=header.path, field="spacings")
        return [row * spacing for row, spacing in zip(np.eye(3), spacings, strict=True)]
    words = re.findall(r"none|\([^)]*\)", header.get("space directions"))
    if len(words) != count:
        raise _bad(header.path, "space directions", f"needs {count} entries", header.get("space directions"))
    return [None if word == "none" else _vector(header, "space directions", word) for word in words]


def _vector(header: _Header, name: str, text: str) -> np.ndarray:
    try:
        vector = np.array([float(word) for word in text.strip().strip("()").split(",")])
    except ValueError as error:
        raise _bad(header.path, name, "is not a vector", text) from error
    if vector.shape != (3,):
        raise GeometryError("not a volume", file=header.path, field=name, code="E_DIM", wanted="vectors of three numbers", got=text)
    return vector


def _signs(header: _Header, choice: GeometryChoice) -> tuple[float, ...]:
    """+1 or -1 for each axis of the header's space, to RAS+. Millimetre is NRRD's unit unless it names another."""
    units = re.findall(r'"([^"]*)"', header.fields.get("space units", ""))
    if any(unit not in ("mm", "") for unit in units):
        raise GeometryError(
            "lengths must be in millimetres", file=header.path, field="space units", code="E_UNIT", wanted="mm", got=", ".join(units)
        )
    if "space" not in header.fields and choice == "pixdim":
        return (-1.0, -1.0, 1.0)
    space = header.fields.get("space", "").lower()
    words = _ABBREVIATIONS.get(space, space).split("-")
    signs = [table.get(word) for table, word in zip(_TOWARDS_RAS, words, strict=False)]
    if len(words) != 3 or None in signs:
        raise _no_orientation(header.path)
    return tuple(sign for sign in signs if sign is not None)


def _no_orientation(path: Path) -> GeometryError:
    return GeometryError(
        "the header does not say how the patient lies",
        file=path,
        field="space, space directions",
        code="E_NO_ORIENT",
        wanted="for instance space: left-posterior-superior",
        remedy="Export the scan again with its orientation",
    )
