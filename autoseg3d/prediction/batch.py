"""A batch of scans: the model loaded once, one bad scan never stops the others, a rerun does only what is missing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from autoseg3d import files
from autoseg3d.allocator import keeping_freed_pages
from autoseg3d.case import Placement
from autoseg3d.devices import choose_device
from autoseg3d.errors import DataError, StoppedError, UsageError
from autoseg3d.io import CaseFiles, GeometryChoice, load_case, write_labels
from autoseg3d.io.names import check_case_id, clashes
from autoseg3d.package import ModelPackage, open_package
from autoseg3d.prediction.flags import Sample, review
from autoseg3d.prediction.precision import Precision
from autoseg3d.prediction.predictor import SLAB_LIMIT_BYTES, Predictor, choose_configuration, choose_folds, missing_folds
from autoseg3d.prediction.probabilities import ProbabilityMap, probability_file
from autoseg3d.prediction.records import (
    RESULTS_JSON,
    CaseRecord,
    CaseResult,
    ModelRecord,
    OutputFile,
    failure,
    finished,
    grid_facts,
    hash_inputs,
    key_of,
    now_utc,
    peak_bytes,
    software_facts,
    write_results,
)
from planners.contract import Contract

Progress = Callable[[str, int, int], None]


class PredictOptions(Contract):
    """What a person may choose about a prediction.

    configuration       the default one where None
    folds               all that are trained where None
    slab_limit_bytes    bound of the slab of logits held at a time
    """

    configuration: str | None = None
    folds: tuple[str, ...] | None = None
    mirror: bool = True
    step: float = Field(default=0.5, gt=0, le=1)
    precision: Precision = "auto"
    device: str = "auto"
    save_probabilities: bool = False
    geometry: GeometryChoice = "auto"
    slab_limit_bytes: int = Field(default=SLAB_LIMIT_BYTES, ge=1)


def predict_scans(
    scans: Sequence[CaseFiles],
    package: ModelPackage | Path | str,
    out: Path | str,
    options: PredictOptions | None = None,
    *,
    source: Path | str | None = None,
    progress: Progress | None = None,
) -> list[CaseResult]:
    """Predicts scans into OUT/<case>.nii.gz with OUT/<case>.json beside each, and results.json and results.csv.

    Args:
        scans: the scans; their `label`, where they have one, is not looked at.
        package: an open package, or where one is.
        out: folder of the results; one process at a time may write to it.
        options: the defaults where None.
        source: what the person named as input. Where it is one file, `out` may lie in a folder beside it; else `out`
            may not be, or lie inside, any folder that holds a scan.
        progress: told the scans done, and the windows of each.

    Raises UsageError (output among the inputs, a name that cannot be written), ModelError, LockedError, and
    StorageError where the output cannot be written; what is finished by then stays finished.
    """
    options, out = options or PredictOptions(), Path(out)
    package = package if isinstance(package, ModelPackage) else open_package(package)
    name = choose_configuration(package, options.configuration)
    folds = choose_folds(package, name, options.folds)
    _check_names(scans)
    _check_out(out, scans, source=Path(source) if source is not None else None)
    device = choose_device(options.device)
    resolved = options.model_copy(update={"configuration": name, "folds": folds, "device": str(device)})
    keeping = keeping_freed_pages() if device.type == "cpu" else contextlib.nullcontext()
    with files.storage_errors(out), files.lock(out), keeping:
        for left in out.glob(".tmp-*"):  # of a run that was killed; nobody else writes here while the lock is held
            left.unlink()
        batch = _Batch(package, resolved, out)
        results: list[CaseResult] = []
        for i, scan in enumerate(scans):
            if progress is not None:
                progress("scans", i, len(scans))
            results.append(batch.case(scan, progress))
            write_results(out, results, total=len(scans))
    if progress is not None:
        progress("scans", len(scans), len(scans))
    return results


class _Batch:
    """What the scans of a batch share."""

    def __init__(self, package: ModelPackage, options: PredictOptions, out: Path) -> None:
        self.package, self.options, self.out = package, options, out
        self._predictor: Predictor | None = None
        self._record = _model_record(package, options)
        # The bound of the slab changes how a case is computed, not what comes out.
        self._relevant = options.model_dump(mode="json", exclude={"slab_limit_bytes"})

    def case(self, scan: CaseFiles, progress: Progress | None) -> CaseResult:
        """Predicts one scan, or finds it finished; every fault of the scan becomes a result."""
        begun = time.perf_counter()
        try:
            if scan.fault is not None:
                raise scan.fault
            inputs = hash_inputs(scan)
            key = key_of(inputs, self.package.sha256, self._relevant)
            if (record := finished(self.out, scan.id, key)) is not None:
                return self._result(record, time.perf_counter() - begun, reused=True)
        except DataError as error:
            return failure(scan.id, error, time.perf_counter() - begun)
        predictor = self._loaded()
        try:
            record = self._predict(scan, inputs, key, predictor, progress)
        except StoppedError:
            raise
        except Exception as error:
            # Whatever went wrong with this scan, foreseen or not, is told in its result; the others go on.
            return failure(scan.id, error, time.perf_counter() - begun)
        return self._result(record, time.perf_counter() - begun, reused=False)

    def _loaded(self) -> Predictor:
        """The predictor, made when the first scan needs it; faults of the model concern the whole batch."""
        if self._predictor is None:
            chosen = self.options
            self._predictor = Predictor.from_package(
                self.package,
                chosen.configuration,
                chosen.folds,
                device=chosen.device,
                precision=chosen.precision,
                mirror=chosen.mirror,
                step=chosen.step,
                slab_limit_bytes=chosen.slab_limit_bytes,
            )
        return self._predictor

    def _predict(self, scan: CaseFiles, inputs: dict[str, str], key: str, predictor: Predictor, progress: Progress | None) -> CaseRecord:
        started, clock = now_utc(), _Clock()
        loaded = load_case(scan, labels=None, geometry=self.options.geometry)
        sample, straight = Sample.of(loaded.case), loaded.native is loaded.case.geometry
        clock.lap("read")
        prepared = predictor.prepare(loaded.case, progress=progress)
        # From here on only the working image is needed, and the scan's own may be as large.
        loaded = replace(loaded, case=replace(loaded.case, image=np.empty((0, 0, 0, 0), dtype=np.float32)))
        placement = prepared.working.placement
        clock.lap("preprocess")
        with self._probabilities(scan.id, placement, wanted=self.options.save_probabilities and straight) as probabilities:
            prediction = predictor.run(prepared, on_logits=probabilities.write if probabilities else None, progress=progress)
        clock.lap("predict")
        notes = (*loaded.notes, *prediction.notes)
        if self.options.save_probabilities and not straight:
            notes = (*notes, "probabilities are not written for a scan with a sheared grid")
        flags = review(prediction.labels, sample, placement, plan=self.package.plan, fingerprint=self.package.fingerprint, notes=notes)
        names = [f"{scan.id}.nii.gz", *([f"{scan.id}.npz"] if probabilities else [])]
        write_labels(self.out / names[0], loaded.to_native(prediction.labels), loaded.native)
        clock.lap("write")
        record = CaseRecord(
            case=scan.id,
            key=key,
            status="review" if flags else "done",
            flags=flags,
            notes=notes,
            inputs=inputs,
            grid=grid_facts(loaded.native),
            model=self._record,
            options=self.options.model_dump(mode="json"),
            class_order=_class_order(self.package),
            outputs=tuple(OutputFile(name=name, sha256=files.sha256(self.out / name)) for name in names),
            precision=prediction.precision,
            device=prediction.device,
            bf16_agreement=prediction.agreement,
            software=software_facts(),
            started_utc=started,
            ended_utc=now_utc(),
            seconds={name: round(value, 4) for name, value in (clock.seconds | prediction.seconds).items()},
            peak_bytes=peak_bytes(),
        )
        files.write_text(self.out / f"{scan.id}.json", record.to_json())
        return record

    @contextlib.contextmanager
    def _probabilities(self, case: str, placement: Placement, *, wanted: bool) -> Iterator[ProbabilityMap | None]:
        if not wanted:
            yield None
            return
        with probability_file(self.out / f"{case}.npz", placement, self.package.plan.labels) as probabilities:
            yield probabilities

    def _result(self, record: CaseRecord, seconds: float, *, reused: bool) -> CaseResult:
        output = self.out / record.outputs[0].name
        return CaseResult(record.case, record.status, flags=record.flags, output=output, seconds=seconds, reused=reused)


class _Clock:
    """Wall-clock time of the steps of a case."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Books the time since the last call under `name`."""
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _model_record(package: ModelPackage, options: PredictOptions) -> ModelRecord:
    assert options.configuration is not None
    assert options.folds is not None
    weights = [package.fold(options.configuration, fold).file for fold in options.folds]
    return ModelRecord(
        sha256=package.sha256,
        dataset_name=package.plan.dataset_name,
        plan=package.plan.content_hash(),
        fingerprint=package.fingerprint.content_hash(),
        configuration=options.configuration,
        folds=options.folds,
        missing_folds=missing_folds(package, options.configuration, options.folds),
        weights={name: package.manifest.files[name].sha256 for name in weights},
    )


def _class_order(package: ModelPackage) -> tuple[str, ...]:
    """The names of the network's channels, as in the probabilities."""
    names = tuple(label.name for label in package.plan.labels.labels)
    return names if package.plan.labels.has_regions else ("background", *names)


def _check_names(scans: Sequence[CaseFiles]) -> None:
    """Refuses ids that two scans share on some file system, that leave the folder, or that name the table of results."""
    faults = [fault for scan in scans if (fault := check_case_id(scan.id, file=scan.images[0])) is not None]
    faults += clashes((scan.id, scan.images[0]) for scan in scans)
    for scan in scans:
        if f"{scan.id}.json".casefold() == RESULTS_JSON:
            faults.append(DataError("the results of the batch have this name", code="E_CASE_ID", case=scan.id, remedy="Rename the scan"))
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
