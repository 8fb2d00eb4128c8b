"""A limit of time for one case: reading in a process that can be killed, networks asked between windows.

Where nobody set a limit, only reading has one, by the size of the files and generous: a drive that hangs must not hold a batch
for ever. It is kept by a thread that is left to itself, which costs nothing where all goes well.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from autoseg3d.errors import Autoseg3dError, DataError
from autoseg3d.io import CaseFiles, GeometryChoice, load_case, read_geometry
from autoseg3d.io.load import LoadedCase
from autoseg3d.io.parts import parts
from autoseg3d.prediction.beside import Beside
from autoseg3d.prediction.records import hash_inputs
from autoseg3d.workers import WorkerProcess
from planners.contract import Triple

Progress = Callable[[str, int, int], None]
Found = TypeVar("Found")

# A drive may have to wake up first; one that then gives less than this hangs.
_WAKING_SECONDS = 120.0
_SLOWEST_BYTES_PER_SECOND = 2**20
_SECONDS_PER_FILE = 1.0


class Deadline:
    """Counts the time spent on one case against its limit; None never ends."""

    def __init__(self, case: str, seconds: float | None) -> None:
        self._case, self._seconds = case, seconds
        self._spent, self._resumed = 0.0, time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds left, at least a little; None where there is no limit. Raises DataError (E_TIMEOUT) where none are."""
        if self._seconds is None:
            return None
        left = self._seconds - self._spent - (time.monotonic() - self._resumed)
        if left <= 0:
            raise self.exceeded()
        return left

    def pause(self) -> None:
        """Stops counting: the case waits for its turn."""
        self._spent += time.monotonic() - self._resumed

    def resume(self) -> None:
        """Goes on counting."""
        self._resumed = time.monotonic()

    def exceeded(self) -> DataError:
        """The error of a case that took too long."""
        return DataError(
            "took longer than allowed and was stopped",
            code="E_TIMEOUT",
            case=self._case,
            wanted=f"at most {self._seconds:g} s",
            remedy="Give it more time with --timeout, or predict with --fast",
        )

    def watching(self, progress: Progress | None) -> Progress | None:
        """A progress callback that also raises once the time is over: networks are asked after every window."""
        if self._seconds is None:
            return progress

        def told(what: str, done: int, total: int) -> None:
            _ = self.left
            if progress is not None:
                progress(what, done, total)

        return told


@dataclass(frozen=True)
class _Job:
    """What the process is asked: the hashes of a scan's files, or, with a target, the scan itself."""

    scan: CaseFiles
    geometry: GeometryChoice
    target: Path | None = None


def answer(job: _Job) -> dict[str, str] | LoadedCase:
    """Hashes a case's files, or reads it and leaves its image in a file, which is faster than a pipe; runs in the process."""
    if job.target is None:
        return hash_inputs(job.scan)
    loaded = load_case(job.scan, labels=None, geometry=job.geometry)
    with open(job.target, "wb") as file:
        np.save(file, loaded.case.image)
    return replace(loaded, case=replace(loaded.case, image=np.empty((0, 0, 0, 0), dtype=np.float32)))


def reading_seconds(scan: CaseFiles, waking: float = _WAKING_SECONDS) -> float:
    """How long reading a scan may take where nobody set a limit. Raises OSError, and TimeoutError where not even sizes can be asked."""
    sizes = Beside(lambda: [part.stat().st_size for path in scan.images for part in parts(path)]).result(waking)
    return waking + len(sizes) * _SECONDS_PER_FILE + sum(sizes) / _SLOWEST_BYTES_PER_SECOND


class Reader:
    """Reads cases, with a limit of time: in a process that is killed when it is over, where a person set the limit.

    Args:
        folder: for temporary files named .tmp-*.
        geometry: which statement of a NIfTI header to follow.
        waking_seconds: what a drive is given before the first byte, where nobody set a limit.
    """

    def __init__(self, folder: Path, geometry: GeometryChoice, *, waking_seconds: float = _WAKING_SECONDS) -> None:
        self._folder, self._geometry, self._waking = folder, geometry, waking_seconds
        self._process: WorkerProcess | None = None

    def hashes(self, scan: CaseFiles, deadline: Deadline) -> dict[str, str]:
        """Name and SHA-256 of every file. Raises ReadError, and DataError as `read`."""
        seconds = deadline.left
        if seconds is None:
            return self._unless_it_hangs(scan, partial(hash_inputs, scan))
        found = self._ask(_Job(scan, self._geometry), seconds, deadline)
        assert isinstance(found, dict)
        return found

    def read(self, scan: CaseFiles, deadline: Deadline) -> LoadedCase:
        """The case. Raises what `load_case` raises, and DataError (E_TIMEOUT, or E_READ where the process dies)."""
        seconds = deadline.left
        if seconds is None:
            return self._unless_it_hangs(scan, partial(load_case, scan, labels=None, geometry=self._geometry))
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=".npy", dir=self._folder)
        os.close(handle)
        try:
            loaded = self._ask(_Job(scan, self._geometry, Path(name)), seconds, deadline)
            assert isinstance(loaded, LoadedCase)
            return replace(loaded, case=replace(loaded.case, image=np.load(name, allow_pickle=False)))
        finally:
            os.unlink(name)

    def seconds_for(self, scan: CaseFiles) -> float | None:
        """How long reading a scan may take where nobody set a limit; None where its files cannot even be looked at."""
        try:
            return reading_seconds(scan, self._waking)
        except (OSError, TimeoutError):
            return None

    def shape(self, scan: CaseFiles) -> Triple | None:
        """Voxels along each axis (z, y, x) by the header of the first image; None where that cannot be read or does not answer."""
        with contextlib.suppress(Autoseg3dError, OSError, TimeoutError):
            return Beside(partial(read_geometry, scan.images[0], geometry=self._geometry)).result(self._waking).shape
        return None

    def _unless_it_hangs(self, scan: CaseFiles, work: Callable[[], Found]) -> Found:
        seconds = self.seconds_for(scan)
        try:
            return Beside(work).result(self._waking if seconds is None else seconds)
        except TimeoutError:
            raise DataError(
                "reading it did not come to an end and was given up",
                code="E_TIMEOUT",
                case=scan.id,
                wanted="an answer" if seconds is None else f"at most {seconds:.0f} s for files of this size",
                remedy="Check the drive that it lies on, or copy it to another; --timeout sets another limit",
            ) from None

    def _ask(self, job: _Job, seconds: float, deadline: Deadline) -> dict[str, str] | LoadedCase:
        if self._process is None:
            self._process = WorkerProcess(answer, 1)
        process = self._process
        try:
            value, error = process.call(job, seconds)
        except (EOFError, OSError):
            cause, _ = process.reap()
            self._process = None
            if process.timed_out:
                raise deadline.exceeded() from None
            raise DataError("the process that read this scan died", case=job.scan.id, code="E_READ", got=cause) from None
        if error is not None:
            raise error
        found: dict[str, str] | LoadedCase = value
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.end()
            self._process = None
