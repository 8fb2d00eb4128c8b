"""Voxels that a file spells out as text: NRRD's encodings ascii and hex, MetaImage without BinaryData."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from autoseg3d.errors import ReadError
from autoseg3d.io.payload import Payload, open_payload
from autoseg3d.io.voxels import Layout

Spelling = Literal["numbers", "hex"]
# Python would take underscores inside a number; here they make a word that is none.
_WORD = re.compile(rb"[^\s,_]+|_+")
_REMEDY = "Save the scan again with its voxels as raw bytes"


@contextlib.contextmanager
def open_text(path: Path, layout: Layout, *, start: int, spelling: Spelling) -> Iterator[Payload]:
    """The numbers of `layout` spelt from byte `start` of `path` on, as the bytes that it speaks of.

    Decimal numbers are parted by white space or commas; hexadecimal digits, two for a byte, may have white space anywhere.
    Text has no checksum, and the last number may have lost digits unseen: so it must end with white space.

    Raises E_CORRUPT where something else stands there or a number does not fit the type, E_TRUNCATED where the end is missing.
    """
    with open_payload(path, start=start, compression="none") as payload:
        text = payload.read(payload.bytes_on_disk)
    data = _from_hex(text, path) if spelling == "hex" else _from_numbers(text, layout, path)
    yield Payload(path, io.BytesIO(data), start=0, compression="none")


def _from_hex(text: bytes, path: Path) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise _unreadable(path, "two hexadecimal digits for each byte") from error


def _from_numbers(text: bytes, layout: Layout, path: Path) -> bytes:
    dtype, count = layout.dtype, layout.num_bytes // layout.dtype.itemsize
    wide = np.dtype(np.float64 if dtype.kind == "f" else np.uint64 if dtype == np.uint64 else np.int64)
    parse = float if dtype.kind == "f" else int
    try:
        numbers = np.fromiter((parse(word.group()) for word in _WORD.finditer(text)), dtype=wide)
    except (ValueError, OverflowError) as error:
        raise _unreadable(path, f"numbers of type {dtype.name}") from error
    if len(numbers) < count or not text[-1:].isspace():
        got = f"{len(numbers)} numbers" + ("" if len(numbers) < count else ", the last without white space after it")
        raise ReadError("the file is cut short", file=path, code="E_TRUNCATED", wanted=f"{count} numbers", got=got, remedy=_REMEDY)
    with np.errstate(over="ignore"):
        stored = numbers.astype(dtype)
    if dtype.kind != "f" and (stored != numbers).any():
        raise _unreadable(path, f"numbers of type {dtype.name}")
    return stored.tobytes()


def _unreadable(path: Path, wanted: str) -> ReadError:
    return ReadError("the voxels, which are text, cannot be read", file=path, code="E_CORRUPT", wanted=wanted, remedy=_REMEDY)
