"""Checking a dataset and planning for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg3d import __version__, files, plugins
from autoseg3d.errors import DataError, DatasetError, UsageError
from autoseg3d.run import RunFolder, RunRecord
from planners.budget import Budget, CostFunction, NetworkCost, Planner, PlanningError
from planners.contract import Triple
from planners.edit import ComparedRow, compare, parse_change, replan
from planners.fingerprint import Fingerprint
from planners.forecast import Forecast, forecast
from planners.labels import LabelTable
from planners.plan import NetworkPlan, Plan
from planners.readable import plan_markdown
from planners.reading import read_fingerprint, read_nnunet_fingerprint

if TYPE_CHECKING:
    from autoseg3d.fingerprinting import Survey
    from autoseg3d.io.dataset import Dataset
    from autoseg3d.io.nifti_forms import GeometryChoice

Progress = Callable[[str, int, int], None]

# Planners that count instead of tracing: they need neither torch nor a look at the machine, and answer at once.
_COUNTING = frozenset({"nnunet", "resenc-m", "resenc-l", "resenc-xl"})
# A smaller budget, in bytes, is tried before the machine is measured, so that one that is too small is refused at once.
_LIKELY_ENOUGH = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class PlanWishes:
    """What a person may ask of a plan; None leaves a number to the planner or to the machine.

    planner       name of a planner, ours or an installed one
    memory_bytes  memory a training step may take; default: the preset's own, or what the device has free
    seconds       wall-clock time of training per fold to plan for
    device        device the training will run on
    changes       assignments such as "3d_fullres.patch_size=96,160,160" or "memory=24GB" (planners.edit.parse_change):
                  values that are fixed, while the rest is derived around them
    """

    planner: str = "standard"
    memory_bytes: int | None = None
    seconds: float | None = None
    device: str = "auto"
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a dataset is read.

    exclude        ids of cases to leave out
    geometry       which statement of a NIfTI header to believe where they disagree
    group_pattern  regular expression that takes a case's group (its patient) from its name; groups stay in one fold
    workers        processes; None takes one per core
    """

    exclude: frozenset[str] = frozenset()
    geometry: GeometryChoice = "auto"
    group_pattern: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Planned:
    """A plan, and what training each of its configurations will take on this machine."""

    plan: Plan
    forecasts: tuple[Forecast, ...]


@dataclass(frozen=True)
class Measured:
    """A dataset without faults: what is in its folder, its fingerprint, and cases with the same images."""

    dataset: Dataset
    fingerprint: Fingerprint
    duplicates: tuple[tuple[str, ...], ...]


def check(raw: Path, *, reading: Reading | None = None, progress: Progress | None = None) -> Survey:
    """Every fault and warning of a dataset folder, all at once. Reads each file once and writes nothing."""
    reading = reading or Reading()
    return _survey(_opened(raw, reading), reading, cache=None, progress=progress)


def measure(raw: Path, run: Path, *, reading: Reading | None = None, progress: Progress | None = None) -> Measured:
    """Checks and measures the dataset in `raw`; what was read is remembered in RUN/cache, so that nothing is read twice.

    Raises DatasetError with all faults; a run folder that was not there before is then not there after.
    """
    reading = reading or Reading()
    files.refuse_inside(run, raw)
    new, cache = not run.exists(), RunFolder(run).cache / "survey"
    dataset = _opened(raw, reading)
    found = _survey(dataset, reading, cache=cache, progress=progress)
    if found.fingerprint is None:
        if new:
            shutil.rmtree(run, ignore_errors=True)
        remedy = "Mend them, or leave cases out with --exclude CASE"
        count = f"{len(found.faults)} fault{'s' if len(found.faults) != 1 else ''}"
        raise DatasetError(f"{count} in the dataset, nothing was planned", found.faults, file=dataset.root, remedy=remedy)
    return Measured(dataset, found.fingerprint, found.duplicates)


def _opened(raw: Path, reading: Reading) -> Dataset:
    from autoseg3d.io import open_dataset

    return open_dataset(raw, partial=True, geometry=reading.geometry, group_pattern=reading.group_pattern)


