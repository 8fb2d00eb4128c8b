"""Training, prediction, evaluation, and models as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg3d.api.planning import label_table_of
from autoseg3d.errors import UsageError
from autoseg3d.run import RunFolder

if TYPE_CHECKING:
    from autoseg3d.evaluation import Scores
    from autoseg3d.evaluation.scoring import Tolerance
    from autoseg3d.export import Exported
    from autoseg3d.prediction import CaseResult, PredictOptions
    from autoseg3d.training.cross_validation import TrainedFolds
    from autoseg3d.training.options import TrainOptions

Progress = Callable[[str, int, int], None]
Watch = Callable[[Mapping[str, Any]], None]


def train(
    run: Path,
    *,
    fold: str,
    configuration: str | None = None,
    options: TrainOptions | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> TrainedFolds:
    """Trains fold "0" … "4", "full", or "all" folds, and adds each to the model in RUN/model.

    "all" keeps folds that are finished and goes on with those that were begun, unless a restart is asked for. Where there
    are several GPUs and the device is "auto" or "cuda", each trains a fold at a time. For a cascade it trains the folds of
    the stage before first, where they are not finished. A fold that fails does not stop the others; it stands in the
    `failures` of what is returned. The scores of the held-out cases are gathered in
    RUN/folds/<configuration>/cross_validation.

    Raises UsageError for a fold or configuration that is not there, LockedError where another process trains the fold,
    InterruptedByUserError after saving when a signal asks to stop; for a single fold whatever train_fold raises.
    """
    from autoseg3d.io.dataset import open_dataset
    from autoseg3d.training import train_fold
    from autoseg3d.training.cross_validation import TrainedFolds, train_everything
    from autoseg3d.training.options import TrainOptions

    folder = RunFolder(run)
    plan, record = folder.plan(), folder.record()
    name = _configuration(configuration, tuple(plan.configurations), plan.configuration()[0])
    # A fault in a case that the plan left out is no fault of the run; a case of a fold that is gone is found by the splits.
    dataset = open_dataset(Path(record.raw), partial=True)
    options, watch = options or TrainOptions(), watch or _silent
    if fold != "all":
        result = train_fold(run, dataset, plan, configuration=name, fold=fold, options=options, watch=watch, progress=progress)
        return TrainedFolds((result,))
    options = replace(options, mode="resume") if options.mode == "fresh" else options
    return train_everything(run, dataset, plan, configuration=name, options=options, watch=watch, progress=progress)


def _configuration(wanted: str | None, there: tuple[str, ...], default: str) -> str:
    if wanted is not None and wanted not in there:
        raise UsageError("the plan has no such configuration", field="configuration", wanted=", ".join(there), got=wanted)
    return wanted or default


def _silent(event: Mapping[str, Any]) -> None:
    """Nobody watches."""


def predict(
    scans: Path, model: Path | Sequence[Path], out: Path, *, options: PredictOptions | None = None, progress: Progress | None = None
) -> tuple[CaseResult, ...]:
    """Segments the scans with the model, or the mean of several; see autoseg3d.prediction.predict_scans for what is written."""
    from autoseg3d.io.scans import find_scans
    from autoseg3d.package import open_package
    from autoseg3d.prediction import PredictOptions, predict_scans

    packages = [open_package(path) for path in ([model] if isinstance(model, Path) else model)]
    found = find_scans(scans, num_channels=len(packages[0].plan.channel_names))
    return tuple(predict_scans(found, packages, out, options or PredictOptions(), source=scans, progress=progress))


def evaluate(
    predictions: Path,
    reference: Path,
    out: Path,
    *,
    dataset: Path | None = None,
    tolerance_mm: Tolerance = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Scores label maps against a reference per case and label, and writes scores.csv and the summary into `out`."""
    from autoseg3d.evaluation import evaluate_folder
    from autoseg3d.workers import worker_count

    labels = None if dataset is None else label_table_of(dataset)
    count = worker_count(workers)
    return evaluate_folder(predictions, reference, labels=labels, tolerance_mm=tolerance_mm, out=out, workers=count, progress=progress)


def package(run: Path, out: Path, *, licence: str | None = None) -> Path:
    """Puts the trained model of a run into one file and returns its path; a licence given is noted in the run's model too."""
    from autoseg3d.package import pack, set_licence

    if out.suffix != ".a3d":
        raise UsageError("a model file ends in .a3d", field="--out", got=out, remedy=f"Try {out.with_suffix('.a3d')}")
    if licence is not None:
        set_licence(run, licence)
    pack(run, out)
    return out


def info(model: Path) -> tuple[tuple[str, str], ...]:
    """What a model segments, was trained on and scored, as pairs (what, value)."""
    from autoseg3d.package import open_package

    return open_package(model).describe()


def import_nnunet(
    source: Path, out: Path, *, checkpoint: str = "final", progress: Progress | None = None, note: Callable[[str], None] | None = None
) -> Path:
    """A trained nnU-Net v2 model (folder or zip) as a model of ours; returns its path. `note` is told what was left out."""
    from autoseg3d.import_nnunet import import_nnunet as translate

    return translate(source, out, checkpoint=checkpoint, progress=progress, note=note)


def export(model: Path, out: Path, *, format: str, configuration: str | None = None, folds: Sequence[str] | None = None) -> Exported:
    """Writes a model's network to one file for other programs, run and compared first; see autoseg3d.export.export_network."""
    from autoseg3d.export import export_network
    from autoseg3d.package import open_package

    return export_network(open_package(model), out, format=format, configuration=configuration, folds=folds)
