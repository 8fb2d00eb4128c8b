"""Every crafted file, and what becomes of one that is used: refused by name, or something was run, written or hung."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crafted_foreign import FOREIGN
from crafted_models import MODELS
from crafting import OUTSIDE, Crafted, Trap

from autoseg3d.errors import Autoseg3dError

CRAFTED = (*MODELS, *FOREIGN)
SECONDS = 20.0
# What a crafted file may claim above what the process has already: the good files take less than a tenth of it.
_ROOM = 2 * 2**30
_LARGEST_FILE = 2**29


@dataclass(frozen=True)
class Fate:
    """What became of it: the code ("" where it was used), what was said, and everything that must not have happened."""

    code: str
    said: str
    wrong: tuple[str, ...]


def fate(crafted: Crafted, folder: Path) -> Fate:
    """Makes a crafted file in an empty folder and uses it in a process of its own, with bounds of time, memory and file size."""
    trap, inside = Trap(folder), folder / "deep" / "inside"
    inside.mkdir(parents=True)
    path = crafted.write(inside, trap)
    before = _outside(folder, inside)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_use, args=(crafted, path, theirs))
    child.start()
    theirs.close()
    code, said, wrong = "", "", []
    try:
        if ours.poll(SECONDS):
            code, said = ours.recv()
        else:
            wrong.append(f"took longer than {SECONDS:g} s")
    except EOFError:
        wrong.append("the process died")
    child.kill()
    child.join()
    wrong += [f"written outside: {name}" for name in sorted(_outside(folder, inside) ^ before)]
    wrong += ["code in the file was run"] if trap.executed.exists() else []
    if code in ("E_INTERNAL", "traceback"):
        wrong.append("not refused by name")
    elif not code and not crafted.harmless and not wrong:
        wrong.append("not refused")
    elif code and path.name not in said and path.parent.name not in said:
        wrong.append("the refusal names no file")
    return Fate(code, said, tuple(wrong))


def _outside(folder: Path, inside: Path) -> set[str]:
    """Everything around the folder in which the file lies."""
    found = {str(path) for path in folder.rglob("*") if not path.is_relative_to(inside)}
    return found | ({str(OUTSIDE)} if OUTSIDE.exists() else set())


def _use(crafted: Crafted, path: Path, pipe: Any) -> None:
    os.chdir(path.parent)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    try:
        crafted.use(path)
        answer = ("", "")
    except Autoseg3dError as error:
        answer = (error.code, str(error))
    except BaseException:
        answer = ("traceback", traceback.format_exc())
    pipe.send(answer)
    pipe.close()
    os._exit(0)
