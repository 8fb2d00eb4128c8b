"""Preparing a dataset: every case preprocessed once, kept on disk, shared by all who need it in the same form."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from threadpoolctl import threadpool_limits

from autoseg3d import files
from autoseg3d.errors import Autoseg3dError, DatasetError, LockedError, ReadError, StorageError, UsageError
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.dataset import Dataset
from autoseg3d.io.load import load_case
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.parts import stamps
from autoseg3d.io.volume import read_geometry
from autoseg3d.ops.resampling import resampled_shape
from autoseg3d.preprocessing.case_file import CaseRecord, open_case, read_record, write_case
from autoseg3d.preprocessing.recipe import recipe
from autoseg3d.preprocessing.store import CaseStore, case_path
from autoseg3d.preprocessing.working_case import preprocess
from autoseg3d.workers import Progress, map_cases
from planners.plan import Configuration, Plan

RECIPE_FILE = "recipe.json"
_WAIT_SECONDS = 1.0
# Left free on the disk for everything else.
_SPARE_BYTES = 200 * 2**20
# While a further process starts, those that run prepare about so many voxels; opening and storing a case costs as much as some.
_VOXELS_WORTH_A_WORKER = 3e7
_VOXELS_PER_CASE = 1e5

Source = tuple[tuple[str, int, int], ...]


def prepare(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    folder: Path,
    *,
    case_ids: Sequence[str] | None = None,
    workers: int = 1,
    geometry: GeometryChoice = "auto",
    progress: Progress | None = None,
) -> CaseStore:
    """Preprocesses the labelled cases of a dataset into `folder`/<recipe's key>/ and gives the store of them.

    Cases that lie there already, made from the same files by the same recipe, are kept; so a run that was stopped
    goes on where it was, and configurations with equal preprocessing share their cases. Several processes may
    prepare into one folder: one works, the others wait for it and then find all done.

    Args:
        case_ids: which cases, all by default.
        workers: processes; fewer are used where memory does not suffice for so many cases at once, or where the work is
            done before another process would have started.
        geometry: which statement of a NIfTI header to follow where they disagree.

    Raises UsageError for unknown cases, StorageError (E_DISK_FULL before any work where the forecast exceeds the free
    space), and at the end DatasetError with the faults of all cases that cannot be used; the others are then done.
    """
    chosen = _chosen(dataset, case_ids)
    made_by = recipe(plan, configuration, geometry=geometry)
    target = folder / made_by.key
    records = _intact(chosen, target)
    if len(records) < len(chosen):
        with _alone(target, len(chosen), progress):
            files.write_text(target / RECIPE_FILE, made_by.to_json())
            records = _intact(chosen, target)
            missing = [case for case in chosen if case.id not in records]
            files.sweep(target)
            forecast = _forecast(missing, plan.configurations[configuration], plan, geometry)
            _check_space(target, forecast)
            job = _Job(plan, configuration, geometry, target)
            # Little work is done right here, and threads that wait for each other would take longer than it does.
            with threadpool_limits(1 if forecast.voxels < _VOXELS_WORTH_A_WORKER else None, user_api="blas"):
                _prepare_missing(missing, job, _affordable(workers, forecast), progress)
            records = _intact(chosen, target)
    by_id = {case.id: case for case in chosen}
    return CaseStore(target, {case: records[case].content for case in by_id}, by_id)


def cache_key(plan: Plan, configuration: str, *, geometry: GeometryChoice = "auto") -> str:
    """The name of the folder in which `prepare` keeps the cases of a configuration."""
    return recipe(plan, configuration, geometry=geometry).key


def _chosen(dataset: Dataset, case_ids: Sequence[str] | None) -> list[CaseFiles]:
    if case_ids is None:
        return list(dataset.cases)
    known = {case.id: case for case in dataset.cases}
    if unknown := [case for case in case_ids if case not in known]:
        what = f"no such case in the dataset: {', '.join(unknown)}"
        raise UsageError(what, code="E_UNKNOWN_CASE", wanted=f"ids of its {len(known)} cases")
    return [known[case] for case in case_ids]


def _source(case: CaseFiles) -> Source:
    """The stamps of all raw files of a case. Raises OSError where one is missing."""
    paths = [*case.images, *([case.label] if case.label is not None else [])]
    return tuple(stamp for path in paths for stamp in stamps(path))


def _intact(cases: Sequence[CaseFiles], target: Path) -> dict[str, CaseRecord]:
    """Records of the cases that lie in `target` and were made from the files as they are now."""
    records = {}
    for case in cases:
        with contextlib.suppress(ReadError, OSError):
            record = read_record(case_path(target, case.id))
            if record.id == case.id and record.source == _source(case):
                records[case.id] = record
    return records


@contextlib.contextmanager
def _alone(target: Path, total: int, progress: Progress | None) -> Iterator[None]:
    """Holds the folder's lock; waits for another process that prepares the same cases."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(files.lock(target, wait_seconds=_WAIT_SECONDS))
                break
            except LockedError:
                if progress is not None:
                    progress("waiting for another process that prepares these cases", 0, total)
        yield