def _survey(dataset: Dataset, reading: Reading, *, cache: Path | None, progress: Progress | None) -> Survey:
    from autoseg3d.fingerprinting import survey
    from autoseg3d.workers import worker_count

    return survey(
        dataset,
        workers=worker_count(reading.workers),
        cache_folder=cache,
        exclude=reading.exclude,
        geometry=reading.geometry,
        progress=progress,
    )


def plan(
    raw: Path,
    run: Path,
    *,
    wishes: PlanWishes | None = None,
    reading: Reading | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Planned:
    """Checks and measures the dataset in `raw`, plans, and writes the run folder `run`; nothing where there are faults.

    Raises DatasetError with all faults; UsageError where `run` holds a plan already (without `overwrite`), lies inside
    `raw`, or where no plan fits the wishes; LockedError where another process plans into it.
    """
    wishes, reading = wishes or PlanWishes(), reading or Reading()
    _planner(wishes)
    files.refuse_inside(run, raw)
    with _alone_in(run):
        if RunFolder(run).plan_file.exists() and not overwrite:
            raise UsageError("there is a plan here already", file=run, remedy="Choose another folder, or add --overwrite to replace it")
        return _plan(raw, RunFolder(run), wishes, reading, progress)


@contextlib.contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Keeps other processes from planning into the same folder, and takes a new one away again where nothing was planned.

    What was read of a dataset without faults stays: planning with other wishes need not read it again.
    """
    new = not run.exists()
    with files.lock(run):
        files.sweep(run)
        try:
            yield
        except (DataError, UsageError) as error:
            if new and (isinstance(error, DataError) or not RunFolder(run).cache.exists()):
                shutil.rmtree(run, ignore_errors=True)
            raise


def _plan(raw: Path, folder: RunFolder, wishes: PlanWishes, reading: Reading, progress: Progress | None) -> Planned:
    from autoseg3d.training.splits import make_splits

    measured = measure(raw, folder.path, reading=reading, progress=progress)
    ids = sorted(case.id for case in measured.fingerprint.cases)
    groups = {case.id: case.group for case in measured.dataset.cases if case.group is not None and case.id in ids}
    splits = make_splits(ids, groups=groups, duplicates=measured.duplicates, allow_fewer=True)
    planned = _planned(measured.fingerprint, wishes, folds=len(splits.folds))
    record = RunRecord(
        software_version=__version__,
        raw=str(raw.resolve()),
        excluded=tuple(sorted(reading.exclude)),
        geometry=reading.geometry,
        command={"planner": wishes.planner, "memory_bytes": wishes.memory_bytes, "seconds": wishes.seconds, "device": wishes.device},
    )
    text = plan_markdown(planned.plan, planned.forecasts)
    folder.write(record=record, fingerprint=measured.fingerprint, plan=planned.plan, splits_json=splits.to_json(), plan_text=text)
    return planned


def plan_fingerprint(fingerprint: Fingerprint, *, wishes: PlanWishes | None = None) -> Plan:
    """A plan from a fingerprint alone. Raises UsageError, naming the field, where no plan fits the wishes."""
    wishes = wishes or PlanWishes()
    return _replanned(fingerprint, wishes, looking=_planner(wishes)[0] not in _COUNTING)[0]


def plan_and_forecast(fingerprint: Fingerprint, *, wishes: PlanWishes | None = None) -> Planned:
    """The same with a forecast for this machine, as if its cases were split into five folds."""
    from autoseg3d.training.splits import FOLDS

    return _planned(fingerprint, wishes or PlanWishes(), folds=min(FOLDS, len(fingerprint.cases)))


def _planner(wishes: PlanWishes) -> tuple[str, Planner]:
    """Name and function of the planner wished for. Raises UsageError for a wish that cannot be read or an unknown name."""
    with _planning_errors():
        name = parse_change(wishes.changes, Budget()).planner or wishes.planner
    return name, plugins.find(plugins.PLANNERS, name, own={}, field="planner")


def _replanned(fingerprint: Fingerprint, wishes: PlanWishes, *, looking: bool) -> tuple[Plan, Budget]:
    """The plan under the wishes' changes, and the budget that they left; wrong wishes are told before the machine is measured."""
    planner = _planner(wishes)[1]
    with _planning_errors():
        change = parse_change(wishes.changes, _budget(wishes, looking=False))
        if looking and (change.budget.memory_bytes or _LIKELY_ENOUGH) < _LIKELY_ENOUGH:
            replan(planner, fingerprint, _cost(), change)
        if looking:
            change = parse_change(wishes.changes, _budget(wishes, looking=True))
        made = replan(planner, fingerprint, _cost(), change)
    return made.model_copy(update={"fingerprint_hash": fingerprint.content_hash()}), change.budget


def _planned(fingerprint: Fingerprint, wishes: PlanWishes, *, folds: int) -> Planned:
    from autoseg3d.sliding_window import window_starts

    made, budget = _replanned(fingerprint, wishes, looking=True)

    def windows(shape: Triple, patch: Triple) -> int:
        return len(window_starts(shape, patch))

    return Planned(made, forecast(made, fingerprint, budget, cost=_cost(), windows=windows, folds=max(1, folds)))


def what_if(fingerprint: Fingerprint, wishes: PlanWishes, changes: Iterable[str]) -> tuple[ComparedRow, ...]:
    """The plan as wished beside one more per change, as rows of a table: first column as wished, then each change."""
    variants = [wishes, *(replace(wishes, changes=(*wishes.changes, change)) for change in changes)]
    return compare([plan_fingerprint(fingerprint, wishes=variant) for variant in variants])


def read_any_fingerprint(fingerprint: Path, dataset: Path | None = None) -> Fingerprint:
    """Our fingerprint.json, or nnU-Net's dataset_fingerprint.json together with its dataset.json.

    Raises UsageError or DatasetError naming the field that is missing or wrong.
    """
    value = files.read_json(fingerprint)
    if not (isinstance(value, dict) and "spacings" in value):
        with _planning_errors(fingerprint):
            return read_fingerprint(value)
    if dataset is None:
        raise UsageError("nnU-Net's fingerprint needs its dataset.json", field="--dataset", remedy="Add --dataset dataset.json")
    labels = label_table_of(dataset)
    with _planning_errors(fingerprint):
        return read_nnunet_fingerprint(value, files.read_json(dataset), labels)


def label_table_of(dataset: Path) -> LabelTable:
    """The labels of a dataset.json. Raises DatasetError with everything that is wrong with it."""
    from autoseg3d.io.dataset_json import read_labels

    return read_labels(dataset)


@contextlib.contextmanager
def _planning_errors(file: Path | None = None) -> Iterator[None]:
    """A planner's refusal as an error for the command line: a fault of the wishes or of a file, with field and remedy."""
    try:
        yield
    except PlanningError as error:
        code = "E_PLAN" if file is None else "E_FIELD"
        raise UsageError(error.reason, code=code, file=file, field=error.field, got=error.got, remedy=error.remedy) from error


def _budget(wishes: PlanWishes, *, looking: bool) -> Budget:
    """The wishes as numbers; where `looking`, with device, free memory and measured speed of this machine."""
    if not looking:
        return Budget(memory_bytes=wishes.memory_bytes, seconds=wishes.seconds)
    from autoseg3d.cost import measure_speed
    from autoseg3d.devices import choose_device, free_memory_bytes

    device = choose_device(wishes.device)
    return Budget.model_validate(
        {
            "memory_bytes": wishes.memory_bytes,
            "free_bytes": free_memory_bytes(device),
            "device": device.type,
            "seconds": wishes.seconds,
            "speed": measure_speed(str(device)),
        }
    )


def _cost() -> CostFunction:
    """The traced cost; torch is imported at the first trace, which the counting planners never ask for."""

    def trace(network: NetworkPlan, *, patch_size: Triple, batch_size: int, in_channels: int, num_classes: int, device: str) -> NetworkCost:
        from autoseg3d.cost import trace_cost

        return trace_cost(
            network,
            patch_size=patch_size,
            batch_size=batch_size,
            in_channels=in_channels,
            num_classes=num_classes,
            device=device,
            # The recipe is chosen after the network: it is planned for the one that takes more.
            optimizer="adamw",
            averaged=True,
        )

    return trace
