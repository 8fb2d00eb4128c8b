"""A batch of scans: the model loaded once, one bad scan never stops the others, a rerun does only what is missing.

While the networks compute one scan, the next is read and prepared and the last is written, each in a thread of its own:
the outputs are the same bytes as one after the other. The next scan waits where memory would not suffice for both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from autoseg3d import files
from autoseg3d.allocator import keeping_freed_pages
from autoseg3d.devices import free_memory_bytes
from autoseg3d.errors import DataError, StoppedError, UsageError
from autoseg3d.io import CaseFiles
from autoseg3d.io.names import check_case_id, clashes
from autoseg3d.package import ModelPackage, open_package
from autoseg3d.prediction.backends import device_for
from autoseg3d.prediction.beside import Beside
from autoseg3d.prediction.case_work import ENTROPY, Begun, CaseWork
from autoseg3d.prediction.deadline import Deadline, Reader
from autoseg3d.prediction.members import Member, choose_members
from autoseg3d.prediction.memory import forecast_reading, forget_peak, too_little
from autoseg3d.prediction.options import PredictOptions
from autoseg3d.prediction.records import (
    RESULTS_JSON,
    CaseRecord,
    CaseResult,
    failure,
    finished,
    key_of,
    model_key,
    peak_bytes,
    write_results,
)
from autoseg3d.prediction.workload import Workload

Progress = Callable[[str, int, int], None]
Models = ModelPackage | Path | str

# Reading and preparing the next scan beside the networks takes at most about this many times what reading it takes.
_PREPARING = 2
_SPARE = 0.8
_CPU = torch.device("cpu")


def predict_scans(
    scans: Sequence[CaseFiles],
    models: Models | Sequence[Models],
    out: Path | str,
    options: PredictOptions | None = None,
    *,
    source: Path | str | None = None,
    progress: Progress | None = None,
) -> list[CaseResult]:
    """Predicts scans into OUT/<case>.nii.gz with OUT/<case>.json beside each, and results.json and results.csv.

    Args:
        scans: the scans; their `label`, where they have one, is not looked at.
        models: an open package, or where one is; of several the probabilities are averaged.
        out: folder of the results; one process at a time may write to it.
        options: the defaults where None.
        source: what the person named as input. Where it is one file, `out` may lie in a folder beside it; else `out`
            may not be, or lie inside, any folder that holds a scan.
        progress: told the scans done, their thousands of voxels (by which the time left is told), and the windows of each.

    Raises UsageError (output among the inputs, a name that cannot be written, models that cannot be averaged), ModelError,
    LockedError, and StorageError where the output cannot be written; what is finished by then stays finished.
    """
    options, out = options or PredictOptions(), Path(out)
    several = [models] if isinstance(models, ModelPackage | Path | str) else models
    packages = [model if isinstance(model, ModelPackage) else open_package(model) for model in several]
    members = choose_members(packages, options)
    _check_names(scans, options)
    _check_out(out, scans, source=Path(source) if source is not None else None)
    device = device_for(options.backend, options.device)
    resolved = options.model_copy(update={"device": str(device)})
    keeping = keeping_freed_pages() if device.type == "cpu" else contextlib.nullcontext()
    with files.storage_errors(out), files.lock(out), keeping:
        files.sweep(out)
        batch = _Batch(members, resolved, out, total=len(scans))
        try:
            batch.run(scans, progress)
        finally:
            batch.close()
    return batch.results


class _Batch:
    """A batch on its way."""

    def __init__(self, members: Sequence[Member], options: PredictOptions, out: Path, *, total: int) -> None:
        self.members, self.options, self.out, self.total = members, options, out, total
        self.results: list[CaseResult] = []
        self._models = [model_key(member.package.sha256, member.configuration, member.folds) for member in members]
        self._reader = Reader(out, options.geometry)
        self._work: CaseWork | None = None
        self._earlier: CaseRecord | None = None  # of the first scan that an earlier run finished
        self._writing: Beside[CaseResult] | None = None

    def run(self, scans: Sequence[CaseFiles], progress: Progress | None) -> None:
        """Predicts all scans; results are in their order."""
        ahead: Beside[Begun | CaseResult] | None = None
        workload = Workload(scans, progress, geometry=self.options.geometry)
        for i, scan in enumerate(scans):
            workload.begin(i)
            if ahead is None:
                forget_peak()
            begun = ahead.result() if ahead is not None else self._begin(scan, progress)
            if isinstance(begun, CaseResult):
                workload.skip(i)
            ahead = self._read_ahead(begun, scans[i + 1]) if i + 1 < len(scans) else None
            self._take(begun, workload.watching(i))
        self._written()
        workload.begin(len(scans))

    def close(self) -> None:
        """Waits for the scan that is being written and ends what was started."""
        if self._writing is not None:
            self._writing.wait()
        self._reader.close()

    def _begin(self, scan: CaseFiles, progress: Progress | None) -> Begun | CaseResult:
        """A scan made ready for the networks, or its result where it was finished before or cannot be used."""
        deadline, started = Deadline(scan.id, self.options.timeout_seconds), time.perf_counter()
        try:
            if scan.fault is not None:
                raise scan.fault
            inputs = self._reader.hashes(scan, deadline)
            key = key_of(inputs, self._models, self.options.relevant())
            if (record := finished(self.out, scan.id, key)) is not None:
                self._earlier = self._earlier or record
                return self._result(record, time.perf_counter() - started, reused=True)
        except DataError as error:
            return failure(scan, error, time.perf_counter() - started)
        work = self._loaded()
        try:
            self._check_reading(scan, work.base)
            begun = work.begin(scan, key=key, inputs=inputs, deadline=deadline, progress=progress)
        except StoppedError:
            raise
        except Exception as error:
            # Whatever went wrong with this scan, foreseen or not, is told in its result; the others go on.
            return failure(scan, error, time.perf_counter() - started)
        deadline.pause()
        return begun

    def _take(self, begun: Begun | CaseResult, progress: Progress | None) -> None:
        """Computes a scan and hands it on to be written, beside what comes next."""
        if isinstance(begun, CaseResult):
            self._written()
            self._add(begun)
            return
        started, work = time.perf_counter() - sum(begun.seconds.values()), self._loaded()
        begun.deadline.resume()
        try:
            prediction = work.compute(begun, progress)
        except StoppedError:
            raise
        except Exception as error:
            self._written()
            self._add(failure(begun.scan, error, time.perf_counter() - started))
            return
        peak = peak_bytes()
        forget_peak()
        self._written()

        def finish() -> CaseResult:
            try:
                record = work.finish(begun, prediction, peak=peak)
            except StoppedError:
                raise
            except Exception as error:
                return failure(begun.scan, error, time.perf_counter() - started)
            return self._result(record, time.perf_counter() - started, reused=False)

        self._writing = Beside(finish)

    def _written(self) -> None:
        """Waits for the scan that is being written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._add(writing.result())

    def _add(self, result: CaseResult) -> None:
        self.results.append(result)
        write_results(self.out, self.results, total=self.total)

    def _loaded(self) -> CaseWork:
        """The predictors, made when the first scan needs them; faults of the model concern the whole batch."""
        if self._work is None:
            predictors = [member.load(self.options) for member in self.members]
            for predictor in predictors:
                predictor.expect(self.total - len(self.results))
                if self._earlier is not None:
                    predictor.adopt(self._earlier.precision, self._earlier.bf16_agreement)
            order = _class_order(self.members[0].package)
            self._work = CaseWork(self.members, predictors, self.options, reader=self._reader, out=self.out, class_order=order)
        return self._work

    def _read_ahead(self, begun: Begun | CaseResult, following: CaseFiles) -> Beside[Begun | CaseResult] | None:
        """Begins with the next scan where there is memory for both; a cascade's first stage needs the networks itself."""
        if not isinstance(begun, Begun) or any(predictor.previous is not None for predictor in begun.predictors):
            return None
        needed = _PREPARING * self._reading_bytes(following)
        if needed > self._spare_bytes(begun):
            return None
        if begun.forecast is not None:
            begun.forecast = begun.forecast.model_copy(update={"beside": needed})
        return Beside(partial(self._begin, following, None))

    def _spare_bytes(self, begun: Begun) -> float:
        """Memory that the case which is about to be computed leaves."""
        limit = self.options.max_memory_bytes
        if begun.forecast is None:
            return _SPARE * free_memory_bytes(_CPU)
        if limit is not None:
            return limit - begun.forecast.peak
        return _SPARE * free_memory_bytes(_CPU) - begun.forecast.network

    def _reading_bytes(self, scan: CaseFiles) -> int:
        """What reading a scan takes by its header; nothing where that cannot be read, which is told when its turn comes."""
        shape = self._reader.shape(scan)
        return 0 if shape is None else forecast_reading(shape, len(self.members[0].package.plan.channel_names))

    def _check_reading(self, scan: CaseFiles, base: int) -> None:
        """Refuses, before it is read, a scan that does not fit into the bound by itself."""
        limit = self.options.max_memory_bytes
        if limit is not None and (needed := base + self._reading_bytes(scan)) > limit:
            raise too_little(limit, needed, scan.id)

    def _result(self, record: CaseRecord, seconds: float, *, reused: bool) -> CaseResult:
        output = self.out / record.outputs[0].name
        return CaseResult(record.case, record.status, flags=record.flags, output=output, seconds=seconds, reused=reused)


