"""One pass over a labelled dataset: every fault at once, warnings, and the fingerprint that planners work from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from autoseg3d.errors import Autoseg3dError, DataError, UsageError
from autoseg3d.fingerprinting.health import Finding, dataset_faults, dataset_findings, duplicates
from autoseg3d.fingerprinting.intensities import pooled
from autoseg3d.fingerprinting.journal import Journal, case_key
from autoseg3d.fingerprinting.observation import Observation, observe
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.dataset import Dataset
from autoseg3d.io.load import load_case
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.workers import Progress, map_cases
from planners.fingerprint import Fingerprint, IntensityStatistics
from planners.labels import LabelTable


@dataclass(frozen=True)
class Survey:
    """What a pass over a dataset found.

    fingerprint   None where there are faults
    faults        everything that must be mended, or left out, before planning
    warnings      everything worth a look: about the folder, then the texts of `findings`
    duplicates    groups of case ids with the same images; each group belongs into one fold
    findings      what is worth a look about the readable cases
    observations  the readable cases one by one
    """

    fingerprint: Fingerprint | None
    faults: tuple[Autoseg3dError, ...]
    warnings: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...] = ()
    findings: tuple[Finding, ...] = ()
    observations: tuple[Observation, ...] = ()


def survey(
    dataset: Dataset,
    *,
    workers: int = 1,
    cache_folder: Path | None = None,
    exclude: frozenset[str] = frozenset(),
    geometry: GeometryChoice = "auto",
    progress: Progress | None = None,
) -> Survey:
    """Reads every case once and reports on all of them.

    Args:
        dataset: an opened dataset; what is already known to be wrong with its folder is reported too.
        workers: processes that read cases.
        cache_folder: where observations are kept; cases whose files have not changed since are not read again.
        exclude: ids of cases to leave out.
        geometry: which statement of a NIfTI header to follow where they disagree.

    Raises UsageError where `exclude` names a case that is not there, StorageError where the cache cannot be written.
    Everything that is wrong with the data comes as `Survey.faults`.
    """
    cases = _chosen(dataset, exclude)
    observations, faults = _observe_all(cases, dataset.labels, workers, Journal(cache_folder), geometry, progress)
    faults = [*(fault for fault in dataset.faults if fault.case not in exclude), *faults]
    faults += dataset_faults(observations, dataset.labels)
    if not observations and not faults:
        faults.append(DataError("no case is left to look at", code="E_NO_CASES", file=dataset.root, remedy="Leave fewer cases out"))
    findings = dataset_findings(observations, dataset.labels)
    return Survey(
        fingerprint=None if faults else _fingerprint(dataset, observations, len(exclude)),
        faults=tuple(faults),
        warnings=(*dataset.warnings, *(finding.text for finding in findings)),
        duplicates=duplicates(observations),
        findings=tuple(findings),
        observations=tuple(observations),
    )


def _chosen(dataset: Dataset, exclude: frozenset[str]) -> list[CaseFiles]:
    known = {files.id for files in dataset.cases} | {fault.case for fault in dataset.faults}
    if unknown := sorted(exclude - known):
        raise UsageError(
            f"no such case to leave out: {', '.join(unknown)}",
            code="E_UNKNOWN_CASE",
            field="exclude",
            wanted=f"ids of the {len(known)} cases of the dataset",
        )
    return [files for files in dataset.cases if files.id not in exclude]


def _observe_all(
    cases: Sequence[CaseFiles],
    table: LabelTable,
    workers: int,
    journal: Journal,
    geometry: GeometryChoice,
    progress: Progress | None,
) -> tuple[list[Observation], list[Autoseg3dError]]:
    """Observations in the order of `cases`, and the faults of those that cannot be used, in that order too."""
    keys = [_key(files, table, geometry) for files in cases]
    found = {i: known for i, key in enumerate(keys) if key is not None and (known := journal.get(key)) is not None}
    missing = [i for i in range(len(cases)) if i not in found]
    faults: dict[int, Autoseg3dError] = {}
    work = partial(observe_files, table=table, geometry=geometry)
    for outcome in map_cases(work, [cases[i] for i in missing], workers=workers, what="reading cases", progress=progress):
        index = missing[outcome.index]
        if isinstance(outcome.error, Autoseg3dError):
            faults[index] = _of_case(outcome.error, cases[index].id)
            continue
        found[index] = outcome.result()
        if (key := keys[index]) is not None:
            journal.add(key, found[index])
    journal.keep_only({key for key in keys if key is not None})
    return [found[i] for i in sorted(found)], [faults[i] for i in sorted(faults)]


def _key(files: CaseFiles, table: LabelTable, geometry: GeometryChoice) -> str | None:
    """The journal's key of a case; None where a file cannot even be looked at, which reading it will explain."""
    if files.fault is not None:
        return None
    try:
        return case_key(files, table, geometry=geometry)
    except OSError:
        return None


def _of_case(error: Autoseg3dError, case: str) -> Autoseg3dError:
    if error.case is None:
        error.case = case
    return error


def observe_files(files: CaseFiles, *, table: LabelTable, geometry: GeometryChoice) -> Observation:
    """Reads one case and observes it; runs in a worker process."""
    loaded = load_case(files, labels=table, geometry=geometry)
    return observe(loaded.case, table, notes=loaded.notes)


def _fingerprint(dataset: Dataset, observations: Sequence[Observation], excluded: int) -> Fingerprint:
    cases = tuple(seen.case for seen in observations)
    return Fingerprint(
        dataset_name=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        num_training=max(1, dataset.num_training - excluded),
        cases=cases,
        intensities=tuple(_intensities(observations, channel) for channel in range(len(dataset.channel_names))),
        median_relative_size_after_crop=float(np.median([case.relative_size_after_crop for case in cases])),
    )


def _intensities(observations: Sequence[Observation], channel: int) -> IntensityStatistics:
    return pooled([sketch for seen in observations if (sketch := seen.intensities[channel]) is not None])
