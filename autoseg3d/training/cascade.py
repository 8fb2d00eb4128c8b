"""The stage before a cascade: what it predicted for cases it had not trained on, as one-hot channels of the next stage.

A network predicts its own training cases far better than new ones, so the next stage would learn to trust it too much.
Each case therefore comes from the fold that held it out, by the very label map that was written and scored there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from pydantic import Field

from autoseg3d import files
from autoseg3d.case import Placement
from autoseg3d.errors import ReadError, UsageError
from autoseg3d.io import CaseFiles, read_volume
from autoseg3d.io.regrid import resample
from autoseg3d.preprocessing import CaseStore, WorkingCase, overlap, working_labels
from autoseg3d.run import RunFolder
from autoseg3d.training.folder import FoldFolder, fold_folder
from autoseg3d.training.options import FoldResult
from autoseg3d.training.splits import Splits
from autoseg3d.training.validation import RECORD, Predicted
from autoseg3d.workers import Progress, map_cases
from planners.contract import Contract, Triple
from planners.plan import Plan

_SHOWN = 5


@dataclass(frozen=True)
class CascadeStore:
    """Prepared cases whose images end in the one-hot labels of the stage before: what PatchSource asks of a store.

    store    the cases of this configuration
    maps     for each case the file of its labels on the working grid, (Z, Y, X) value indices, and their SHA-256
    members  value indices of each one-hot channel
    """

    store: CaseStore
    maps: Mapping[str, tuple[Path, str]]
    members: tuple[tuple[int, ...], ...]
    _table: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # One row per channel, one column per value index; the last is for -1.
        table = np.zeros((len(self.members), 2 + max(max(values) for values in self.members)), dtype=np.float32)
        for row, values in zip(table, self.members, strict=True):
            row[list(values)] = 1
        object.__setattr__(self, "_table", table)

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases there are, in the dataset's order."""
        return tuple(case for case in self.store.ids if case in self.maps)

    @property
    def content_hash(self) -> str:
        """SHA-256 over all cases and what the stage before said of them."""
        text = "\n".join(f"{case} {digest}" for case, (_, digest) in sorted(self.maps.items()))
        return hashlib.sha256(f"{self.store.content_hash}\n{text}".encode()).hexdigest()

    def shape(self, case_id: str) -> Triple:
        """(Z, Y, X) of a case."""
        return self.store.shape(case_id)

    def locations(self, case_id: str) -> dict[int, np.ndarray]:
        """Voxels (n, 3) int32 per foreground class."""
        return self.store.locations(case_id)

    def placement(self, case_id: str) -> Placement:
        """The way from a working array back to the scan's own grid."""
        return self.store.placement(case_id)

    def raw_files(self, case_id: str) -> CaseFiles:
        """The files the case was made from."""
        return self.store.raw_files(case_id)

    def working_case(self, case_id: str) -> WorkingCase:
        """The whole case in memory, without the channels of the stage before; `previous` gives those."""
        return self.store.working_case(case_id)

    def previous(self, case_id: str) -> np.ndarray:
        """What the stage before said: (Z, Y, X) int16 value indices on the working grid."""
        return _mapped(*self.maps[case_id]).astype(np.int16)

    def read(self, case_id: str, start: Triple, shape: Triple) -> tuple[np.ndarray, np.ndarray]:
        """(C + K, *shape) float32 image with K one-hot channels, and (*shape) int16 labels; see CaseStore.read."""
        image, labels = self.store.read(case_id, start, shape)
        whole = _mapped(*self.maps[case_id])
        codes = np.full(shape, -1, dtype=np.int16)
        source, target = overlap(start, shape, whole.shape)
        codes[target] = whole[source]
        return np.concatenate((image, self._table[:, codes])), labels


@lru_cache(maxsize=256)
def _mapped(path: Path, digest: str) -> np.ndarray:
    """The labels in a file, mapped into memory; `digest` tells a file that was replaced from the one before."""
    # A plain array over the map: numpy's memmap class would make every small slice many times slower.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class _Made(Contract):
    """What was brought onto the working grid: by case, from which file and placement (as one hash), and its SHA-256."""

    cases: dict[str, tuple[str, str]] = Field(default_factory=dict)