def _class_order(package: ModelPackage) -> tuple[str, ...]:
    """The names of the network's channels, as in the probabilities."""
    names = tuple(label.name for label in package.plan.labels.labels)
    return names if package.plan.labels.has_regions else ("background", *names)


def _check_names(scans: Sequence[CaseFiles], options: PredictOptions) -> None:
    """Refuses ids that two scans share on some file system, that leave the folder, or that name another file of the results."""
    faults = [fault for scan in scans if (fault := check_case_id(scan.id, file=scan.images[0])) is not None]
    faults += clashes((scan.id, scan.images[0]) for scan in scans)
    entropies = {f"{scan.id}{ENTROPY}".casefold() for scan in scans} if options.uncertainty else set()
    for scan in scans:
        if f"{scan.id}.json".casefold() == RESULTS_JSON or scan.id.casefold() in entropies:
            faults.append(DataError("another file of the results has this name", code="E_CASE_ID", case=scan.id, remedy="Rename the scan"))
    if faults:
        raise faults[0]


def _check_out(out: Path, scans: Sequence[CaseFiles], *, source: Path | None) -> None:
    """Refuses an output folder among the inputs; that it can be written, the lock in it shows."""
    target = out.resolve()
    one_file = source is not None and source.is_file()
    folders = {path.absolute().parent.resolve() for scan in scans for path in scan.images}
    if source is not None and source.is_dir():
        folders.add(source.resolve())
    for folder in sorted(folders):
        if target == folder or (target.is_relative_to(folder) and not one_file):
            raise UsageError(
                "the output folder lies among the scans: results and inputs would mix",
                code="E_OUT_IN_INPUT",
                field="out",
                wanted=f"a folder outside {folder}",
                got=out,
                remedy="Choose another folder for the results",
            )
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file, not a folder", code="E_OUT", field="out", got=out, remedy="Choose a folder")
