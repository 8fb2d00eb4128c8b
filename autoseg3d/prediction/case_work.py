"""The three steps of one scan: begin (read and prepare), compute (networks), finish (write and record)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from autoseg3d import files
from autoseg3d.case import Placement
from autoseg3d.io import CaseFiles, write_labels
from autoseg3d.io.load import LoadedCase
from autoseg3d.prediction.computation import Progress
from autoseg3d.prediction.deadline import Deadline, Reader
from autoseg3d.prediction.entropy import entropy_file
from autoseg3d.prediction.findings import find_labels
from autoseg3d.prediction.flags import Sample, review
from autoseg3d.prediction.fusion import Sink
from autoseg3d.prediction.members import Member
from autoseg3d.prediction.memory import MemoryForecast, forecast, keep_within, resident_bytes
from autoseg3d.prediction.options import PredictOptions
from autoseg3d.prediction.pace import choose_pace
from autoseg3d.prediction.postprocessed import postprocess, postprocessing_of
from autoseg3d.prediction.predictor import Predictor, Prepared
from autoseg3d.prediction.probabilities import probability_file
from autoseg3d.prediction.records import CaseRecord, OutputFile, grid_facts, now_utc, software_facts
from autoseg3d.prediction.running import Prediction, run_members

ENTROPY = "_entropy"


@dataclass
class Begun:
    """A scan that was read and prepared.

    loaded      without its image, which is no longer needed
    predictors  with the bounds and the pace that suit this scan
    """

    scan: CaseFiles
    key: str
    inputs: dict[str, str]
    deadline: Deadline
    loaded: LoadedCase
    sample: Sample
    prepared: tuple[Prepared, ...]
    placement: Placement
    predictors: tuple[Predictor, ...]
    forecast: MemoryForecast | None
    started_utc: str
    seconds: dict[str, float]
    reading_limit: float | None = None
    choices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class CaseWork:
    """What all scans of a batch are worked on with.

    Args:
        members: the models, and `predictors` made of them.
        options: with device resolved.
        reader: of the scans.
        out: folder of the results.
        class_order: names of the network's channels.
    """

    def __init__(
        self,
        members: Sequence[Member],
        predictors: Sequence[Predictor],
        options: PredictOptions,
        *,
        reader: Reader,
        out: Path,
        class_order: tuple[str, ...],
    ) -> None:
        self._members, self.predictors = members, tuple(predictors)
        self._options, self._out, self._class_order = options, out, class_order
        self._plan, self._fingerprint = members[0].package.plan, members[0].package.fingerprint
        self._postprocessing = postprocessing_of(members) if options.postprocess else None
        self._records = tuple(member.record() for member in members)
        self._reader = reader
        self._on_cpu = torch.device(options.device).type == "cpu"
        self.base = resident_bytes()

    def begin(self, scan: CaseFiles, *, key: str, inputs: dict[str, str], deadline: Deadline, progress: Progress | None) -> Begun:
        """Reads a scan and prepares it for every member."""
        started, clock = now_utc(), _Clock()
        loaded = self._reader.read(scan, deadline)
        sample = Sample.of(loaded.case)
        clock.lap("read")
        told, predictors = self._within_memory(loaded)
        watched = deadline.watching(progress)
        prepared = tuple(predictor.prepare(loaded.case, progress=watched) for predictor in predictors)
        _ = deadline.left
        # From here on only the working image is needed, and the scan's own may be as large.
        loaded = replace(loaded, case=replace(loaded.case, image=np.empty((0, 0, 0, 0), dtype=np.float32)))
        clock.lap("preprocess")
        return Begun(
            scan=scan,
            key=key,
            inputs=inputs,
            deadline=deadline,
            loaded=loaded,
            sample=sample,
            prepared=prepared,
            placement=prepared[0].working.placement,
            predictors=predictors,
            forecast=told,
            started_utc=started,
            seconds=clock.seconds,
            reading_limit=self._reader.seconds_for(scan) if self._options.timeout_seconds is None else None,
            choices=list(told.choices) if told else [],
            notes=list(loaded.notes),
        )

    def compute(self, begun: Begun, progress: Progress | None) -> Prediction:
        """Runs the networks; writes probabilities and entropies, which stream by, on the way."""
        clock, watched = _Clock(), begun.deadline.watching(progress)
        predictors = begun.predictors
        if self._options.seconds_per_case is not None:
            # Writing takes about as long as reading, so what is left for the networks is told by what was spent already.
            left = self._options.seconds_per_case - 2 * sum(begun.seconds.values())
            predictors, choice = choose_pace(predictors, begun.prepared, seconds=max(left, 0))
            begun.choices.append(choice)
        with self._streams(begun) as sinks:
            prediction = run_members(
                predictors,
                begun.prepared,
                on_probabilities=_each(sinks),
                spill_folder=self._out,
                apart=self._options.uncertainty,
                progress=watched,
            )
        begun.prepared = ()
        clock.lap("predict")
        begun.seconds |= clock.seconds | prediction.seconds
        return prediction

    def finish(self, begun: Begun, prediction: Prediction, *, peak: int) -> CaseRecord:
        """Looks the labels over, writes them, and commits the case by its record."""
        clock, loaded, scan = _Clock(), begun.loaded, begun.scan
        notes = (*begun.notes, *prediction.notes)
        native = loaded.case.geometry
        removed, emptied = postprocess(
            prediction.labels, self._postprocessing, table=self._plan.labels, voxel_volume_ml=native.voxel_volume_ml
        )
        findings = find_labels(prediction.labels, self._plan.labels, native, prediction.counts)
        found = review(
            prediction.labels,
            begun.sample,
            begun.placement,
            plan=self._plan,
            fingerprint=self._fingerprint,
            findings=findings,
            notes=notes,
        )
        flags = (*emptied, *found)
        names = [f"{scan.id}.nii.gz"]
        names += [name for what, name in self._names(scan.id).items() if what in self._wanted()]
        write_labels(self._out / names[0], loaded.to_native(prediction.labels), loaded.native)
        clock.lap("write")
        record = CaseRecord(
            case=scan.id,
            key=begun.key,
            status="review" if flags else "done",
            flags=flags,
            notes=notes,
            labels=self._plan.labels,
            channel_names=self._plan.channel_names,
            findings=findings,
            postprocessing=removed,
            inputs=begun.inputs,
            grid=grid_facts(loaded.native),
            models=self._records,
            options=self._options.model_dump(mode="json"),
            choices=tuple(begun.choices),
            class_order=self._class_order,
            outputs=tuple(OutputFile(name=name, sha256=files.sha256(self._out / name)) for name in names),
            precision=prediction.precision,
            device=prediction.device,
            bf16_agreement=prediction.agreement,
            software=software_facts(),
            started_utc=begun.started_utc,
            ended_utc=now_utc(),
            seconds={name: round(value, 4) for name, value in (begun.seconds | clock.seconds).items()},
            reading_limit_seconds=None if begun.reading_limit is None else round(begun.reading_limit, 1),
            forecast_bytes=begun.forecast.peak if begun.forecast else None,
            peak_bytes=peak,
        )
        files.write_text(self._out / f"{scan.id}.json", record.to_json())
        return record

    def _within_memory(self, loaded: LoadedCase) -> tuple[MemoryForecast | None, tuple[Predictor, ...]]:
        """The forecast, and the predictors with the bound of their slabs that keeps it; only a CPU's memory is forecast."""
        if not self._on_cpu:
            return None, self.predictors
        asked = {
            "base": self.base,
            "slab_limit_bytes": self._options.slab_limit_bytes,
            "apart": self._options.uncertainty,
            "full_rows": bool(self._wanted()),
        }
        limit = self._options.max_memory_bytes
        if limit is None:
            return forecast(loaded.case, self.predictors, **asked), self.predictors  # type: ignore[arg-type]
        told, bound = keep_within(limit, loaded.case, self.predictors, **asked)  # type: ignore[arg-type]
        return told, tuple(predictor.variant(slab_limit_bytes=bound) for predictor in self.predictors)

    def _wanted(self) -> list[str]:
        """What is written beside the labels."""
        chosen = {"probabilities": self._options.save_probabilities, "entropies": self._options.uncertainty}
        return [what for what, wanted in chosen.items() if wanted]

    @staticmethod
    def _names(case: str) -> dict[str, str]:
        return {"probabilities": f"{case}.npz", "entropies": f"{case}{ENTROPY}.nii.gz"}

    @contextlib.contextmanager
    def _streams(self, begun: Begun) -> Iterator[list[Sink]]:
        """Where probabilities go while they stream by; the files appear when the block ends well."""
        names, placement, native = self._names(begun.scan.id), begun.placement, begun.loaded.native
        sinks: list[Sink] = []
        with contextlib.ExitStack() as stack:
            for what in self._wanted():
                path = self._out / names[what]
                if what == "probabilities":
                    sinks.append(stack.enter_context(probability_file(path, placement, self._plan.labels, native=native)).write)
                else:
                    regions = self._plan.labels.has_regions
                    sinks.append(stack.enter_context(entropy_file(path, placement, native, regions=regions)).write)
            yield sinks


def _each(sinks: Sequence[Sink]) -> Sink | None:
    def write(row: int, part: slice, probabilities: torch.Tensor) -> None:
        for sink in sinks:
            sink(row, part, probabilities)

    return write if sinks else None


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
