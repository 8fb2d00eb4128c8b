"""The health page of a dataset, and the cache of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from autoseg3d.api.planning import Reading
from autoseg3d.run import RunFolder

if TYPE_CHECKING:
    from autoseg3d.fingerprinting import Survey
    from autoseg3d.io.nifti_forms import GeometryChoice
    from autoseg3d.preprocessing import Recipe

Progress = Callable[[str, int, int], None]


def check_report(raw: Path, out: Path, *, reading: Reading | None = None, progress: Progress | None = None) -> Survey:
    """Checks a dataset folder as `check` does, and writes what was found to the HTML file `out`, also where there are faults.

    The page works without a network: faults, what is unusual, how sizes, volumes and intensities lie, and pictures.

    Raises StorageError where `out` cannot be written.
    """
    from autoseg3d.fingerprinting import survey
    from autoseg3d.io import open_dataset
    from autoseg3d.report import write_health
    from autoseg3d.workers import worker_count

    reading = reading or Reading()
    workers = worker_count(reading.workers)
    dataset = open_dataset(raw, partial=True, geometry=reading.geometry, group_pattern=reading.group_pattern)
    found = survey(dataset, workers=workers, exclude=reading.exclude, geometry=reading.geometry, progress=progress)
    write_health(out, found, dataset, geometry=reading.geometry, workers=workers, progress=progress)
    return found


@dataclass(frozen=True)
class CacheUse:
    """One part of a run's cache.

    name      of its folder in RUN/cache
    what      what lies there, in words
    cases     how many prepared cases; None for what is not cases
    used_by   configurations of the current plan that train on it; empty: no training started now would read it
    """

    name: str
    what: str
    cases: int | None
    bytes: int
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Cleaned:
    """What `clean_cache` removed, and the folders that stay because a process fills or uses them."""

    bytes_freed: int
    busy: tuple[str, ...]


def cache(run: Path) -> tuple[CacheUse, ...]:
    """What lies in RUN/cache. Raises UsageError where `run` is no run folder."""
    from autoseg3d.preprocessing import entries

    folder, used = RunFolder(run), _used(run)
    found = [
        CacheUse(entry.folder.name, _in_words(entry.recipe), entry.cases, entry.bytes, tuple(used.get(entry.folder.name, ())))
        for entry in entries(folder.cache)
    ]
    survey = folder.cache / "survey"
    size = sum(path.stat().st_size for path in survey.iterdir()) if survey.is_dir() else 0
    measured = CacheUse("survey", "what was measured of each case", None, size, ("plan",))
    return (*found, measured) if size else tuple(found)


def clean_cache(run: Path, *, everything: bool = False) -> Cleaned:
    """Removes prepared cases that no configuration of the current plan uses, or all of them with `everything`.

    What another process fills, or a training reads, stays and is named. What is removed is made again when it is needed.
    Raises UsageError where `run` is no run folder, StorageError.
    """
    from autoseg3d.preprocessing import clean

    return Cleaned(*clean(RunFolder(run).cache, keep=() if everything else _used(run)))


def _used(run: Path) -> dict[str, list[str]]:
    """Configurations of the run's plan by the folder of their cases."""
    from autoseg3d.preprocessing import cache_key

    folder = RunFolder(run)
    plan, geometry = folder.plan(), cast("GeometryChoice", folder.record().geometry)
    used: dict[str, list[str]] = {}
    for name in plan.configurations:
        used.setdefault(cache_key(plan, name, geometry=geometry), []).append(name)
    return used


def _in_words(recipe: Recipe | None) -> str:
    if recipe is None:
        return "cases prepared by another version of the program"
    spacing = " × ".join(f"{value:.4g}" for value in recipe.spacing_mm)
    kind = "slices" if recipe.slicewise else "cases"
    return f"{kind} at {spacing} mm, {', '.join(dict.fromkeys(recipe.normalization))}, {recipe.orientation}"