@dataclass(frozen=True)
class _Forecast:
    """What missing cases will take: bytes on disk in all, bytes in memory for the largest, voxels to go through in all."""

    disk: int
    memory: int
    voxels: float


def _forecast(cases: Sequence[CaseFiles], configuration: Configuration, plan: Plan, geometry: GeometryChoice) -> _Forecast:
    """Upper bounds from the headers alone, as if nothing were cropped; unreadable files count nothing."""
    disk = memory = 0
    voxels = 0.0
    channels = len(plan.channel_names)
    image_bytes = 4 if "none" in configuration.normalization else 2
    for case in cases:
        with contextlib.suppress(Autoseg3dError, OSError):
            grid = read_geometry(case.images[0], geometry=geometry)
            native, working = _voxels(grid.shape), _working_voxels(grid.shape, grid.spacing_mm, configuration)
            disk += working * (channels * image_bytes + 2)
            voxels += channels * (native + working) / 2 + _VOXELS_PER_CASE
            # Read and cropped image, labels and mask; one resized channel between, the result and its stored form.
            memory = max(memory, native * (8 * channels + 8) + max(native, working) * 4 + working * (6 * channels + 6))
    return _Forecast(disk, memory, voxels)


def _voxels(shape: Sequence[int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _working_voxels(shape: Sequence[int], spacing: Sequence[float], configuration: Configuration) -> int:
    """Voxels after resizing; which axis is which does not matter enough here to turn the grid first."""
    if configuration.slicewise:
        return _voxels(shape)
    return _voxels(resampled_shape(shape, spacing, configuration.spacing_mm))


def _check_space(target: Path, forecast: _Forecast) -> None:
    free = shutil.disk_usage(target).free
    if forecast.disk + _SPARE_BYTES > free:
        raise StorageError(
            "not enough space for the prepared cases",
            file=target,
            code="E_DISK_FULL",
            wanted=f"{(forecast.disk + _SPARE_BYTES) / 2**30:.2f} GiB at most",
            got=f"{free / 2**30:.2f} GiB free",
            remedy="Free some space, or choose a run folder on another disk, and run the same command again",
        )


def _affordable(workers: int, forecast: _Forecast) -> int:
    """As many processes as fit into four fifths of the free memory, each with the largest case, and are worth it; at least one."""
    available = 0.8 * psutil.virtual_memory().available
    worth = 1 + int(forecast.voxels / _VOXELS_WORTH_A_WORKER)
    return max(1, min(workers, worth, int(available / max(forecast.memory, 1))))


@dataclass(frozen=True)
class _Job:
    """What a worker needs to know besides the case."""

    plan: Plan
    configuration: str
    geometry: GeometryChoice
    target: Path


def _prepare_missing(missing: Sequence[CaseFiles], job: _Job, workers: int, progress: Progress | None) -> None:
    open_case.cache_clear()  # files about to be replaced must not stay mapped: Windows would refuse
    faults = []
    for outcome in map_cases(partial(_prepare_case, job=job), missing, workers=workers, what="preparing cases", progress=progress):
        if isinstance(outcome.error, Autoseg3dError) and not isinstance(outcome.error, StorageError):
            outcome.error.case = outcome.error.case or missing[outcome.index].id
            faults.append((outcome.index, outcome.error))
        else:
            outcome.result()
    if faults:
        count = len(faults)
        what = f"{count} of {len(missing)} cases cannot be prepared"
        remedy = "Mend them, or leave them out with --exclude; the others are done"
        raise DatasetError(what, [fault for _, fault in sorted(faults, key=lambda pair: pair[0])], remedy=remedy)


def _prepare_case(case: CaseFiles, *, job: _Job) -> None:
    """Reads, preprocesses and stores one case; runs in a worker process."""
    loaded = load_case(case, labels=job.plan.labels, geometry=job.geometry)
    source = _source(case)
    working = preprocess(loaded.case, job.plan, job.configuration)
    del loaded
    write_case(case_path(job.target, case.id), working, source=source)
