"""One working case as one file: a safetensors file, readable by any tool that knows the format, mapped into memory.

Tensors: `image` (C, Z, Y, X) float16 or float32, `labels` (Z, Y, X) int8 or int16, `locations` (n, 3) int32, all classes
one after the other. The record lies in the file's metadata, so a file that is there is complete: it appears whole or
not at all. Why this and not a compressed store: docs/decisions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from autoseg3d.case import Placement
from autoseg3d.errors import Autoseg3dError, ReadError
from autoseg3d.files import parse_json, writing
from autoseg3d.preprocessing.working_case import WorkingCase
from planners.contract import Contract

# float16 ends at 65504; up to this value it keeps every number to a relative error of 2^-11.
_FLOAT16_LIMIT = 6e4
_TYPES = {"F16": np.float16, "F32": np.float32, "I8": np.int8, "I16": np.int16, "I32": np.int32}
_LARGEST_HEADER = 2**24
_SIGN_AND_MAGNITUDE = np.int32(-0x70002000)  # the pattern 8FFFE000: the sign, and the exponent and fraction of a float16


class CaseRecord(Contract):
    """What is known of a stored case besides its arrays.

    source     name, size and time of change of every raw file it was made from
    locations  number of stored voxels per class, in the order of the tensor
    content    SHA-256 of the arrays and of which voxels belong to which class
    """

    id: str
    placement: Placement
    source: tuple[tuple[str, int, int], ...]
    locations: dict[int, int]
    content: str


@dataclass(frozen=True)
class OpenCase:
    """A stored case mapped into memory; the arrays are read-only and read from disk where they are touched."""

    record: CaseRecord
    image: np.ndarray
    labels: np.ndarray
    locations: dict[int, np.ndarray]


def write_case(path: Path, working: WorkingCase, *, source: tuple[tuple[str, int, int], ...]) -> None:
    """Stores a labelled working case, whole or not at all. Raises StorageError."""
    assert working.labels is not None
    drawn = list(working.locations.values())
    tensors = {
        "image": _compact_image(working.image),
        "labels": working.labels.astype(np.int8 if working.labels.max(initial=0) < 128 else np.int16),
        "locations": np.concatenate(drawn) if drawn else np.empty((0, 3), dtype=np.int32),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    counts = {key: len(voxels) for key, voxels in working.locations.items()}
    content = _content(tensors, counts)
    record = CaseRecord(id=working.id, placement=working.placement, source=source, locations=counts, content=content)
    header = _header(tensors, record)
    with writing(path, lasting=False) as file:  # a case that a power cut takes back is prepared anew
        file.write(len(header).to_bytes(8, "little") + header)
        for name in _in_file_order(tensors):
            file.write(tensors[name].data)


def _header(tensors: dict[str, np.ndarray], record: CaseRecord) -> bytes:
    """The JSON at the head of a safetensors file, padded so that the arrays begin at a multiple of 8 bytes."""
    names = {np.dtype(kind): name for name, kind in _TYPES.items()}
    entries: dict[str, Any] = {"__metadata__": {"record": record.model_dump_json()}}
    end = 0
    for name in _in_file_order(tensors):
        array, start, end = tensors[name], end, end + tensors[name].nbytes
        entries[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _in_file_order(tensors: dict[str, np.ndarray]) -> list[str]:
    """Larger numbers first, so that every array begins at a multiple of its item's size."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def _compact_image(image: np.ndarray) -> np.ndarray:
    limit = max(float(image.max(initial=0)), -float(image.min(initial=0)))
    return image.astype(np.float16 if limit <= _FLOAT16_LIMIT else np.float32, copy=False)


def widen(stored: np.ndarray, out: np.ndarray) -> None:
    """Writes finite float16 (or float32) values into `out`, a float32 array or view of the same shape, exactly.

    Four times faster than numpy's own conversion: the bits of a float16 moved up by 13 places, below its sign, are those
    of a float32 that is 2^112 times too small.
    """
    if stored.dtype != np.float16:
        out[...] = stored
        return
    bits = out.view(np.int32)
    np.copyto(bits, stored.view(np.int16))
    bits <<= 13
    bits &= _SIGN_AND_MAGNITUDE
    out *= np.float32(2.0**112)


def _content(tensors: dict[str, np.ndarray], counts: dict[int, int]) -> str:
    digest = hashlib.sha256(repr(sorted(counts.items())).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def read_record(path: Path) -> CaseRecord:
    """The record of a stored case. Raises ReadError where the file is missing or damaged."""
    return _parsed(path)[0]


@lru_cache(maxsize=256)
def open_case(path: Path, content: str) -> OpenCase:
    """The stored case in `path`, mapped into memory and kept open while it is among the 256 last used of this process.

    `content` is the content hash it was found with: a file that has been replaced since is another case. Raises
    ReadError where the file is missing, damaged or not that case.
    """
    record, header, offset = _parsed(path)
    if record.content != content:
        raise _damaged(path, "another case has taken its place")
    arrays = {name: _mapped(path, header[name], offset) for name in ("image", "labels", "locations")}
    ends = np.cumsum(list(record.locations.values()), dtype=np.int64)
    parts = np.split(arrays["locations"], ends[:-1]) if len(ends) else []
    return OpenCase(record, arrays["image"], arrays["labels"], dict(zip(record.locations, parts, strict=True)))


def _parsed(path: Path) -> tuple[CaseRecord, dict[str, Any], int]:
    """Record, header and the offset at which the arrays begin; the file's length is checked against the header."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size, _LARGEST_HEADER):
                raise _damaged(path, "its header is longer than the file")
            header = parse_json(file.read(length), file=path)
        record = CaseRecord.model_validate_json(header["__metadata__"]["record"])
        end = max(header[name]["data_offsets"][1] for name in ("image", "labels", "locations"))
    except FileNotFoundError as error:
        raise ReadError("a prepared case is missing", file=path, code="E_CACHE", remedy="Run the same command again") from error
    except (OSError, KeyError, TypeError, ValueError, ValidationError, Autoseg3dError) as error:
        raise _damaged(path, str(error)) from error
    if size != 8 + length + end:
        raise _damaged(path, f"{8 + length + end} bytes expected, {size} found")
    return record, header, 8 + length


def _mapped(path: Path, entry: dict[str, Any], offset: int) -> np.ndarray:
    start, stop = entry["data_offsets"]
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
    if stop == start:
        return np.empty(shape, dtype=dtype)
    # A plain array over the map: numpy's memmap class would make every small slice many times slower.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset + start, shape=shape))


def _damaged(path: Path, why: str) -> ReadError:
    remedy = "Delete the file and run the same command again; it is made anew from the raw data"
    return ReadError(f"a prepared case is damaged: {why}", file=path, code="E_CACHE", remedy=remedy)
