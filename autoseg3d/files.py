"""Files that appear whole or not at all, their hashes, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from autoseg3d.errors import Autoseg3dError, LockedError, ReadError, StorageError, UsageError
from planners.contract import Contract

_Kind = TypeVar("_Kind", bound=Contract)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's complaints about disk and rights at `path` into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "Free some space and run the same command again"
            raise StorageError("no space left to write", file=path, code="E_DISK_FULL", remedy=remedy) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            remedy = "Choose a folder you may write to"
            raise StorageError("not allowed to write here", file=path, code="E_READ_ONLY", remedy=remedy) from error
        if error.errno in {errno.EIO, errno.ESTALE}:
            remedy = "Check the disk and run again"
            raise StorageError(f"the disk failed: {error.strerror}", file=path, code="E_IO", remedy=remedy) from error
        raise


@contextlib.contextmanager
def replacing(path: Path | str, *, lasting: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    The bytes are flushed to the disk before the rename and the folder entry after it; without `lasting` only the bytes, so
    that a power cut may bring back what was there before, but nothing in between. Raises StorageError where the disk is
    full, failing or not writable.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix="".join(path.suffixes[-2:]), dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "r+b") as file:
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
            if lasting:
                _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


@contextlib.contextmanager
def writing(path: Path | str, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """Like `replacing`, giving the temporary file open for writing bytes."""
    with replacing(path, lasting=lasting) as temporary, open(temporary, "wb") as file:
        yield file


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with writing(path) as file:
        file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode())


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes files that belong together: all lie beside their places before the first is renamed, in the order given.

    Where one cannot take its place, those before it are put back to what they were. Only a kill between two renames
    leaves old and new files side by side; the last of them is then still the old one. Raises StorageError.
    """
    before = {path: _bytes(path) for path in contents}
    try:
        with contextlib.ExitStack() as stack:
            for path, data in reversed([*contents.items()]):  # blocks end in reverse: the last one entered is renamed first
                stack.enter_context(replacing(path)).write_bytes(data)
    except BaseException:
        for path, known in before.items():
            if _bytes(path) != known:
                write_bytes(path, known) if known is not None else path.unlink(missing_ok=True)
        raise


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def read_json(path: Path | str, *, max_bytes: int = 256 * 2**20) -> Any:
    """The JSON value in `path`. Duplicate keys, NaN and Infinity are refused. Raises ReadError naming file and place."""
    path = Path(path)
    try:
        if path.stat().st_size > max_bytes:
            raise ReadError(
                "file too large for a JSON document", file=path, code="E_JSON", wanted=f"at most {max_bytes} bytes", got=path.stat().st_size
            )
        return parse_json(path.read_bytes(), file=path)
    except FileNotFoundError as error:
        raise ReadError("file not found", file=path, code="E_MISSING", remedy="Check the path") from error


def parse_json(data: bytes, *, file: Path | str) -> Any:
    """The JSON value in the bytes of `file` (a path, or a name inside an archive), refusing what `read_json` refuses."""
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ReadError("not a text file in UTF-8", file=file, code="E_JSON") from error
    except (ValueError, RecursionError) as error:
        raise ReadError(f"not valid JSON: {error}", file=file, code="E_JSON", remedy="Correct the file or write it anew") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r} stands twice")
        result[key] = value
    return result


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number JSON knows")


def read_contract(path: Path, kind: type[_Kind]) -> _Kind:
    """The contract type `kind` from a JSON file. Raises ReadError naming the first offending field and its value."""
    return as_contract(read_json(path), kind, file=path)


def as_contract(value: Any, kind: type[_Kind], *, file: Path | str) -> _Kind:
    """The contract type `kind` from a JSON value that stood in `file`. Raises ReadError as `read_contract` does."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or None
        got = str(first.get("input"))[:200] if field else None
        raise ReadError(
            f"not a valid {kind.__name__}: {first['msg']}",
            code="E_FIELD",
            file=file,
            field=field,
            got=got,
            remedy="Correct the field, or make the file anew",
        ) from error


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(folder: Path | str, *, name: str = ".lock", wait_seconds: float = 0.0) -> Iterator[None]:
    """Holds an exclusive lock on `folder` for the length of the block.

    The operating system's own lock is used, which ends with the process however it dies, so nothing stale is ever
    left. Raises LockedError, telling who holds it, when it is not free within `wait_seconds`.
    """
    path, deadline = Path(folder) / name, time.monotonic() + wait_seconds
    while (file := _taken(path)) is None:
        if time.monotonic() >= deadline:
            raise LockedError(
                f"another process works on this folder{_holder(path)}",
                file=folder,
                remedy="Wait until it has finished, or stop it, and run again",
            )
        time.sleep(0.05)
    try:
        with storage_errors(path):
            file.seek(0)
            file.truncate()
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            file.flush()
        yield
    finally:
        _unlock(file)
        file.close()


def sweep(*folders: Path) -> None:
    """Removes the temporary files that killed processes left in these folders; only for who holds the lock of whoever writes there."""
    for folder in folders:
        for path in folder.glob(".tmp-*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _taken(path: Path) -> IO[bytes] | None:
    """The open and locked file, None where another process has it, or has removed it between opening and locking."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 - closed by the caller, after the lock is released
    if _try_lock(file):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        _unlock(file)
    file.close()
    return None


_USED = ".used-by-"


@contextlib.contextmanager
def in_use(folder: Path | str) -> Iterator[None]:
    """Marks `folder` as used by this process for the length of the block, see `is_used`; any number of processes may use it.

    Waits while another process holds the folder's lock, since that one may be filling or removing it.
    """
    name = f"{_USED}{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.ExitStack() as stack:
        with lock(folder, wait_seconds=float("inf")):
            stack.enter_context(lock(folder, name=name))
        try:
            yield
        finally:
            (Path(folder) / name).unlink(missing_ok=True)


def is_used(folder: Path | str) -> bool:
    """Whether a process that lives uses `folder`. To be asked under the folder's lock: without it the answer may be old."""
    for mark in sorted(Path(folder).glob(f"{_USED}*")):
        try:
            with lock(folder, name=mark.name):
                mark.unlink(missing_ok=True)
        except LockedError:
            return True
    return False


def _holder(path: Path) -> str:
    try:
        record = read_json(path)
        return f" (process {record['pid']} on {record['host']})"
    except (Autoseg3dError, OSError, KeyError, TypeError):
        return ""


if os.name == "nt":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            file.seek(2**30)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        with contextlib.suppress(OSError):
            file.seek(2**30)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined, unused-ignore]

    def _sync_folder(folder: Path) -> None:
        """Windows flushes folder entries with the file."""

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)

    def _sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse_inside(output: Path | str, source: Path | str) -> None:
    """Raises UsageError where `output` is the input itself or lies inside it, where it would be read as input later."""
    source = Path(source)
    folder = source if source.is_dir() else source.parent / (source.name + " ")
    if Path(output).resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            "the output would lie inside the input",
            code="E_OUT_IN_INPUT",
            file=output,
            got=source,
            remedy="Choose a folder beside it",
        )
