"""Walking through the elements of a DICOM file to its pixels, so that a file that was cut short is known before any decoder.

Decoders fill up what is missing, or give back part of a picture. Source: DICOM PS3.5, chapter 7 and annex A.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from autoseg3d.errors import ReadError
from autoseg3d.io.payload import truncated

MAGIC, MAGIC_AT = b"DICM", 128
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_LONG_FORMS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_META, _SYNTAX, _PIXELS, _VALUE_TABLE = 0x0002, (0x0002, 0x0010), (0x7FE0, 0x0010), (0x0028, 0x3000)


def starts_like_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes have DICOM's magic, or begin with an element as files without a preamble do."""
    if head[MAGIC_AT : MAGIC_AT + 4] == MAGIC:
        return True
    if len(head) < 8 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    return head[4:6] in _LONG_FORMS | {b"UL", b"CS", b"UI", b"DA", b"LO", b"SH"} or int.from_bytes(head[4:8], "little") < 256


def pixel_bytes(file: Path) -> int | None:
    """Bytes of uncompressed pixels, all there; None where they are compressed.

    Raises E_TRUNCATED where the file ends before its pixels do, E_DICOM where its elements do not follow each other, or where
    a table gives the values of the pixels, which decoders pass over.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        try:
            return _length_of_pixels(stream, size)
        except _ValueTableError as error:
            what = "the values of the pixels are given by a table, which is not supported"
            raise ReadError(
                what, file=file, field="ModalityLUTSequence", code="E_DICOM", remedy="Export the series with a rescale slope instead"
            ) from error
        except EOFError as error:
            raise truncated(file, wanted="more", got=size) from error
        except ValueError as error:
            what = f"the elements of the DICOM file do not follow each other ({error})"
            raise ReadError(what, file=file, code="E_DICOM", remedy="Export the series again") from error


class _ValueTableError(Exception):
    """A modality look-up table stands where others have a rescale slope."""


def _length_of_pixels(stream: IO[bytes], size: int) -> int | None:
    stream.seek(MAGIC_AT + 4 if stream.read(MAGIC_AT + 4).endswith(MAGIC) else 0)
    syntax = _transfer_syntax(_Walk(stream, size, explicit=True))
    if syntax == _DEFLATED:
        return None
    walk = _Walk(stream, size, explicit=syntax != _IMPLICIT, order=">" if syntax == _BIG_ENDIAN else "<")
    while True:
        tag, length = walk.header()
        if tag == _VALUE_TABLE and length:
            raise _ValueTableError
        walk.skip(length)
        if tag == _PIXELS:
            return None if length == _UNDEFINED else length


def _transfer_syntax(walk: _Walk) -> str:
    """The syntax that the elements of group 2 name, after which `walk` stands; implicit where there are none."""
    syntax = _IMPLICIT
    while walk.next_group() == _META:
        tag, length = walk.header()
        if tag == _SYNTAX:
            syntax = walk.stream.read(length).decode("ascii", "replace").strip("\0 ")
        else:
            walk.skip(length)
    return syntax


@dataclass
class _Walk:
    """Reads element headers one after the other. Raises EOFError at the end of the file, ValueError where rules are broken."""

    stream: IO[bytes]
    size: int
    explicit: bool
    order: str = "<"

    def header(self) -> tuple[tuple[int, int], int]:
        """Tag and length of the next element."""
        head = self._read(8)
        group, element = struct.unpack(self.order + "HH", head[:4])
        if group == _ITEM[0] or not self.explicit:
            return (group, element), int(struct.unpack(self.order + "I", head[4:])[0])
        if head[4:6] in _LONG_FORMS:
            return (group, element), int(struct.unpack(self.order + "I", self._read(4))[0])
        if not (head[4:6].isalpha() and head[4:6].isupper()):
            raise ValueError("no value representation")
        return (group, element), int(struct.unpack(self.order + "H", head[6:])[0])

    def next_group(self) -> int:
        """The first half of the next element's tag, which stays unread."""
        group = self._read(2)
        self.stream.seek(-2, os.SEEK_CUR)
        return int.from_bytes(group, "little" if self.order == "<" else "big")

    def skip(self, length: int) -> None:
        """Passes over a value."""
        if length == _UNDEFINED:
            self._skip_items()
        elif self.stream.tell() + length > self.size:
            raise EOFError
        else:
            self.stream.seek(length, os.SEEK_CUR)

    def _skip_items(self) -> None:
        while (entry := self.header())[0] != _END_OF_SEQUENCE:
            if entry[0] != _ITEM:
                raise ValueError("not an item")
            if entry[1] != _UNDEFINED:
                self.skip(entry[1])
                continue
            while (inner := self.header())[0] != _END_OF_ITEM:
                self.skip(inner[1])

    def _read(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            raise EOFError
        return data