def with_previous_stage(
    run: RunFolder,
    plan: Plan,
    configuration: str,
    splits: Splits,
    store: CaseStore,
    *,
    cases: Sequence[str],
    workers: int = 1,
    progress: Progress | None = None,
) -> CascadeStore:
    """`cases` of the store with the held-out predictions of the configuration's previous stage.

    They are brought onto the working grid once and kept in RUN/folds/<configuration>/previous_stage.

    Raises UsageError (E_PREVIOUS_STAGE) naming the folds of the previous stage that are not trained, or the cases
    that no fold of it predicted.
    """
    stage = plan.configurations[configuration].previous_stage
    assert stage is not None
    sources = held_out_predictions(run, stage, splits, cases)
    folder = run.path / "folds" / configuration / "previous_stage"
    keys = {case: _key(sources[case][1], store.placement(case)) for case in cases}
    with files.lock(folder, wait_seconds=3600.0):
        made = _made(folder)
        missing = [case for case in cases if not _is_made(folder, made, case, keys[case])]
        if missing:
            jobs = [_Job(case, sources[case][0], store.placement(case), _path(folder, case)) for case in missing]
            work = partial(_bring_over, plan=plan, configuration=configuration)
            what = f"Taking over predictions of {stage}"
            digests = {missing[o.index]: o.result() for o in map_cases(work, jobs, workers=workers, what=what, progress=progress)}
            made = _Made(cases={**made.cases, **{case: (keys[case], digests[case]) for case in missing}})
            files.write_text(folder / "made.json", made.to_json())
    maps = {case: (_path(folder, case), made.cases[case][1]) for case in cases}
    return CascadeStore(store, maps, plan.labels.value_members)


def held_out_predictions(run: RunFolder, configuration: str, splits: Splits, cases: Iterable[str]) -> dict[str, tuple[Path, str]]:
    """For each case the label map that the fold which held it out wrote, and its SHA-256.

    Raises UsageError (E_PREVIOUS_STAGE) where folds are not finished, or cases were held out by none or not predicted.
    """
    found: dict[str, tuple[Path, str]] = {}
    wanted = set(cases)
    unfinished = []
    for i, fold in enumerate(splits.folds):
        if not wanted & set(fold.validation):
            continue
        predicted = _finished_predictions(fold_folder(run.path, configuration, str(i)))
        if predicted is None:
            unfinished.append(str(i))
        else:
            found |= {case: predicted[case] for case in fold.validation if case in predicted}
    command = f"autoseg3d train {run.path} --configuration {configuration} --fold all"
    if unfinished:
        raise UsageError(
            f"the next stage learns from what {configuration} predicts for cases that it was not trained on, and that is not there yet",
            code="E_PREVIOUS_STAGE",
            file=run.path / "folds" / configuration,
            wanted="all its folds trained",
            got=f"fold {', '.join(unfinished)} not finished",
            remedy=f"Run {command} --resume first, or this configuration with --fold all, which does both",
        )
    if lacking := sorted(wanted - set(found)):
        raise UsageError(
            f"{len(lacking)} cases have no prediction of {configuration}: {', '.join(lacking[:_SHOWN])}",
            code="E_PREVIOUS_STAGE",
            file=run.path / "folds" / configuration,
            wanted="every case held out by one fold, and predicted",
            remedy=f"Train the folds that hold them out anew ({command} --restart); splits.json says which",
        )
    return {case: found[case] for case in wanted}


def _finished_predictions(folder: FoldFolder) -> dict[str, tuple[Path, str]] | None:
    """The whole label maps that the final weights of a fold wrote, by case; None where the fold is not finished."""
    try:
        result = files.read_contract(folder.result_file, FoldResult)
        record = files.read_contract(folder.validation / RECORD, Predicted)
    except ReadError:
        return None
    if record.weights_sha256 != result.weights_sha256:
        return None
    paths = {case: (folder.validation / f"{case}.nii.gz", digest) for case, digest in record.files.items()}
    return {case: (path, digest) for case, (path, digest) in paths.items() if path.is_file() and files.sha256(path) == digest}


@dataclass(frozen=True)
class _Job:
    """A label map to be brought onto the working grid of its case."""

    id: str
    source: Path
    placement: Placement
    target: Path


def _bring_over(job: _Job, *, plan: Plan, configuration: str) -> str:
    """Writes the labels on the working grid and gives the SHA-256 of the file; runs in a worker process."""
    volume = read_volume(job.source, labels=True)
    native = job.placement.native
    # Only a sheared scan was worked on in another grid than its own.
    array = volume.array if volume.geometry.same_grid(native) else resample(volume.array, volume.geometry, native, order=0, fill=0)
    labels = working_labels(array, job.placement, plan, configuration)
    kind = np.int8 if labels.max(initial=0) <= np.iinfo(np.int8).max else np.int16
    with files.writing(job.target) as file:
        np.save(file, labels.astype(kind), allow_pickle=False)
    return files.sha256(job.target)


def _path(folder: Path, case: str) -> Path:
    return folder / f"{case}.npy"


def _key(source_sha256: str, placement: Placement) -> str:
    return hashlib.sha256(f"{source_sha256} {placement.content_hash()}".encode()).hexdigest()


def _made(folder: Path) -> _Made:
    try:
        return files.read_contract(folder / "made.json", _Made)
    except ReadError:
        return _Made()


def _is_made(folder: Path, made: _Made, case: str, key: str) -> bool:
    record, path = made.cases.get(case), _path(folder, case)
    return record is not None and record[0] == key and path.is_file() and files.sha256(path) == record[1]
