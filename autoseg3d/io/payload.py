"""The bytes of a file, decompressed and verified to the last one.

Readers in common use fill a truncated file up with zeros or skip the checksum, so that half a patient is segmented
without a word. Here every stream is read to its end: its length is compared with what the header promises, and the
checksum of gzip (CRC-32 and length, of every member), zlib (Adler-32) and bzip2 (CRC-32) is always verified.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from isal import isal_zlib

from autoseg3d.errors import DataError, ReadError

Compression = Literal["none", "gzip", "zlib", "bzip2"]

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_INFLATED_AT_ONCE = 1 << 17
# Inflated ahead of what is asked for: little, since headers are read more often than voxels, which need no buffer.
_AHEAD = 1 << 13
_WINDOW_BITS = {"gzip": 31, "zlib": 15}
# Deflate cannot expand a byte to more than 1032: 258 bytes per match, at least two bits each.
_DEFLATE_LIMIT = 1032
# Bzip2 knows no such limit; images rarely shrink so far.
_USUAL_BZIP2 = 100
_ISAL_ERROR = cast(type[Exception], isal_zlib.error)  # its stub calls the class an instance
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, _ISAL_ERROR)
_COPY_AGAIN = "Copy or export the file again from its source"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the operating system's and the decompressors' complaints about `path` into ReadErrors."""
    try:
        yield
    except FileNotFoundError as error:
        raise ReadError("file not found", file=path, code="E_MISSING", remedy="Check the path") from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ReadError("a symbolic link that leads to itself", file=path, code="E_PATH") from error
        if error.errno is None:  # bz2 reports bad data as a bare OSError
            raise _damaged(path, error) from error
        raise ReadError(f"cannot be read: {error.strerror}", file=path, code="E_READ", remedy="Check the disk and the rights") from error


def _damaged(path: Path, error: Exception) -> ReadError:
    if isinstance(error, EOFError):
        return ReadError("the compressed file is cut short", file=path, code="E_TRUNCATED", remedy=_COPY_AGAIN)
    return ReadError(f"the compressed file is damaged ({error})", file=path, code="E_CORRUPT", remedy=_COPY_AGAIN)


def refuse_special(path: Path) -> None:
    """Raises E_FORMAT for pipes, sockets and devices: opening one may wait without end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ReadError("not a file but a pipe or a device", file=path, code="E_FORMAT", wanted="a scan")


def beside(header: Path, name: str) -> Path:
    """The voxel file that a text header names. Raises E_MISSING, naming both, where it is not there."""
    path = header.parent / name
    if not path.is_file():
        what = "the file with the voxels, which this header names, is missing"
        raise ReadError(what, file=header, code="E_MISSING", wanted=ascii(name), remedy="Copy both files, side by side")
    return path


class Payload:
    """A verified, forward-only stream of the bytes of one file from `start`, decompressed."""

    def __init__(self, path: Path, file: IO[bytes], *, start: int, compression: Compression) -> None:
        self.path, self.compression = path, compression
        self.bytes_on_disk = file.seek(0, os.SEEK_END) - start
        self.position = 0
        self._file, self._start = file, start
        self._stream = self._restart()

    def _restart(self) -> IO[bytes]:
        self._file.seek(self._start)
        self._inflating: _Inflating | None = None
        if self.compression == "bzip2":
            return cast(IO[bytes], bz2.BZ2File(self._file))
        if self.compression == "none":
            return self._file
        self._inflating = _Inflating(self._file, self.compression)
        return io.BufferedReader(self._inflating, _AHEAD)

    def read(self, length: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        data = self._stream.read(length)
        self.position += len(data)
        return data

    def skip_to(self, position: int) -> None:
        """Moves on to byte `position` of the stream. Raises E_TRUNCATED where the file ends before it."""
        while self.position < position:
            if not self.read(min(_CHUNK, position - self.position)):
                raise truncated(self.path, wanted=position, got=self.position)

    def array(self, length: int) -> np.ndarray:
        """The next `length` bytes as a writable uint8 array. Raises E_TRUNCATED, before any allocation where it can tell."""
        self._refuse_impossible(length)
        data = np.empty(length, dtype=np.uint8)
        view = data.data
        filled = 0
        while filled < length:
            count = self._stream.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise truncated(self.path, wanted=self.position + length, got=self.position + filled)
            filled += count
        self.position += length
        return data

    def finish(self, *, most: int | None = None) -> int:
        """Reads on to the end, so that checksums are verified; returns the number of surplus bytes.

        Stops once there are more than `most`: a few bytes can expand to more than anybody wants to wait for.
        """
        surplus = 0
        while (most is None or surplus <= most) and (data := self._stream.read(_CHUNK)):
            surplus += len(data)
        return surplus

    @property
    def rubbish(self) -> int:
        """Bytes found behind a complete gzip or zlib stream that do not belong to it; 0 before its end was reached."""
        return self._inflating.rubbish if self._inflating is not None else 0

    def refuse_if_too_short(self, length: int) -> None:
        """Raises E_TRUNCATED where the file's size shows that `length` more bytes cannot be there. Reads nothing."""
        wanted, most = self.position + length, self.bytes_on_disk * (1 if self.compression == "none" else _DEFLATE_LIMIT)
        if self.compression in ("none", "gzip", "zlib") and wanted > most:
            raise truncated(self.path, wanted=wanted, got=f"{'' if self.compression == 'none' else 'at most '}{most}")

    def _refuse_impossible(self, length: int) -> None:
        self.refuse_if_too_short(length)
        wanted = self.position + length
        if self.compression == "gzip" and wanted > self._stated_length():
            self._refuse_if_shorter(wanted)
        if self.compression == "bzip2" and wanted > _USUAL_BZIP2 * self.bytes_on_disk:
            self._refuse_if_shorter(wanted)

    def _stated_length(self) -> int:
        """The last four bytes: the length of the last gzip member modulo 2³², of the whole file if it has one member."""
        self_position = self._file.tell()
        self._file.seek(-4, os.SEEK_END)
        stated = int.from_bytes(self._file.read(4), "little")
        self._file.seek(self_position)
        return stated

    def _refuse_if_shorter(self, wanted: int) -> None:
        """Counts the decompressed bytes without keeping them: a header that promises too much allocates nothing.

        Costs a second pass, which only files of several members, over 4 GiB, or of almost nothing but one value need.
        """
        with open(self.path, "rb") as file:
            count = Payload(self.path, file, start=self._start, compression=self.compression).finish(most=wanted)
        if count < wanted:
            raise truncated(self.path, wanted=wanted, got=count)


