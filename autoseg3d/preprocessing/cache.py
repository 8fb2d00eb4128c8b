"""What lies in the folder of prepared cases, what of it is used, and removing the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from autoseg3d import files
from autoseg3d.errors import LockedError, ReadError
from autoseg3d.preprocessing.case_file import open_case
from autoseg3d.preprocessing.preparation import RECIPE_FILE
from autoseg3d.preprocessing.recipe import Recipe


@dataclass(frozen=True)
class CacheEntry:
    """One folder of prepared cases.

    recipe  how they were prepared; None where another version of the program wrote it
    cases   how many lie there, complete
    """

    folder: Path
    recipe: Recipe | None
    cases: int
    bytes: int


def entries(folder: Path) -> list[CacheEntry]:
    """The folders of prepared cases under `folder`, by name; anything that `prepare` did not make is left out."""
    return [_entry(path) for path in sorted(folder.iterdir()) if (path / RECIPE_FILE).is_file()] if folder.is_dir() else []


def _entry(path: Path) -> CacheEntry:
    recipe = None
    with contextlib.suppress(ReadError):
        recipe = files.read_contract(path / RECIPE_FILE, Recipe)
    sizes = {}
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process may be at work
            sizes[file.name] = file.stat().st_size
    cases = sum(name.endswith(".safetensors") and not name.startswith(".") for name in sizes)
    return CacheEntry(path, recipe, cases, sum(sizes.values()))


def clean(folder: Path, *, keep: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Removes every folder of prepared cases under `folder` whose name is not in `keep`.

    Returns the bytes freed, and the names of folders that stay because a process fills or uses them. Killed at any
    moment it leaves nothing that the next call does not remove.
    """
    freed, busy = 0, []
    for entry in entries(folder):
        if entry.folder.name in keep:
            continue
        try:
            with files.storage_errors(entry.folder), files.lock(entry.folder):
                if files.is_used(entry.folder):
                    busy.append(entry.folder.name)
                    continue
                freed += _empty(entry.folder)
        except LockedError:
            busy.append(entry.folder.name)
            continue
        with contextlib.suppress(OSError):  # somebody may have begun to fill it anew
            (entry.folder / ".lock").unlink(missing_ok=True)
            entry.folder.rmdir()
    return freed, tuple(busy)


def _empty(entry: Path) -> int:
    freed = 0
    open_case.cache_clear()
    for path in sorted(entry.glob("*.safetensors")):
        freed += path.stat().st_size
        path.unlink()
    files.sweep(entry)
    # Last, so that what a kill leaves behind is still known as ours and removed the next time.
    (entry / RECIPE_FILE).unlink()
    return freed
