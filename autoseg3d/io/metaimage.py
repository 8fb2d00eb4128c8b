"""Reading MetaImage: .mha, and .mhd with its voxel file. Source: https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.io.grids import checked, from_lps, positive
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.payload import GZIP_MAGIC, Compression, Payload, beside, open_payload, truncated
from autoseg3d.io.text_voxels import open_text
from autoseg3d.io.voxels import Layout

_LONGEST_HEADER = 1 << 16
_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# MetaIO took several names for one thing over the years.
_SYNONYMS = {
    "Position": "Offset",
    "Origin": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
    "ElementSize": "ElementSize",
}


@dataclass(frozen=True)
class _Header:
    fields: dict[str, str]
    length: int
    path: Path

    def numbers(self, name: str, count: int) -> np.ndarray:
        text = self.fields.get(name, "")
        try:
            values = np.array([float(word) for word in text.split()])
        except ValueError as error:
            raise _bad(self.path, name, f"needs {count} numbers", text) from error
        if values.shape != (count,):
            raise _bad(self.path, name, f"needs {count} numbers", text)
        return values

    def integers(self, name: str, count: int) -> list[int]:
        values = self.numbers(name, count)
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise _bad(self.path, name, f"needs {count} whole numbers", self.fields[name])
        return [int(value) for value in values]

    def flag(self, name: str) -> bool:
        return self.fields.get(name, "False").lower() in ("true", "1")


def _bad(path: Path, field: str, problem: str, got: object) -> ReadError:
    return ReadError(
        f"the MetaImage field '{field}' {problem}", file=path, field=field, code="E_HEADER", got=got, remedy="Export the scan again"
    )


def looks_like_metaimage(head: bytes) -> bool:
    """Whether `head` begins with a MetaImage header."""
    return head.lstrip().startswith((b"ObjectType = Image", b"ObjectType=Image", b"NDims = ")) and b"DimSize" in head


def voxel_file(path: Path) -> Path:
    """The file that holds the voxels of the header in `path`: itself, or the one it names."""
    return _place(_header(path))[0]


@contextlib.contextmanager
def open_metaimage(path: Path, *, geometry: GeometryChoice = "auto") -> Iterator[tuple[Payload, Layout]]:
    """The layout of a MetaImage file and its verified bytes, standing before the first voxel."""
    header = _header(path)
    layout = _layout(header, geometry)
    data, start = _place(header)
    if _is_text(header):
        with open_text(data, layout, start=start, spelling="numbers") as payload:
            yield payload, layout
        return
    with open_payload(data, start=start, compression=_compression(header, data, start)) as payload:
        payload.skip_to(_skip(header, payload, layout.num_bytes))
        yield payload, replace(layout, notes=layout.notes + _size_notes(header, data.stat().st_size - start))


def _is_text(header: _Header) -> bool:
    if header.fields.get("BinaryData", "True").lower() not in ("false", "0"):
        return False
    for field in ("CompressedData", "HeaderSize"):
        if header.fields.get(field, "0").lower() not in ("false", "0"):
            raise _bad(header.path, field, "does not go with voxels as text", header.fields[field])
    return True


def _header(path: Path) -> _Header:
    with open(path, "rb") as file:
        head = file.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        end = head.find(b"\n", position)
        name, equals, value = head[position : end if end >= 0 else len(head)].decode("latin-1").partition("=")
        if end < 0 or not equals:
            raise _bad(path, name.strip()[:30], "ends the header before ElementDataFile", None)
        name = _SYNONYMS.get(name.strip(), name.strip())
        if name in fields:
            raise _bad(path, name, "stands twice", value.strip())
        fields[name] = value.strip()
        position = end + 1
    return _Header(fields, position, path)


def _place(header: _Header) -> tuple[Path, int]:
    name = header.fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return header.path, header.length
    if name.upper().startswith("LIST") or "%" in name or "\0" in name:
        raise _bad(header.path, "ElementDataFile", "must name one file", name)
    return beside(header.path, name), 0


def _compression(header: _Header, data: Path, start: int) -> Compression:
    if not header.flag("CompressedData"):
        return "none"
    with open(data, "rb") as file:
        file.seek(start)
        return "gzip" if file.read(2) == GZIP_MAGIC else "zlib"


def _size_notes(header: _Header, there: int) -> tuple[str, ...]:
    """What to say of a stated size of the compressed voxels, which some readers believe: where it is wrong, they return noise."""
    if "CompressedDataSize" not in header.fields or not header.flag("CompressedData"):
        return ()
    stated = header.integers("CompressedDataSize", 1)[0]
    if stated > there:
        raise truncated(header.path, wanted=stated, got=there)
    return () if stated == there else (f"CompressedDataSize says {stated}, {there} bytes follow the header: all of them were read",)


def _skip(header: _Header, payload: Payload, num_bytes: int) -> int:
    """Bytes of the voxel file before the first voxel; HeaderSize -1 means that the voxels are its last bytes."""
    text = header.fields.get("HeaderSize", "0")
    if text == "-1" and payload.compression == "none":
        return max(0, payload.bytes_on_disk - num_bytes)
    if not text.isdigit():
        raise _bad(header.path, "HeaderSize", "must be a number", text)
    return int(text)


def _layout(header: _Header, choice: GeometryChoice) -> Layout:
    path = header.path
    dims = header.integers("NDims", 1)[0]
    if dims not in (3, 4):
        raise GeometryError("not a volume", file=path, field="NDims", code="E_DIM", wanted=3, got=dims)
    sizes = header.integers("DimSize", dims)
    components = header.integers("ElementNumberOfChannels", 1)[0] if "ElementNumberOfChannels" in header.fields else 1
    if min(sizes) < 1 or components < 1 or (components > 1 and dims == 4 and sizes[3] > 1):
        raise GeometryError("the header's sizes are impossible", file=path, field="DimSize", code="E_DIM", got=header.fields["DimSize"])
    kind = _DTYPES.get(header.fields.get("ElementType", "").removesuffix("_ARRAY"))
    if kind is None:
        raise ReadError("voxel type not supported", file=path, field="ElementType", code="E_DTYPE", got=header.fields.get("ElementType"))
    _refuse_unheeded(header)
    matrix, notes = _matrix(header, dims, choice)
    x, y, z = sizes[:3]
    grid, grid_notes = checked((z, y, x), from_lps(matrix), path=path)
    channels = components if components > 1 else (sizes[3] if dims == 4 else 1)
    dtype = np.dtype((">" if header.flag("BinaryDataByteOrderMSB") else "<") + kind)
    return Layout(geometry=grid, dtype=dtype, channels=channels, interleaved=components > 1, notes=notes + grid_notes)


def _refuse_unheeded(header: _Header) -> None:
    """Fields that change what the numbers mean, and that readers in common use pass over without a word."""
    if (unit := header.fields.get("DistanceUnits", "mm").lower()) not in ("mm", "?", ""):
        raise GeometryError("lengths must be in millimetres", file=header.path, field="DistanceUnits", code="E_UNIT", wanted="mm", got=unit)
    for field, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if field in header.fields and header.numbers(field, 1)[0] != neutral:
            raise ReadError(
                "the header scales the voxel values, which other readers do not heed",
                file=header.path,
                field=field,
                code="E_SCALE",
                wanted=f"{neutral:g}",
                got=header.fields[field],
                remedy="Store the scaled values themselves, or remove the field if the numbers are the values",
            )


def _matrix(header: _Header, dims: int, choice: GeometryChoice) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxel to LPS millimetres. The file lists one direction per index axis, x first."""
    notes: tuple[str, ...] = ()
    if "TransformMatrix" in header.fields:
        directions = header.numbers("TransformMatrix", dims * dims).reshape(dims, dims).T[:3, :3]
    elif choice == "pixdim":
        directions = np.eye(3)
        notes = ("no orientation in the header: x is assumed to run to the patient's left, y to the back; check the sides",)
    else:
        raise GeometryError(
            "the header does not say how the patient lies",
            file=header.path,
            field="TransformMatrix",
            code="E_NO_ORIENT",
            remedy="Export the scan again, or use --geometry pixdim to assume that x runs to the patient's left and y to the back",
        )
    field = "ElementSpacing" if "ElementSpacing" in header.fields else "ElementSize"
    spacing = positive(header.numbers(field, dims)[:3], path=header.path, field=field)
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    if "Offset" in header.fields:
        matrix[:3, 3] = header.numbers("Offset", dims)[:3]
    else:
        notes += ("no origin in the header: the first voxel is taken to lie at 0 0 0",)
    return matrix, notes
