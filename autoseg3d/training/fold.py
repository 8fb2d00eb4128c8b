"""train_fold: one fold from prepared cases to validated weights in the model package."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

import autoseg3d
from autoseg3d.devices import choose_device, training_precision
from autoseg3d.errors import UsageError
from autoseg3d.evaluation import Scores, write_scores
from autoseg3d.files import in_use, lock, read_contract, sweep
from autoseg3d.geometry import Geometry
from autoseg3d.io import Dataset, GeometryChoice, read_geometry
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from autoseg3d.prediction import Predictor, run_members
from autoseg3d.prediction.predictor import Prepared
from autoseg3d.preprocessing import CaseStore, cache_key, prepare
from autoseg3d.run import RunFolder
from autoseg3d.sliding_window import OneHot
from autoseg3d.training.cascade import CascadeStore, held_out_predictions, with_previous_stage
from autoseg3d.training.event_files import EventFiles
from autoseg3d.training.examples import Examples
from autoseg3d.training.folder import FoldFolder, check_identity, continued_recipe, fold_folder
from autoseg3d.training.interruption import Interruption
from autoseg3d.training.loop import Observer
from autoseg3d.training.options import Chosen, FoldResult, Precision, Report, TrainOptions, Watch, recipe
from autoseg3d.training.outlook import describe
from autoseg3d.training.ranks import Ranks, join, local_device
from autoseg3d.training.session import Session
from autoseg3d.training.splits import Split, Splits, read_splits
from autoseg3d.training.state import Environment, Identity, Progress, State, forget_older
from autoseg3d.training.transfer import Loaded, Start, find_start, found_again
from autoseg3d.training.validation import HeldOut, mean_dice, predict_cases, saved, score_cases
from autoseg3d.workers import worker_count
from planners.plan import Plan, TrainingPlan

Store = CaseStore | CascadeStore

# Where the smoothed training loss ended this far above its best, and by this share of all it had fallen, it went astray.
_ASTRAY, _SMOOTHING = 0.1, 0.9
_NOT_IN_MANIFEST = {"configuration", "fold", "weights_sha256", "training", "forecast_seconds", "real_seconds"}
_PRECISIONS = ("fp32", "fp16", "bf16")
# Held-out cases on which bfloat16 is compared with float32.
_SELF_TESTS = 5


def train_fold(
    run: Path,
    dataset: Dataset,
    plan: Plan,
    *,
    configuration: str,
    fold: str,
    options: TrainOptions | None = None,
    watch: Watch | None = None,
    progress: Report | None = None,
) -> FoldResult:
    """Trains one fold, validates its held-out cases and adds the weights to RUN/model.

    Args:
        run: folder of the run, with plan.json, fingerprint.json and splits.json.
        dataset: the raw cases.
        plan: the plan of the run.
        configuration: a configuration of the plan.
        fold: "0" … or "full" for one model on all cases.
        options: wishes; see TrainOptions.
        watch: called with events, each a dict with "event": "start", "forecast", "step", "epoch", "note", "alarm", "done"; all
            but "step" and "epoch" have a "message" for people, "epoch" is a line of log.jsonl.
        progress: called with (what, done, total) while cases are prepared and validated.

    Raises:
        UsageError: unknown fold or configuration; training has begun and neither resume nor restart was asked for; the
            plan or the data changed since the saved state.
        LockedError: another process trains this fold.
        StoppedError: another of the processes that train together has ended.
        InterruptedByUserError: a signal came; the state is saved.
        StorageError, StoppedError: disk or memory ran out; the last saved state is whole.
        ModelError: every saved state is broken; training diverged twice.
    """
    ranks = join()
    options, watch = options or TrainOptions(), (watch if ranks.leads else None) or _nobody
    if configuration not in plan.configurations:
        raise UsageError("the plan has no such configuration", wanted=", ".join(plan.configurations), got=configuration)
    splits = read_splits(run / "splits.json")
    split = splits.fold(fold, [case.id for case in dataset.cases])
    folder = fold_folder(run, configuration, fold)
    start = None
    if options.start_from is not None:
        start = find_start(options.start_from, configuration=configuration, fold=fold, dataset_name=plan.dataset_name)
    start_from = None if start is None else start.weights_sha256
    with lock(folder.path) if ranks.leads else contextlib.nullcontext(), Interruption() as interruption:
        if ranks.leads:
            sweep(folder.path, folder.validation, folder.pictures)  # the state's folder is swept whenever a state is saved
        result, state = ranks.leader_first(lambda: _entered(folder, options, start_from, split))
        if result is not None:
            if ranks.leads:
                forget_older(folder.state)  # left where the very last call of the run before failed
            watch({"event": "done", "message": f"Fold {fold} of {configuration} is finished already"})
            return result
        if state is None:
            training = recipe(plan.training, options, start_from=start_from)
        else:
            training = continued_recipe(state.record.training, options, start_from=start_from)
        fitting = _Fitting(
            RunFolder(run), dataset, plan, configuration, fold, splits, split, options, folder, watch, progress, ranks, start
        )
        return fitting.train(training, state, interruption)


def _entered(folder: FoldFolder, options: TrainOptions, start_from: str | None, split: Split) -> tuple[FoldResult | None, State | None]:
    """The result of a fold that is finished, with all that is asked for, else the state to go on from, if any."""
    result = folder.finished(options, start_from=start_from)
    if options.validation_probabilities and not all(folder.probabilities(case).is_file() for case in split.validation):
        result = None
    return result, None if result is not None else folder.enter(options)


@dataclass(frozen=True)
class _Fitting:
    """What one call of train_fold works with."""

    run: RunFolder
    dataset: Dataset
    plan: Plan
    configuration: str
    fold: str
    splits: Splits
    split: Split
    options: TrainOptions
    folder: FoldFolder
    watch: Watch
    progress: Report | None
    ranks: Ranks
    start: Start | None

    def train(self, training: TrainingPlan, state: State | None, interruption: Interruption) -> FoldResult:
        """Prepares, trains, validates, packages; with threads and precision of the saved state, so that results stay the same."""
        device = choose_device(local_device(self.options.device, self.ranks))
        before = None if state is None else state.record.environment
        threads = self.options.threads or (torch.get_num_threads() if before is None else before.threads)
        with _threads(threads), in_use(self.run.cache / cache_key(self.plan, self.configuration, geometry=self._geometry_choice())):
            return self._train(training, state, interruption, self._environment(device, threads, before), device)

    def _train(
        self, training: TrainingPlan, state: State | None, interruption: Interruption, environment: Environment, device: torch.device
    ) -> FoldResult:
        store = self.ranks.leader_first(self._prepare)
        identity = self._identity(store)
        if state is not None:
            check_identity(state.record.identity, identity, self.folder.path)
        if self.ranks.leads:
            self.folder.result_file.unlink(missing_ok=True)
        session = Session(
            folder=self.folder,
            plan=self.plan,
            configuration=self.configuration,
            training=training,
            split=self.split,
            store=store,
            identity=identity,
            environment=environment,
            options=self.options,
            device=device,
            interruption=interruption,
            watch=self.watch,
            ranks=self.ranks,
            start=None if training.start_from is None else functools.partial(self._start, training.start_from),
            observers=self._observers(store, state) if self.ranks.leads else (),
        )
        self._announce(session)
        session.train(state)
        chosen = choose_weights(session.progress, training)
        if self.ranks.leads:
            result = self._finish(session, chosen, session.engine.weights(chosen), store)
        self.ranks.wait()
        return result if self.ranks.leads else read_contract(self.folder.result_file, FoldResult)

    def _start(self, weights_sha256: str) -> Start:
        """The network to start from, found again where its path is only known from the session before."""
        start = self.start or found_again(self.folder.start_file, weights_sha256, configuration=self.configuration, fold=self.fold)
        if warning := start.leak(self.plan, self.split.validation, self.fold):
            self.watch({"event": "alarm", "message": warning})
        return start

    def _observers(self, store: Store, state: State | None) -> tuple[Observer, ...]:
        """Who watches: example pictures, and event files where asked for."""
        found: list[Observer] = []
        if self.options.pictures:
            case = (self.split.validation or self.split.train)[0]
            found.append(Examples(self.folder.pictures, store, case, self.plan, self.configuration))
        if self.options.tensorboard:
            found.append(EventFiles(self.folder.tensorboard, state.record.progress["log"] if state is not None else []))
        return tuple(found)

    def _prepare(self) -> Store:
        """All usable cases, so that every fold finds the same ones prepared; a cascade's with the stage before it."""
        stage, wanted = self.plan.configurations[self.configuration].previous_stage, self.split.train + self.split.validation
        if stage is not None:
            held_out_predictions(self.run, stage, self.splits, wanted)  # said before hours of preparing
        workers = worker_count(self.options.workers)
        store = prepare(
            self.dataset,
            self.plan,
            self.configuration,
            self.run.cache,
            case_ids=self.splits.cases,
            workers=workers,
            geometry=self._geometry_choice(),
            progress=self.progress if self.ranks.leads else None,
        )
        if stage is None:
            return store
        place = (self.run, self.plan, self.configuration, self.splits, store)
        return with_previous_stage(*place, cases=wanted, workers=workers, progress=self.progress)

    def _geometry_choice(self) -> GeometryChoice:
        return cast(GeometryChoice, self.run.record().geometry)

    def _finish(self, session: Session, chosen: Chosen, weights: dict[str, Tensor], store: Store) -> FoldResult:
        p, digest, began = session.progress, _weights_digest(weights), time.monotonic()
        scores, agreement = self._validate(session, weights, digest, store)
        dice, mean = mean_dice(scores, self.plan.labels) if scores is not None else ({}, None)
        cases = len(scores.cases) if scores is not None else 0
        result = FoldResult(
            configuration=self.configuration,
            fold=self.fold,
            chosen=chosen,
            dice=dice,
            mean_dice=mean,
            cases=cases,
            steps=p.step,
            epochs=p.epoch,
            seconds=round(p.elapsed, 3),
            skipped=p.total_skipped,
            attempts=p.attempt,
            training=session.training,
            weights_sha256=digest,
            started_from=read_contract(self.folder.start_file, Loaded).source if session.training.start_from else None,
            forecast_seconds=round(p.forecast_seconds, 3),
            real_seconds=round(p.elapsed + time.monotonic() - began, 3),
        )
        self._package(result, weights, agreement)
        self.folder.finish(result)
        forget_older(self.folder.state)
        reached = "" if mean is None else f", mean Dice {mean:.4f} over {cases} held-out cases"
        took = f"It took {describe(result.real_seconds or 0)}; the forecast was {describe(p.forecast_seconds)}"
        self.watch({"event": "done", "message": f"Fold {self.fold} of {self.configuration} is done{reached}. {took}"})
        return result

    def _package(self, result: FoldResult, weights: dict[str, Tensor], agreement: float | None) -> None:
        create_package(self.run.model, self.plan, self.run.fingerprint())
        scores = result.model_dump(mode="json", exclude=_NOT_IN_MANIFEST)
        if agreement is not None:
            scores["bf16_agreement"] = agreement
        add_fold(self.run.model, configuration=self.configuration, fold=self.fold, weights=weights, scores=scores)

    def _validate(self, session: Session, weights: dict[str, Tensor], digest: str, store: Store) -> tuple[Scores | None, float | None]:
        """Scores of the held-out cases, and the share of foreground on which bfloat16 agreed with float32."""
        if not self.split.validation or not self.options.validate_cases:
            return None, None
        chosen = self.plan.configurations[self.configuration]
        network = build(chosen.network, self.plan.in_channels(self.configuration), self.plan.labels.num_classes)
        network.load_state_dict(weights)
        # The stage before has spoken for these cases already, so the predictor need not have it.
        alone = self.plan.model_copy(update={"configurations": {self.configuration: chosen.model_copy(update={"previous_stage": None})}})
        predictor = Predictor(
            alone, self.configuration, [network.eval()], device=session.device, precision=_inference(self.options.precision)
        )
        predictor.expect(len(self.split.validation))
        agreements: list[float] = []
        cases = [self._held_out(case, predictor, store, agreements) for case in self.split.validation]
        failed = predict_cases(cases, self.folder.validation, weights_sha256=digest, progress=self.progress)
        scores = score_cases(cases, self.folder.validation, labels=self.plan.labels, failed=failed)
        write_scores(scores, self.folder.path)
        for failure in scores.failures:
            self.watch({"event": "alarm", "message": f"Held-out case {failure.case} could not be scored: {failure.message}"})
        return scores, statistics.fmean(agreements) if agreements else None

    def _held_out(self, case_id: str, predictor: Predictor, store: Store, agreements: list[float]) -> HeldOut:
        def predict() -> tuple[np.ndarray, Geometry]:
            prepared = self._prepared(case_id, store)
            if predictor.precision == "auto" and len(agreements) < _SELF_TESTS:
                agreement = predictor.self_test(prepared)
                agreements.extend([] if agreement is None else [agreement])
            native = read_geometry(files.images[0], geometry=choice)
            with saved(probabilities, store.placement(case_id), self.plan.labels, native=native) as sink:
                predicted = run_members([predictor], [prepared], on_probabilities=sink)
            return predicted.labels, store.placement(case_id).native

        files, choice = store.raw_files(case_id), self._geometry_choice()
        probabilities = self.folder.probabilities(case_id) if self.options.validation_probabilities else None
        return HeldOut(files=files, choice=choice, predict=predict, probabilities=probabilities)

    def _prepared(self, case_id: str, store: Store) -> Prepared:
        working = store.working_case(case_id)
        if isinstance(store, CaseStore):
            return Prepared(working)
        return Prepared(working, OneHot(torch.from_numpy(store.previous(case_id)), self.plan.labels.value_members))

    def _identity(self, store: Store) -> Identity:
        return Identity(
            configuration=self.configuration,
            fold=self.fold,
            plan_hash=self.plan.content_hash(),
            data_hash=store.content_hash,
            split_hash=self.split.content_hash(),
        )

    def _environment(self, device: torch.device, threads: int, before: Environment | None) -> Environment:
        name = str(device) if device.type == "cpu" else torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return Environment(
            version=autoseg3d.__version__,
            torch=torch.__version__,
            device=name,
            precision=self._precision(device, before if before is not None and before.device == name else None),
            threads=threads,
            augmentation=self.options.augmentation,
            processes=self.ranks.count,
        )

    def _precision(self, device: torch.device, before: Environment | None) -> str:
        """The precision asked for, that of the session before on the same device, or what is fast: one for all processes."""
        if self.options.precision != "auto":
            return self.options.precision
        if before is not None:
            return before.precision
        return _PRECISIONS[int(self.ranks.leaders(_PRECISIONS.index(training_precision(device)))[0])]

    def _announce(self, session: Session) -> None:
        environment = session.environment
        held_out = f"{len(self.split.validation)} held out" if self.split.validation else "none held out"
        message = (
            f"Training fold {self.fold} of {self.configuration}: {len(self.split.train)} cases, {held_out}; "
            f"{environment.device} in {environment.precision}, {environment.threads} threads"
            + (f", {environment.processes} processes" if environment.processes > 1 else "")
        )
        self.watch({"event": "start", "fold": self.fold, "configuration": self.configuration, "message": message})


def choose_weights(progress: Progress, training: TrainingPlan) -> Chosen:
    """Which weights are packaged: the last ones, averaged where the recipe averages, for they follow the whole schedule.

    Only where the training loss, smoothed over epochs, ended well above its best did the run go astray; then the weights with
    the best pseudo-Dice are taken. Held-out cases have no say in whether that is so, or their scores would flatter.
    """
    losses = [record["loss"] for record in progress.log if record["attempt"] == progress.attempt and record["loss"] is not None]
    smooth = losses[:1]
    for loss in losses[1:]:
        smooth.append(_SMOOTHING * smooth[-1] + (1 - _SMOOTHING) * loss)
    if smooth and smooth[-1] > min(smooth) + _ASTRAY * max(1.0, smooth[0] - min(smooth)) and progress.best_ema is not None:
        return "best"
    return "averaged" if training.ema_decay > 0 else "final"


def _inference(precision: Precision) -> Literal["auto", "fp32", "bf16"]:
    """The precision of prediction: float16 is for the gradients of older GPUs, its forward pass alone gains nothing there."""
    return "auto" if precision == "fp16" else precision


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Lets torch use this many threads for the length of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights_digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _nobody(event: dict[str, Any]) -> None:
    """Watches nothing."""
