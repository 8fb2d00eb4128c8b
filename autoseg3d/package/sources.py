"""Where the bytes of a model package come from: a folder, or an uncompressed zip. Both give files by name, or refuse."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from autoseg3d.errors import ModelError
from autoseg3d.package.manifest import MANIFEST, FileRecord, allowed_name

_MAX_ENTRIES = 1000


class Source(Protocol):
    """The files of a package."""

    location: Path

    def names(self) -> set[str]:
        """Names of all files but the manifest."""

    def open(self, name: str, record: FileRecord | None = None) -> IO[bytes]:
        """A file for reading; `record` says which version of it is wanted. Raises ModelError where there is none."""

    def size(self, name: str, record: FileRecord | None = None) -> int:
        """Its size in bytes. Raises ModelError where there is none."""


def pending(folder: Path, name: str, record: FileRecord) -> Path:
    """Where a file lies that the manifest already names but that is not yet in its place."""
    return folder / f".pending-{hashlib.sha256(name.encode()).hexdigest()[:8]}-{record.sha256}"


def is_scratch(name: str) -> bool:
    """Whether a file in a package folder is a lock or left over from an interrupted write; never read, never packed."""
    return name.startswith((".lock", ".tmp-", ".pending-"))


class FolderSource:
    """A package as a folder."""

    def __init__(self, folder: Path) -> None:
        self.location = folder

    def names(self) -> set[str]:
        found = set()
        for root, folders, files in os.walk(self.location):
            for name in (*folders, *files):
                path = Path(root) / name
                if path.is_symlink():
                    raise ModelError("a model package holds no links", code="E_MODEL_NAME", file=path, remedy="Copy the file in its place")
            found |= {(Path(root) / name).relative_to(self.location).as_posix() for name in files if not is_scratch(name)}
        return found - {MANIFEST}

    def open(self, name: str, record: FileRecord | None = None) -> IO[bytes]:
        return self._path(name, record).open("rb")

    def size(self, name: str, record: FileRecord | None = None) -> int:
        return self._path(name, record).stat().st_size

    def _path(self, name: str, record: FileRecord | None) -> Path:
        """The file in its place, or waiting beside it where its writer died between manifest and rename."""
        path = self.location / name
        if record is not None and (waiting := pending(self.location, name, record)).is_file():
            return waiting
        if not path.is_file() or path.is_symlink():
            raise _missing(self.location, name)
        return path


class ArchiveSource:
    """A package as one file: a zip in which nothing is compressed, so that it cannot grow when it is read."""

    def __init__(self, path: Path) -> None:
        self.location = path
        with self._archive() as archive:
            self._sizes = _checked_sizes(archive, path)

    def names(self) -> set[str]:
        return set(self._sizes) - {MANIFEST}

    def size(self, name: str, record: FileRecord | None = None) -> int:
        if name not in self._sizes:
            raise _missing(self.location, name)
        return self._sizes[name]

    def open(self, name: str, record: FileRecord | None = None) -> IO[bytes]:
        self.size(name)
        with self._archive() as archive:
            return archive.open(name)  # zipfile keeps the file open until the last member is closed

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with reading_errors(self.location), zipfile.ZipFile(self.location) as archive:
            yield archive


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turns every complaint of the system, and of zipfile about crafted headers, into a ModelError."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"the model cannot be read: {error.strerror}", code="E_MODEL_READ", file=path) from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OverflowError) as error:
        raise ModelError(f"not a readable .a3d file: {error}", code="E_MODEL_ZIP", file=path, remedy="Get the file anew") from error


def _checked_sizes(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    entries = archive.infolist()
    sizes: dict[str, int] = {}
    for entry in entries[: _MAX_ENTRIES + 1]:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.filename != MANIFEST and not allowed_name(entry.filename):
            fault = "holds a name that no model package has"
        elif entry.filename in sizes:
            fault = "holds a file twice"
        elif kind not in (0, stat.S_IFREG):
            fault = "holds something that is not a plain file"
        elif entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            fault = "holds a compressed or encrypted file"
        else:
            sizes[entry.filename] = entry.file_size
            continue
        remedy = "Make the file with `autoseg3d package`; do not zip or unzip it by hand"
        raise ModelError(f"this .a3d file {fault}", code="E_MODEL_ZIP", file=path, got=repr(entry.filename)[:200], remedy=remedy)
    if len(entries) > _MAX_ENTRIES or sum(sizes.values()) > path.stat().st_size:
        raise ModelError(
            "this .a3d file claims more than it can hold",
            code="E_MODEL_ZIP",
            file=path,
            wanted=f"at most {_MAX_ENTRIES} files, together no larger than the file itself",
            got=f"{len(entries)} files, {sum(sizes.values())} bytes",
            remedy="Get the file anew",
        )
    return sizes


def _missing(location: Path, name: str) -> ModelError:
    return ModelError(
        "the model package lacks a file", code="E_MODEL_FILE_MISSING", file=location, wanted=name, remedy="Copy it anew, whole"
    )


def read_checked(source: Source, name: str, record: FileRecord) -> bytes:
    """The bytes of a file whose size and hash the manifest states. Raises ModelError where they differ."""
    with reading_errors(source.location):
        if source.size(name, record) == record.size:
            with source.open(name, record) as file:
                data = file.read(record.size + 1)
            if hashlib.sha256(data).hexdigest() == record.sha256:
                return data
    raise altered(source.location, name)


def check_file(source: Source, name: str, record: FileRecord) -> None:
    """Raises ModelError where the file is not what the manifest says; holds no more than a block of it."""
    with reading_errors(source.location):
        if source.size(name, record) == record.size:
            with source.open(name, record) as file:
                digest = hashlib.sha256()
                while block := file.read(2**20):
                    digest.update(block)
            if digest.hexdigest() == record.sha256:
                return
    raise altered(source.location, name)


def altered(location: Path, name: str) -> ModelError:
    return ModelError(
        "a file of the model package is not what its manifest says: it was changed or damaged",
        code="E_MODEL_ALTERED",
        file=location,
        field=name,
        remedy="Copy the package anew from where it was made",
    )
