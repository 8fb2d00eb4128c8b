"""All folds of a configuration: trained or resumed in turn or side by side, and what they held out gathered into one table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autoseg3d.devices import device_names
from autoseg3d.errors import Autoseg3dError, InterruptedByUserError, StorageError
from autoseg3d.evaluation import Failure, ScoreRow, Scores, collect_scores, read_scores, write_scores
from autoseg3d.files import write_text
from autoseg3d.io import Dataset
from autoseg3d.training.fold import train_fold
from autoseg3d.training.folder import fold_folder
from autoseg3d.training.options import FoldResult, Mode, Report, TrainOptions, Watch
from autoseg3d.training.side_by_side import FoldFailure, in_processes
from autoseg3d.training.splits import read_splits
from planners.contract import Contract
from planners.plan import Plan

FOLDER = "cross_validation"


class Spread(Contract):
    """Mean and standard deviation (of a sample; None for fewer than two values) of `n` values."""

    n: int
    mean: float
    std: float | None


class CrossValidation(Contract):
    """folds.json: Dice of each label, spread over the held-out cases of all folds, and over the folds' own means.

    folds     mean Dice of each finished fold
    missing   folds that are not finished; everything here is without their cases
    labels    per label, and under "mean" for the mean of the labels: over "cases" and over "folds"
    """

    configuration: str
    folds: dict[str, float | None]
    missing: tuple[str, ...]
    labels: dict[str, dict[str, Spread]]


@dataclass(frozen=True)
class TrainedFolds:
    """What came of training several folds; whoever trains looks at `failures` too.

    results           of the folds that are finished
    failures          folds that are not, and why
    cross_validation  over all finished folds of the configuration; None where fewer than two are
    """

    results: tuple[FoldResult, ...]
    failures: tuple[FoldFailure, ...] = ()
    cross_validation: CrossValidation | None = None

    @property
    def exit_code(self) -> int:
        """0, or that of the gravest failure: 1 for a bug of ours, then 2, 3, 4 as in autoseg3d/errors.py."""
        return min((failure.exit_code for failure in self.failures), default=0)


def train_everything(
    run: Path,
    dataset: Dataset,
    plan: Plan,
    *,
    configuration: str,
    options: TrainOptions,
    watch: Watch,
    progress: Report | None = None,
) -> TrainedFolds:
    """All folds of a configuration, and before them those of a cascade's first stage that are not finished; then gathers.

    Each GPU trains a fold at a time where `options` leave the choice of the device. Raises as `train_folds` does.
    """
    folds = [str(i) for i in range(len(read_splits(run / "splits.json").folds))]
    labels = [label.name for label in plan.labels.labels]
    train = partial(train_folds, run, dataset, plan, devices=device_names(options.device), watch=watch, progress=progress)
    stage = plan.configurations[configuration].previous_stage
    if stage is not None:
        first = [fold for fold in folds if not fold_folder(run, stage, fold).result_file.is_file()]
        # --restart is about this configuration; the stage before it is only completed.
        mode: Mode = "resume"
        _, failures = train(configuration=stage, folds=first, options=replace(options, mode=mode))
        gather(run, stage, folds, labels=labels)
        if failures:
            return TrainedFolds((), failures)
    results, failures = train(configuration=configuration, folds=folds, options=options)
    return TrainedFolds(results, failures, gather(run, configuration, folds, labels=labels))


def train_folds(
    run: Path,
    dataset: Dataset,
    plan: Plan,
    *,
    configuration: str,
    folds: Sequence[str],
    options: TrainOptions,
    devices: Sequence[str] = (),
    watch: Watch,
    progress: Report | None = None,
) -> tuple[tuple[FoldResult, ...], tuple[FoldFailure, ...]]:
    """Trains the folds, each on one of `devices` where there are several; a fold that fails does not stop the others.

    Raises InterruptedByUserError where a signal asks to stop, StorageError where the disk is full: both concern all.
    """
    train = partial(train_fold, run, dataset, plan, configuration=configuration)
    if len(devices) > 1 and len(folds) > 1:
        outcomes = in_processes(train, folds, options, devices, watch=watch, progress=progress)
    else:
        outcomes = [_attempt(partial(train, options=options, watch=watch, progress=progress), fold) for fold in folds]
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, FoldFailure))
    for failure in failures:
        watch({"event": "alarm", "message": f"Fold {failure.fold} of {configuration} failed: {failure.message}"})
    return tuple(outcome for outcome in outcomes if isinstance(outcome, FoldResult)), failures


def _attempt(train: Callable[..., FoldResult], fold: str) -> FoldResult | FoldFailure:
    try:
        return train(fold=fold)
    except (InterruptedByUserError, StorageError):
        raise
    except Autoseg3dError as error:
        return FoldFailure(fold, str(error), error.exit_code)
    except Exception as error:
        # A bug is told as one, and the other folds need not suffer from it.
        return FoldFailure(fold, f"{type(error).__name__}: {error}", 1)


def gather(run: Path, configuration: str, folds: Sequence[str], *, labels: Sequence[str]) -> CrossValidation | None:
    """Writes RUN/folds/<configuration>/cross_validation/ from the scores of all finished folds; None for fewer than two.

    The folder gets scores.csv with all held-out cases, summary.json, summary.md and scores.json as of any evaluation, and
    folds.json, a CrossValidation.
    """
    found = {fold: scores for fold in folds if (scores := _scores(run, configuration, fold)) is not None}
    if len(found) < 2:
        return None
    rows = [row for scores in found.values() for row in scores.rows]
    failures: list[Failure] = [failure for scores in found.values() for failure in scores.failures]
    summary = CrossValidation(
        configuration=configuration,
        folds={fold: _fold_mean(scores, labels) for fold, scores in found.items()},
        missing=tuple(fold for fold in folds if fold not in found),
        labels=_spreads(rows, found, labels),
    )
    folder = run / "folds" / configuration / FOLDER
    write_scores(collect_scores(rows, failures), folder)
    write_text(folder / "folds.json", summary.to_json())
    return summary


def _scores(run: Path, configuration: str, fold: str) -> Scores | None:
    folder = fold_folder(run, configuration, fold)
    return read_scores(folder.path) if folder.result_file.is_file() and (folder.path / "scores.json").is_file() else None


def _spreads(rows: Sequence[ScoreRow], folds: dict[str, Scores], labels: Sequence[str]) -> dict[str, dict[str, Spread]]:
    spreads: dict[str, dict[str, Spread]] = {}
    cases = sorted({row.case for row in rows})
    per_case = [_mean(row.dice for row in rows if row.case == case) for case in cases]
    for name in labels:
        over_cases = [row.dice for row in rows if row.label_name == name]
        spreads[name] = _both(over_cases, [_label_mean(scores.rows, name) for scores in folds.values()])
    spreads["mean"] = _both(per_case, [_fold_mean(scores, labels) for scores in folds.values()])
    return spreads


def _both(cases: Sequence[float | None], folds: Sequence[float | None]) -> dict[str, Spread]:
    named = {"cases": [v for v in cases if v is not None], "folds": [v for v in folds if v is not None]}
    return {
        over: Spread(n=len(values), mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else None)
        for over, values in named.items()
        if values
    }


def _fold_mean(scores: Scores, labels: Sequence[str]) -> float | None:
    return _mean(_label_mean(scores.rows, name) for name in labels)


def _label_mean(rows: Sequence[ScoreRow], name: str) -> float | None:
    return _mean(row.dice for row in rows if row.label_name == name)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is defined; None where nothing is."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None
