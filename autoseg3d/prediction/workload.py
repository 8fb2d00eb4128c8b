"""How much of a batch is done, in voxels: a large scan takes longer than a small one, and the time left is told by that."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import CaseFiles, GeometryChoice, read_geometry
from autoseg3d.prediction.beside import Beside

Progress = Callable[[str, int, int], None]

# What the time left of "scans" is told by; see autoseg3d.cli.show.
WORK = "kilovoxels"


class Workload:
    """Progress of a batch: told the scans done and, as soon as all headers are read, the voxels of all scans too.

    Headers are read beside the work, so that nobody waits for them; a scan whose header cannot be read counts as an average one.
    Scans that an earlier run finished, or that failed, are no work and count for nothing.

    Args:
        scans: of the batch, in order.
        progress: what is told, with ("scans", done, total), (WORK, done, total) and all that `watching` passes on.
    """

    def __init__(self, scans: Sequence[CaseFiles], progress: Progress | None, *, geometry: GeometryChoice = "auto") -> None:
        self._progress, self._total = progress, len(scans)
        self._headers = Beside(lambda: [_voxels(scan, geometry) for scan in scans]) if progress is not None else None
        self._sizes: list[float] = []
        self._skipped: set[int] = set()
        self._done: dict[int, float] = {}

    def begin(self, index: int) -> None:
        """Tells that all scans before this one are done."""
        for earlier in range(index):
            self._done[earlier] = 1.0
        if self._progress is not None:
            self._progress("scans", index, self._total)
            self._tell()

    def skip(self, index: int) -> None:
        """A scan needed no work."""
        self._skipped.add(index)

    def watching(self, index: int) -> Progress | None:
        """What to tell the progress of a scan to: passed on, and windows count as a share of the scan's voxels."""
        if self._progress is None:
            return None
        tell = self._progress

        def told(what: str, done: int, total: int) -> None:
            tell(what, done, total)
            if what == "windows" and total:
                self._done[index] = max(self._done.get(index, 0.0), done / total)
                self._tell()

        return told

    def _tell(self) -> None:
        """Tells the voxels done, where the headers are known by now."""
        if self._progress is None or self._headers is None or (not self._sizes and not self._headers.wait(0)):
            return
        if not self._sizes:
            found = self._headers.result()
            known = [size for size in found if size is not None]
            average = sum(known) / len(known) if known else 1.0
            self._sizes = [average if size is None else size for size in found]
        counted = {i: size for i, size in enumerate(self._sizes) if i not in self._skipped}
        done = sum(size * self._done.get(i, 0.0) for i, size in counted.items())
        self._progress(WORK, round(done / 1000), max(1, round(sum(counted.values()) / 1000)))


def _voxels(scan: CaseFiles, geometry: GeometryChoice) -> float | None:
    with contextlib.suppress(Autoseg3dError, OSError, ValueError):
        return float(math.prod(read_geometry(scan.images[0], geometry=geometry).shape))
    return None
