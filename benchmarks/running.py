"""Running whole commands for comparison: wall and CPU time, and the largest memory of the process with all its children."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import psutil

# What nnU-Net's users are told to set against page faults; ours sets the same from inside.
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "67108864"}


@dataclass(frozen=True)
class Run:
    """One command: seconds on the clock, seconds of processor time, largest memory (PSS of the tree) in GiB.

    stopped  it took more memory than it was granted and was killed, so all three say how far it had come
    """

    wall: float
    cpu: float
    peak: float
    stopped: bool = False


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, most_gib: float | None = None) -> Run:
    """Runs a command to its end, or until it holds more than `most_gib`. Raises RuntimeError with its last words where it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **(environment or {})})
        watch = _Watch(process.pid, most_gib)
        code = process.wait()
        wall, peak = time.perf_counter() - begun, watch.stop()
        said.seek(0)
        if code != 0 and not watch.killed:
            raise RuntimeError(f"{command[0]} left with {code}: {said.read()[-3000:].decode(errors='replace')}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak, watch.killed)


class _Watch:
    """Looks at the memory of a process tree once a second: looking takes time itself."""

    def __init__(self, pid: int, most_gib: float | None) -> None:
        self._pid, self._most, self._largest, self._done = pid, most_gib, 0, threading.Event()
        self.killed = False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(1.0):
            try:
                root = psutil.Process(self._pid)
                tree = (root, *root.children(recursive=True))
                self._largest = max(self._largest, sum(_shared_out(process) for process in tree))
                if self._most is not None and self._largest > self._most * 2**30:
                    self.killed = True
                    for process in tree:
                        process.kill()
            except psutil.Error:
                continue

    def stop(self) -> float:
        self._done.set()
        self._thread.join()
        return self._largest / 2**30


def _shared_out(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):
        return 0


def nnunet_command(python: str, model: Path, scans: Path, out: Path, folds: Sequence[str], *more: str) -> list[str]:
    """nnU-Net's own command on the CPU with its default settings (mirroring on, three workers each way)."""
    command = Path(python).with_name("nnUNetv2_predict_from_modelfolder")
    names = [fold.removeprefix("fold_") for fold in folds]
    return [str(command), "-i", str(scans), "-o", str(out), "-m", str(model), "-f", *names, "-device", "cpu", *more]


def our_command(model: Path, scans: Path, out: Path, *more: str) -> list[str]:
    """Ours, as a user calls it."""
    return [str(Path(sys.executable).with_name("autoseg3d")), "predict", str(scans), "--model", str(model), "--out", str(out), *more]


def nnunet_environment(folder: Path) -> dict[str, str]:
    """Variables that nnU-Net asks for although this command uses none of them."""
    return {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}


def agreement(ours: Path, theirs: Path) -> tuple[float, float, int]:
    """Of two folders of label maps: (share of equal voxels, lowest Dice of a label in a scan, voxels that differ)."""
    equal, total, lowest = 0, 0, 1.0
    for path in sorted(theirs.glob("*.nii.gz")):
        a, b = (np.asarray(nibabel.load(folder / path.name).dataobj) for folder in (ours, theirs))
        equal, total = equal + int((a == b).sum()), total + a.size
        for label in np.union1d(np.unique(a), np.unique(b)):
            if label:
                lowest = min(lowest, float(2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())))
    return equal / total, lowest, total - equal


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], say: Callable[[str], object] = sys.stdout.write) -> None:
    """Prints a Markdown table."""
    say(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n")
    for row in rows:
        say(f"| {' | '.join(str(cell) for cell in row)} |\n")
    sys.stdout.flush()
