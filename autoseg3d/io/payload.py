"""The bytes of a file, decompressed and verified to the last one.

Readers in common use fill a truncated file up with zeros or skip the checksum, so that half a patient is segmented
without a word. Here every stream is read to its end: its length is compared with what the header promises, and the
checksum of gzip (CRC-32 and length), zlib (Adler-32) and bzip2 (CRC-32) is always verified. isal's gzip reader checks
both fields of the trailer of every member.
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
from typing import IO, Literal, cast

import numpy as np
from isal import igzip, isal_zlib

from autoseg3d.errors import DataError, ReadError

Compression = Literal["none", "gzip", "zlib", "bzip2"]

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
# Deflate cannot expand a byte to more than 1032: 258 bytes per match, at least two bits each.
_DEFLATE_LIMIT = 1032
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


class Payload:
    """A verified, forward-only stream of the bytes of one file from `start`, decompressed."""

    def __init__(self, path: Path, file: IO[bytes], *, start: int, compression: Compression) -> None:
        self.path, self.compression = path, compression
        self.bytes_on_disk = os.fstat(file.fileno()).st_size - start
        self.position = 0
        self._file, self._start = file, start
        self._stream = self._restart()

    def _restart(self) -> IO[bytes]:
        self._file.seek(self._start)
        if self.compression == "gzip":
            return cast(IO[bytes], igzip.GzipFile(fileobj=self._file))  # type: ignore[no-untyped-call, unused-ignore]
        if self.compression == "bzip2":
            return cast(IO[bytes], bz2.BZ2File(self._file))
        if self.compression == "zlib":
            return io.BufferedReader(_Inflating(self._file), _CHUNK)
        return self._file

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

    def finish(self) -> int:
        """Reads on to the end, so that checksums are verified; returns the number of surplus bytes."""
        surplus = 0
        while data := self._stream.read(_CHUNK):
            surplus += len(data)
        if isinstance(self._stream, io.BufferedReader) and isinstance(self._stream.raw, _Inflating) and not self._stream.raw.ended:
            raise EOFError
        return surplus

    def _refuse_impossible(self, length: int) -> None:
        wanted = self.position + length
        if self.compression == "none":
            if wanted > self.bytes_on_disk:
                raise truncated(self.path, wanted=wanted, got=self.bytes_on_disk)
        elif self.compression != "bzip2" and wanted > _DEFLATE_LIMIT * self.bytes_on_disk:
            raise truncated(self.path, wanted=wanted, got=f"at most {_DEFLATE_LIMIT * self.bytes_on_disk}")
        elif self.compression == "gzip" and wanted > self._stated_length():
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

        Costs a second pass, which only files of several members or over 4 GiB need.
        """
        with open(self.path, "rb") as file:
            count = Payload(self.path, file, start=self._start, compression=self.compression).finish()
        if count < wanted:
            raise truncated(self.path, wanted=wanted, got=count)


class _Inflating(io.RawIOBase):
    """A zlib stream as a raw file, so that large reads land in the caller's buffer chunk by chunk."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflater = isal_zlib.decompressobj()

    @property
    def ended(self) -> bool:
        """Whether the checksum was reached and found right."""
        return bool(self._inflater.eof)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflater.eof:
            waiting = self._inflater.unconsumed_tail
            source = waiting or self._file.read(_CHUNK)
            data = self._inflater.decompress(source, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not source:
                raise EOFError
        return 0


@contextlib.contextmanager
def open_payload(path: Path, *, start: int = 0, compression: Compression | None = None) -> Iterator[Payload]:
    """The verified bytes of `path` from byte `start`; `compression=None` recognises gzip by its first two bytes.

    Raises ReadError: E_MISSING, E_READ, E_PATH, E_TRUNCATED, E_CORRUPT.
    """
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
