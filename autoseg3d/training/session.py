"""One sitting of the training of a fold: set up or taken up from a state, run to the end of the schedule, saved."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoseg3d.allocator import keeping_freed_pages
from autoseg3d.errors import ModelError, UsageError
from autoseg3d.files import write_text
from autoseg3d.patches import CaseReader, PatchSource
from autoseg3d.training import log
from autoseg3d.training.alarms import LabelFacts, label_facts, missing_labels
from autoseg3d.training.curves import Curves
from autoseg3d.training.engine import Engine
from autoseg3d.training.first_bias import first_bias, set_bias
from autoseg3d.training.folder import FoldFolder, environment_notes
from autoseg3d.training.interruption import Interruption
from autoseg3d.training.loading import Batch, Batches
from autoseg3d.training.loop import RESTART_FACTOR, DeadFoldError, Loop, Observer
from autoseg3d.training.memory import fitting_part, halved, memory_errors, out_of_memory, release
from autoseg3d.training.options import TrainOptions, Watch
from autoseg3d.training.outlook import Trial, check_disk, check_time, count_windows, describe, look_ahead, try_step
from autoseg3d.training.ranks import Ranks
from autoseg3d.training.splits import Split
from autoseg3d.training.state import Environment, Identity, Progress, State, StateRecord, save_state
from autoseg3d.training.transfer import Start, follow, freeze_encoder
from planners.epochs import epoch_length
from planners.plan import Plan, TrainingPlan

_MOST_GPU_WORKERS = 8


@dataclass
class Session:
    """Everything one sitting needs; `train` leaves `engine` and `progress` as they are at the end of the schedule.

    identity      what a saved state must belong to
    environment   what computes
    ranks         the processes that train together, this one among them
    training      the recipe, wishes put in
    start         finds the trained network to start from, where the recipe names one
    observers     who is shown every finished epoch
    """

    folder: FoldFolder
    plan: Plan
    configuration: str
    training: TrainingPlan
    split: Split
    store: CaseReader
    identity: Identity
    environment: Environment
    options: TrainOptions
    device: torch.device
    interruption: Interruption
    watch: Watch
    ranks: Ranks = field(default_factory=Ranks)
    start: Callable[[], Start] | None = None
    observers: tuple[Observer, ...] = ()
    engine: Engine = field(init=False)
    progress: Progress = field(init=False)
    _began: float = field(default=0.0, init=False)

    def train(self, state: State | None) -> None:
        """Trains from `state`, or from the start. Raises StoppedError where it was asked to stop, state saved."""
        self._check_processes()
        with self._surroundings():
            self._began = time.monotonic()
            if state is None:
                self._begin(Progress())
            else:
                self._take_up(state)
            if state is not None and state.record.phase == "trained" and state.record.training == self.training:
                return
            self.interruption.immediate = False
            try:
                self._run()
                self._save("trained", random_state(self.device))
            finally:
                self.interruption.immediate = True
            self.interruption.check()  # for a signal that came while the last state was written

    def _check_processes(self) -> None:
        samples = self.plan.configurations[self.configuration].batch_size
        if self.ranks.count > samples:
            text, remedy = "more processes than samples in a batch", f"Use --nproc-per-node {samples} or fewer"
            raise UsageError(text, field="batch_size", wanted=f"{self.ranks.count} or more", got=samples, remedy=remedy)

    def _run(self) -> None:
        """The loop, and once more from new weights with a lower learning rate where it comes to nothing."""
        while True:
            try:
                self._loop()
                return
            except DeadFoldError as error:
                p = self.progress
                if p.attempt > 1:
                    remedy = "Check the data (autoseg3d check), or plan with a lower learning rate"
                    text = f"training failed twice: {error}"
                    raise ModelError(text, file=self.folder.path, code="E_DEAD_FOLD", remedy=remedy) from error
                rate = self.training.learning_rate * RESTART_FACTOR
                self._tell("alarm", f"This fold learns nothing: {error}. It begins once more with learning rate {rate:.2g}")
                kept = {
                    "log": p.log,
                    "total_skipped": p.total_skipped,
                    "step_seconds": p.step_seconds,
                    "forecast_seconds": p.forecast_seconds,
                }
                length = {"iterations": p.iterations, "validation_iterations": p.validation_iterations}
                self._begin(Progress(attempt=2, elapsed=p.elapsed, attempt_start=p.elapsed, **kept, **length))
                self._began = time.monotonic()

    def _begin(self, progress: Progress) -> None:
        seed = self.training.seed + progress.attempt - 1
        torch.manual_seed(seed)
        self.progress = progress
        self.engine = self._new_engine(seed)
        if self.start is not None:
            self._adopt(self.start())
        elif self.training.first_bias == "frequencies":
            plain = PatchSource(self.store, self.split.train, self.plan, self.configuration, augment=False, seed=seed)
            set_bias(self.engine.network, first_bias(plain, self.plan.labels))
            follow(self.engine.average, self.engine.network)
        if not progress.iterations:
            self._measure()
        if self.ranks.leads:
            log.rewrite(self.folder.log, progress.log)
        self._save("training", random_state(self.device))

    def _adopt(self, start: Start) -> None:
        loaded = start.adopt(self.engine.network, self.plan, self.configuration)
        follow(self.engine.average, self.engine.network)
        self._tell("note", str(loaded))
        if self.ranks.leads:
            write_text(self.folder.start_file, loaded.to_json())

    def _take_up(self, state: State) -> None:
        for note in (*state.notes, *environment_notes(state.record.environment, self.environment)):
            self._tell("note", note)
        self.progress = Progress.model_validate(state.record.progress)
        if state.record.phase == "trained" and state.record.training != self.training:
            self.progress.fall_from = None  # a longer "plateau" run rises again
        self.engine = self._new_engine(self.training.seed + self.progress.attempt - 1)
        self.engine.restore(state.tensors)
        set_random_state(state.tensors, self.device)
        if self.ranks.leads:
            # Epochs after the saved state are run again, so their lines go.
            log.rewrite(self.folder.log, self.progress.log)
        done = f"{self.progress.step} steps, {describe(self.progress.elapsed)} of training"
        self._tell("note", f"Going on from the saved state: {done}")

    def _new_engine(self, seed: int) -> Engine:
        precision, ranks = self.environment.precision, self.ranks
        engine = Engine(self.plan, self.configuration, self.training, device=self.device, precision=precision, seed=seed, ranks=ranks)
        # Several processes may have another share each; a part never is more than the share.
        engine.part = min(self.progress.part or engine.part, engine.share)
        if self.device.type != "cuda":  # steps are short there, and hooks would keep the network from being compiled
            self.interruption.watch(engine.network)
        if self.training.freeze == "encoder":
            freeze_encoder(engine.network)
        return engine

    def _source(self, *, validation: bool) -> PatchSource:
        """Training patches, or plain ones of held-out cases (of the training cases where none are held out)."""
        seed = 4 * self.training.seed + 2 * (self.progress.attempt - 1) + validation
        cases = self.split.validation if validation and self.split.validation else self.split.train
        augmentation = self.options.augmentation
        return PatchSource(
            self.store,
            cases,
            self.plan,
            self.configuration,
            augment=not validation,
            seed=seed,
            augmentation=augmentation,
            share=(self.ranks.rank, self.ranks.count),
        )

    def _measure(self) -> None:
        """One trial step: whether memory suffices, how long an epoch is, and the forecast."""
        batch = self._source(validation=False).batch(0, 0)
        wanted = self.plan.in_channels(self.configuration)
        if batch[0].shape[1] != wanted:
            raise UsageError("the prepared cases have another number of channels", field="channels", wanted=wanted, got=batch[0].shape[1])
        trial = self._try(batch, self._source(validation=True).batch(0, 0))
        measured = {"step_seconds": trial.step_seconds, "validation_seconds": trial.validation_seconds}
        length = epoch_length(self.training, **measured, iterations=self.options.iterations)
        p = self.progress
        p.part = self.engine.part
        p.iterations, p.validation_iterations, p.step_seconds = length.iterations, length.validation_iterations, trial.step_seconds
        chosen = self.plan.configurations[self.configuration]
        held_out = self.split.validation if self.options.validate_cases else ()
        windows = count_windows(self.store, held_out, chosen, self.plan.mirror_axes)
        outlook = look_ahead(self.engine, self.training, trial, length, windows=windows)
        p.forecast_seconds = outlook.loop_seconds + outlook.cases_seconds
        check_disk(self.folder.path, outlook.disk_bytes)
        self.watch({"event": "forecast", **outlook.facts(), "message": outlook.sentence()})
        for alarm in missing_labels(self._facts):
            self._tell("alarm", alarm)
        if warning := check_time(self.training, outlook):
            self._tell("alarm", warning)

    @functools.cached_property
    def _facts(self) -> dict[str, LabelFacts]:
        return label_facts(self.store, self.split.train, self.plan.labels, foreground_fraction=self.training.foreground_fraction)

    def _try(self, training: Batch, validation: Batch) -> Trial:
        """The trial step, with smaller parts of the batch where memory is short; all processes agree on its times."""
        engine = self.engine
        wanted = engine.part
        engine.part = fitting_part(
            self.plan, self.configuration, self.training, samples=wanted, device=self.device, dtype=engine.lowered or torch.float32
        )
        while True:
            try:
                trial = try_step(engine, training, validation)
                break
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or engine.part == 1 or self.ranks.count > 1:
                    raise
            # Outside of the except clause, so that the tensors of the failed step are gone.
            release(engine.network)
            engine.part = halved(engine.part)
        if engine.compiled is not None and engine.compiled.fault:
            self._tell("alarm", engine.compiled.fault)
        if engine.part < wanted:
            self._tell("note", f"Memory is short: batches are worked on in parts of {engine.part}; the results stay the same")
        step, validated, exact = self.ranks.leaders(trial.step_seconds, trial.validation_seconds, trial.exact_seconds)
        return Trial(step, validated, exact, trial.memory_bytes)

    def _loop(self) -> None:
        p = self.progress
        workers = self._workers()
        on_cpu = self.device.type == "cpu"
        ahead = functools.partial(Batches, per_epoch=self.training.iterations, pinned=self.device.type == "cuda")
        with (
            ahead(self._source(validation=False), start=p.step, workers=workers) as batches,
            ahead(self._source(validation=True), start=p.validation_batch, workers=0 if on_cpu else min(workers, 1)) as validation,
        ):
            loop = Loop(
                engine=self.engine,
                training=self.training,
                progress=p,
                batches=batches,
                validation=validation,
                interruption=self.interruption,
                save=lambda generators: self._save("training", generators),
                random=lambda: random_state(self.device),
                set_random=lambda states: set_random_state(states, self.device),
                watch=self.watch,
                log_file=self.folder.log,
                curves=Curves(self.folder.curves, title=f"{self.plan.dataset_name}, {self.configuration}, fold {self.identity.fold}"),
                save_every_seconds=self.options.save_every_seconds,
                facts=self._facts,
                observers=self.observers if self.ranks.leads else (),
            )
            loop.run(began=self._began)
        if self.ranks.leads:
            loop.curves.draw(p.log)
        for observer in loop.observers:
            observer.close(p.log, self.engine)

    def _workers(self) -> int:
        """Processes that prepare batches: on a CPU a thread does, since the network needs the cores itself."""
        if self.options.workers is not None:
            return self.options.workers
        return 0 if self.device.type == "cpu" else min(_MOST_GPU_WORKERS, max(1, (os.cpu_count() or 2) - 1))

    def _save(self, phase: str, generators: dict[str, Tensor]) -> None:
        if not self.ranks.leads:
            return
        record = StateRecord.model_validate(
            {
                "phase": phase,
                "identity": self.identity,
                "environment": self.environment,
                "training": self.training,
                "progress": self.progress.model_dump(mode="json"),
            }
        )
        save_state(self.folder.state, record, self.engine.tensors() | generators)

    def _tell(self, event: str, message: str) -> None:
        self.watch({"event": event, "message": message})

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Allocator and global generators as training wants them, and as they were again after it."""
        devices = [self.device] if self.device.type == "cuda" else []
        keeping = keeping_freed_pages() if self.device.type == "cpu" else contextlib.nullcontext()
        # Patches are all of one size, so that trying cuDNN's algorithms out pays.
        tuned = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True) if devices else contextlib.nullcontext()
        with keeping, tuned, torch.random.fork_rng(devices=devices), memory_errors():
            yield


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(states["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in states:
        torch.cuda.set_rng_state(states["rng.cuda"], device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators, as tensors."""
    state = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["rng.cuda"] = torch.cuda.get_rng_state(device)
    return state
