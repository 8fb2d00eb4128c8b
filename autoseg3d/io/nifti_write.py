"""Writing NIfTI on a given grid: whole or not at all, the same bytes for the same content, read back before it counts.

Where the grid came from a NIfTI file, its spatial fields are copied bit for bit, so that every viewer lays the output
exactly over the input. Text fields stay empty (they carry names), the gzip header holds neither time nor name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from isal import isal_zlib

from autoseg3d.errors import StorageError, UsageError
from autoseg3d.files import replacing
from autoseg3d.geometry import Geometry, NiftiHeader
from autoseg3d.io.nifti_forms import quaternion_matrix
from autoseg3d.io.nifti_header import DTYPES, FIELDS, FIRST_VOXEL, HEADER_BYTES, SINGLE_MAGIC, parse
from autoseg3d.io.payload import open_payload

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, time 0, system unknown
_LEVEL = 2
_LARGEST_SIZE_1 = 2**15 - 1
# A qform is written only where it repeats the sform this closely, in voxels.
_QFORM_TOLERANCE = 0.01
_HALF_TURN = 1e-4
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_labels(path: Path | str, array: np.ndarray, geometry: Geometry) -> None:
    """Writes a (Z, Y, X) label map of whole numbers 0 to 65535 as uint8, or uint16 where needed, on `geometry`.

    `path` ends in .nii.gz or .nii. Raises StorageError where the disk is full, not writable, or gives other bytes back.
    """
    if array.dtype.kind not in "iub" or (array.size and (int(array.min()) < 0 or int(array.max()) > 65535)):
        raise ValueError(f"labels must be integers from 0 to 65535, got {array.dtype} with {array.min()} to {array.max()}")
    _write(Path(path), array, np.dtype("<u1" if int(array.max()) < 256 else "<u2"), geometry)


def write_image(path: Path | str, array: np.ndarray, geometry: Geometry) -> None:
    """Writes a (Z, Y, X) float32 or int16 image on `geometry`, otherwise as `write_labels`."""
    if array.dtype not in (np.float32, np.int16):
        raise ValueError(f"an image is written as float32 or int16, got {array.dtype}")
    _write(Path(path), array, array.dtype.newbyteorder("<"), geometry)


def nifti_bytes(array: np.ndarray, geometry: Geometry) -> bytes:
    """A (Z, Y, X) uint8, uint16, int16 or float32 array on `geometry` as an uncompressed .nii file in memory, to be embedded."""
    if array.shape != geometry.shape:
        raise ValueError(f"wanted an array of shape {geometry.shape}, got {array.shape}")
    dtype = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else np.dtype("<u1")
    return b"".join(_pieces(_header(geometry, dtype), array, dtype))


def _write(path: Path, array: np.ndarray, dtype: np.dtype, geometry: Geometry) -> None:
    if array.shape != geometry.shape:
        raise ValueError(f"wanted an array of shape {geometry.shape}, got {array.shape}")
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise UsageError("outputs are written as NIfTI", file=path, wanted="a name that ends in .nii.gz or .nii")
    head = _header(geometry, dtype)
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            for piece in _gzipped(_pieces(head, array, dtype)) if name.endswith(".gz") else _pieces(head, array, dtype):
                file.write(piece)
        _verify(temporary, head, array, dtype, path)


def _pieces(head: bytes, array: np.ndarray, dtype: np.dtype) -> Iterator[bytes | memoryview]:
    yield head
    for plane in array:
        yield np.ascontiguousarray(plane, dtype=dtype).data.cast("B")


def _gzipped(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    deflate = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -15)
    check, length = 0, 0
    yield _GZIP_HEADER
    for piece in pieces:
        check, length = isal_zlib.crc32(piece, check), length + len(piece)
        yield deflate.compress(piece)
    yield deflate.flush()
    yield struct.pack("<II", check, length % 2**32)


def _verify(temporary: Path, head: bytes, array: np.ndarray, dtype: np.dtype, path: Path) -> None:
    """Reads the file back; every byte must be the one that was written."""
    with open_payload(temporary) as payload:
        same = all(payload.read(len(piece)) == piece for piece in _pieces(head, array, dtype)) and payload.finish() == 0
    if not same:
        raise StorageError(
            "the file does not read back as it was written", file=path, code="E_VERIFY", remedy="Check the disk and run again"
        )


def _header(geometry: Geometry, dtype: np.dtype) -> bytes:
    z, y, x = geometry.shape
    spatial = geometry.header or _spatial(geometry)
    version = spatial.version if max(x, y, z) <= _LARGEST_SIZE_1 else 2
    values: dict[str, tuple[object, ...]] = {
        "dim": (3, x, y, z, 1, 1, 1, 1),
        "datatype": (_CODES[dtype.str[1:]],),
        "bitpix": (8 * dtype.itemsize,),
        "vox_offset": (FIRST_VOXEL[version],),
        "scl_slope": (1.0,),
        "scl_inter": (0.0,),
        "magic": (next(magic for magic, v in SINGLE_MAGIC.items() if v == version),),
        **{name: (value,) if isinstance(value, int) else value for name, value in spatial.model_dump(exclude={"version"}).items()},
    }
    head = bytearray(FIRST_VOXEL[version])
    struct.pack_into("<i", head, 0, HEADER_BYTES[version])
    for name, value in values.items():
        offset, form = FIELDS[name][version - 1]
        struct.pack_into("<" + form, head, offset, *value)
    return bytes(head)


def _spatial(geometry: Geometry) -> NiftiHeader:
    """Header fields for a grid that came from elsewhere: both forms, coded 1, where it is right-angled, else the sform, coded 2."""
    matrix = geometry.matrix
    quaternion, handed = _quaternion(matrix)
    z, y, x = geometry.spacing_mm
    rows = {name: tuple(float(v) for v in row) for name, row in zip(("srow_x", "srow_y", "srow_z"), matrix, strict=False)}
    fields = {
        "version": 1,
        "pixdim": (handed, x, y, z, 0.0, 0.0, 0.0, 0.0),
        "qform_code": 1,
        "sform_code": 1,
        "quatern_bcd": quaternion,
        "qoffset_xyz": tuple(float(v) for v in matrix[:3, 3]),
        "xyzt_units": 2,
        **rows,
    }
    both = NiftiHeader.model_validate(fields)
    if _qform_gap(both, geometry) <= _QFORM_TOLERANCE:
        return both
    nothing = (0.0, 0.0, 0.0)
    return both.model_copy(update={"qform_code": 0, "sform_code": 2, "quatern_bcd": nothing, "qoffset_xyz": nothing})


def _qform_gap(header: NiftiHeader, geometry: Geometry) -> float:
    """Distance in voxels between the corners by the qform, as it will be stored in float32, and by the affine."""
    head = _header(geometry.model_copy(update={"header": header}), np.dtype("<u1"))
    matrix = quaternion_matrix(parse(head, Path()))
    return float("inf") if matrix is None else geometry.corner_distance_voxels(Geometry.from_affine(geometry.shape, matrix))


def _quaternion(matrix: np.ndarray) -> tuple[tuple[float, float, float], float]:
    """(b, c, d) of the unit quaternion nearest to the axes' rotation, and qfac: -1 where the third axis is mirrored.

    The largest of the four squared components is found first (Shepperd 1978), so that no small number is divided by.
    """
    left, _, right = np.linalg.svd(matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))
    rotation = left @ right
    handed = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= handed
    r, trace = rotation, float(np.trace(rotation))
    squares = np.array([trace, r[0, 0], r[1, 1], r[2, 2]])
    largest = int(squares.argmax())
    if largest == 0:
        parts = np.array([1 + trace, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    else:
        i = largest - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        parts = np.zeros(4)
        parts[0] = r[k, j] - r[j, k]
        parts[1 + i] = 1 + r[i, i] - r[j, j] - r[k, k]
        parts[1 + j], parts[1 + k] = r[i, j] + r[j, i], r[i, k] + r[k, i]
    parts /= np.linalg.norm(parts)
    return _storable(parts if parts[0] >= 0 else -parts), handed


def _storable(quaternion: np.ndarray) -> tuple[float, float, float]:
    """b, c, d in float32, a being what is left of 1. For a half turn (a = 0) they are rounded up, since a reader would
    make a turn of a hundredth of a degree of what rounding down leaves.
    """
    stored = quaternion[1:].astype(np.float32)
    if quaternion[0] < _HALF_TURN:
        largest = int(np.abs(stored).argmax())
        while float(np.sum(stored.astype(np.float64) ** 2)) < 1.0:
            stored[largest] = np.nextafter(stored[largest], np.copysign(np.float32(2), stored[largest]))
    return float(stored[0]), float(stored[1]), float(stored[2])
