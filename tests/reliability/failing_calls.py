"""The n-th write, sync or rename below a folder fails for real: a small library is loaded before the C library (Linux, with a C compiler).

A process started by `preloaded` forks one child per trial, so that nothing is imported anew; `trial` lets a call of the child fail.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("write", "fsync", "rename")
SHORT = -1
"""In place of an error number: a write that writes only half, which is no failure."""

_SOURCE = Path(__file__).with_name("failing_calls.c")
_SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """How a trial ended: the exit code (None for a hang), what was said, and the calls seen of each kind."""

    code: int | None
    said: str
    seen: tuple[int, int, int]


def available() -> bool:
    """Whether calls can be made to fail on this machine."""
    return sys.platform == "linux" and shutil.which("cc") is not None


def preloaded(command: Sequence[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a Python command line in which `trial` works; the library is built into `folder`."""
    library = folder / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"], check=True, capture_output=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAILING_CALLS": str(library)}
    return subprocess.run([sys.executable, *command], check=False, text=True, env=environment, **options)


def trial(work: Callable[[], int], below: Path, kind: str, number: int, error: int = errno.EIO) -> Ended:
    """Forks; in the child the `number`-th call of a kind below a folder fails, and `work` gives the exit code."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(work, below, kind, number, error, theirs))
    child.start()
    theirs.close()
    said, seen = "", (0, 0, 0)
    try:
        if ours.poll(_SECONDS):
            said, seen = ours.recv()
    except EOFError:
        said = "died"
    child.join(_SECONDS)
    hung = child.is_alive()
    child.kill()
    child.join()
    return Ended(None if hung else child.exitcode, said, seen)


def _in_child(work: Callable[[], int], below: Path, kind: str, number: int, error: int, pipe: Any) -> None:
    library = ctypes.CDLL(os.environ["FAILING_CALLS"])
    seen = (ctypes.c_long * 3).in_dll(library, "failing_calls_seen")
    library.failing_calls_arm(str(below).encode(), KINDS.index(kind), ctypes.c_long(number), error)
    try:
        code, said = work(), ""
    except SystemExit as left:
        code, said = int(left.code or 0), ""
    except BaseException as fault:
        known = getattr(fault, "exit_code", None)
        code, said = (1, traceback.format_exc()) if known is None else (known, str(fault))
    pipe.send((said, tuple(seen)))
    pipe.close()
    os._exit(code)
