"""The header of NIfTI-1 and NIfTI-2 files, parsed and checked in plain Python before anything is allocated.

Sources: nifti1.h (2003) and nifti2.h (2011), https://nifti.nimh.nih.gov. Text fields are neither kept nor written:
they carry patient names.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg3d.errors import GeometryError, ReadError
from autoseg3d.geometry import NiftiHeader

HEADER_BYTES = {1: 348, 2: 540}
# First voxel in a single file: header, four bytes that tell of extensions.
FIRST_VOXEL = {1: 352, 2: 544}
PAIR_MAGIC = {b"ni1\0": 1, b"ni2\0\r\n\x1a\n": 2}
SINGLE_MAGIC = {b"n+1\0": 1, b"n+2\0\r\n\x1a\n": 2}
_ALL_MAGIC = {**PAIR_MAGIC, **SINGLE_MAGIC}

# NIfTI datatype code: numpy type. Byte order is the header's.
DTYPES = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8"}
_NOT_SCALAR = {32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour"}
_UNSUPPORTED = {1: "1-bit", 1536: "128-bit float"}

# name: (offset and struct format without byte order) in NIfTI-1, the same in NIfTI-2
FIELDS = {
    "dim": ((40, "8h"), (16, "8q")),
    "datatype": ((70, "h"), (12, "h")),
    "bitpix": ((72, "h"), (14, "h")),
    "pixdim": ((76, "8f"), (104, "8d")),
    "vox_offset": ((108, "f"), (168, "q")),
    "scl_slope": ((112, "f"), (176, "d")),
    "scl_inter": ((116, "f"), (184, "d")),
    "xyzt_units": ((123, "B"), (500, "i")),
    "qform_code": ((252, "h"), (344, "i")),
    "sform_code": ((254, "h"), (348, "i")),
    "quatern_bcd": ((256, "3f"), (352, "3d")),
    "qoffset_xyz": ((268, "3f"), (376, "3d")),
    "srow_x": ((280, "4f"), (400, "4d")),
    "srow_y": ((296, "4f"), (432, "4d")),
    "srow_z": ((312, "4f"), (464, "4d")),
    "magic": ((344, "4s"), (4, "8s")),
}


@dataclass(frozen=True)
class Fields:
    """Header fields as stored, numbers in native order.

    offset_stated  whether a single file says where its voxels begin; where it does not, `vox_offset` is the first place it may be
    """

    version: int
    byte_order: str
    single_file: bool
    shape: tuple[int, ...]
    dtype: np.dtype
    pixdim: tuple[float, ...]
    vox_offset: int
    offset_stated: bool
    slope: float
    intercept: float
    xyzt_units: int
    qform_code: int
    sform_code: int
    quatern_bcd: tuple[float, float, float]
    qoffset_xyz: tuple[float, float, float]
    srow: tuple[tuple[float, float, float, float], ...]

    def spatial(self) -> tuple[NiftiHeader, bool]:
        """The fields that an output copies bit for bit; True where NaN in unused fields had to be set to 0."""

        def finite(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(v if math.isfinite(v) else 0.0 for v in values)

        stored = (self.pixdim, self.quatern_bcd, self.qoffset_xyz, *self.srow)
        kept = tuple(finite(values) for values in stored)
        names = ("pixdim", "quatern_bcd", "qoffset_xyz", "srow_x", "srow_y", "srow_z")
        header = NiftiHeader.model_validate(
            {
                "version": self.version,
                "qform_code": self.qform_code,
                "sform_code": self.sform_code,
                "xyzt_units": self.xyzt_units,
                **dict(zip(names, kept, strict=True)),
            }
        )
        return header, any(not math.isfinite(v) for values in stored for v in values)


def looks_like_nifti(head: bytes) -> bool:
    """Whether `head` (decompressed) carries the header size and the magic of NIfTI-1 or -2."""
    return _version_and_order(head) is not None


def states_version_2(head: bytes) -> bool:
    """Whether the first four bytes give the size of a NIfTI-2 header, in either byte order."""
    return HEADER_BYTES[2] in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))


def field(head: bytes, name: str, version: int, order: str) -> tuple[Any, ...]:
    """The values of one field of a header in byte order `order` ("<" or ">")."""
    offset, form = FIELDS[name][version - 1]
    return struct.unpack_from(order + form, head, offset)


def _version_and_order(head: bytes) -> tuple[int, str] | None:
    for version, size in HEADER_BYTES.items():
        if len(head) >= size and _ALL_MAGIC.get(field(head, "magic", version, "<")[0]) == version:
            for order in "<>":
                if struct.unpack_from(order + "i", head)[0] == size:
                    return version, order
    return None


def parse(head: bytes, path: Path) -> Fields:
    """The fields of a header (348 bytes of NIfTI-1, 540 of NIfTI-2), checked one by one but not against each other.

    Raises E_NOT_NIFTI, E_DTYPE, E_DIM (sizes, colours, complex numbers) and E_SCALE.
    """
    found = _version_and_order(head)
    if found is None:
        raise _not_nifti(head, path)
    version, order = found
    values = {name: field(head, name, version, order) for name in FIELDS}
    single = values["magic"][0] in SINGLE_MAGIC
    slope, intercept = _scaling(values["scl_slope"][0], values["scl_inter"][0], path)
    return Fields(
        version=version,
        byte_order=order,
        single_file=single,
        shape=_shape(values["dim"], path),
        dtype=_dtype(values["datatype"][0], values["bitpix"][0], order, path),
        pixdim=values["pixdim"],
        vox_offset=_first_voxel(values["vox_offset"][0], FIRST_VOXEL[version] if single else 0, path),
        offset_stated=not single or values["vox_offset"][0] != 0,
        slope=slope,
        intercept=intercept,
        xyzt_units=values["xyzt_units"][0],
        qform_code=values["qform_code"][0],
        sform_code=values["sform_code"][0],
        quatern_bcd=values["quatern_bcd"],
        qoffset_xyz=values["qoffset_xyz"],
        srow=(values["srow_x"], values["srow_y"], values["srow_z"]),
    )


def _not_nifti(head: bytes, path: Path) -> ReadError:
    what = "not a NIfTI file"
    if not head:
        what = "the file is empty"
    elif len(head) >= 348 and 348 in struct.unpack("<i", head[:4]) + struct.unpack(">i", head[:4]):
        what = "an Analyze 7.5 or damaged NIfTI header: without the NIfTI magic it does not say where left and right are"
    return ReadError(what, file=path, code="E_NOT_NIFTI", remedy="Export the scan again as NIfTI")


def _shape(dim: tuple[int, ...], path: Path) -> tuple[int, ...]:
    if not 1 <= dim[0] <= 7 or any(n < 1 for n in dim[1 : dim[0] + 1]):
        raise GeometryError("the header's sizes are impossible", file=path, field="dim", code="E_DIM", wanted="1 or more each", got=dim)
    shape = dim[1 : dim[0] + 1]
    if len(shape) < 2:
        raise GeometryError("not a volume", file=path, field="dim", code="E_DIM", wanted="three axes", got=shape)
    return shape


def _dtype(code: int, bits: int, order: str, path: Path) -> np.dtype:
    if code in _NOT_SCALAR:
        raise GeometryError(
            f"voxels hold {_NOT_SCALAR[code]} values",
            file=path,
            field="datatype",
            code="E_DIM",
            wanted="one real number per voxel",
            remedy="Split the file into one volume per component, or take the original grey-value scan",
        )
    if code not in DTYPES:
        got = f"{code} ({_UNSUPPORTED.get(code, 'unknown')})"
        raise ReadError("voxel type not supported", file=path, field="datatype", code="E_DTYPE", wanted=sorted(DTYPES), got=got)
    dtype = np.dtype(order + DTYPES[code])
    if bits != 8 * dtype.itemsize:
        wanted = f"{8 * dtype.itemsize} for datatype {code}"
        raise ReadError(
            "voxel type and bits per voxel contradict each other", file=path, field="bitpix", code="E_DTYPE", wanted=wanted, got=bits
        )
    return dtype


def _scaling(slope: float, intercept: float, path: Path) -> tuple[float, float]:
    """nifti1.h's rule: value = number × slope + intercept unless slope is 0, which means no scaling at all."""
    if slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ReadError(
            "the scaling of voxel values is not finite",
            file=path,
            field="scl_slope, scl_inter",
            code="E_SCALE",
            got=f"{slope:g}, {intercept:g}",
            remedy="Set slope 1 and intercept 0 if the stored numbers are the values",
        )
    return slope, intercept


def _first_voxel(offset: float, least: int, path: Path) -> int:
    if offset == 0:
        return least
    if not math.isfinite(offset) or offset < least or offset != int(offset):
        raise ReadError(
            "the place of the first voxel is impossible",
            file=path,
            field="vox_offset",
            code="E_NOT_NIFTI",
            wanted=f"{least} or more",
            got=offset,
        )
    return int(offset)