class _Inflating(io.RawIOBase):
    """A zlib stream, or the members of a gzip file one after the other, as a raw file; every checksum is verified.

    Zeros behind the last gzip member are padding; whatever else follows there, `rubbish` counts.
    """

    def __init__(self, file: IO[bytes], compression: Compression) -> None:
        self._file, self._compression = file, compression
        self._inflater = self._new()
        self._waiting = b""
        self.rubbish = 0

    def _new(self) -> Any:
        return isal_zlib.decompressobj(wbits=_WINDOW_BITS[self._compression])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflater.eof or self._next_member():
            source = self._waiting or self._file.read(_INFLATED_AT_ONCE)
            data = self._inflater.decompress(source, len(buffer))
            self._waiting = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not source:
                raise EOFError
        return 0

    def _next_member(self) -> bool:
        """Goes on to the next gzip member; False at the end of the stream, or where something else follows."""
        rest = self._waiting.lstrip(b"\0")
        while not rest and (more := self._file.read(_INFLATED_AT_ONCE)):
            rest = more.lstrip(b"\0")
        if self._compression == "gzip" and rest.startswith(GZIP_MAGIC[:1]):
            self._waiting, self._inflater = rest, self._new()
            return True
        self.rubbish += len(rest)
        while rest := self._file.read(_CHUNK):
            self.rubbish += len(rest)
        self._waiting = b""
        return False


@contextlib.contextmanager
def open_payload(path: Path, *, start: int = 0, compression: Compression | None = None) -> Iterator[Payload]:
    """The verified bytes of `path` from byte `start`; `compression=None` recognises gzip by its first two bytes.

    Raises ReadError: E_MISSING, E_READ, E_PATH, E_TRUNCATED, E_CORRUPT.
    """
    refuse_special(path)
    with reading(path), open(path, "rb") as file:
        if compression is None:
            file.seek(start)
            compression = "gzip" if file.read(2) == GZIP_MAGIC else "none"
        yield Payload(path, file, start=start, compression=compression)


def head(path: Path, length: int) -> bytes:
    """The first `length` decompressed bytes of a file, fewer where it is shorter; a damaged rest is not noticed."""
    with open_payload(path) as payload:
        return payload.read(length)


def is_gzip(path: Path) -> bool:
    """Whether a file's first two bytes are gzip's, whatever its name."""
    with reading(path), open(path, "rb") as file:
        return file.read(2) == GZIP_MAGIC


def truncated(path: Path, *, wanted: object, got: object) -> DataError:
    """E_TRUNCATED naming the bytes that the header promises and those found."""
    return ReadError(
        "the file is cut short, or its header promises too much",
        file=path,
        code="E_TRUNCATED",
        wanted=f"{wanted} bytes",
        got=f"{got} bytes",
        remedy=_COPY_AGAIN,
    )
