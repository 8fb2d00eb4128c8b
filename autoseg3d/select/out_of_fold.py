"""The out-of-fold predictions of a run: which there are, and their parts, for single configurations and for ensembles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from autoseg3d.errors import DataError, DatasetError, UsageError
from autoseg3d.evaluation.folders import on_grid_of
from autoseg3d.files import read_contract, sha256
from autoseg3d.io import GeometryChoice, read_volume
from autoseg3d.io.dataset import Dataset
from autoseg3d.io.probabilities import open_probabilities
from autoseg3d.select.choosing import Members
from autoseg3d.select.parts import CaseParts, measure_parts
from autoseg3d.training.folder import FoldFolder
from autoseg3d.training.options import FoldResult
from autoseg3d.training.splits import Splits
from autoseg3d.training.validation import RECORD, Predicted
from autoseg3d.workers import Progress, map_cases
from planners.labels import LabelTable

FEWEST_CASES = 5


@dataclass(frozen=True)
class HeldOutCase:
    """A case that networks of several configurations predicted without having seen it.

    reference    its label map
    predictions  by configuration, the label map on the scan's own grid
    """

    id: str
    fold: str
    group: str
    reference: Path
    predictions: dict[str, Path]

    def probabilities(self, configuration: str) -> Path:
        """Where this case's probabilities lie, if they were saved."""
        return self.predictions[configuration].with_name(f"{self.id}.npz")


def finished_folds(run: Path, configuration: str) -> dict[str, FoldResult]:
    """The folds of a configuration that are finished and hold cases out, by number."""
    found = {}
    for folder in sorted((run / "folds" / configuration).glob("fold_*")):
        fold, result = folder.name.removeprefix("fold_"), FoldFolder(folder).result_file
        if fold.isdecimal() and result.is_file():
            found[fold] = read_contract(result, FoldResult)
    return found


def held_out_cases(
    run: Path, dataset: Dataset, splits: Splits, configurations: Sequence[str]
) -> tuple[tuple[HeldOutCase, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The cases that all configurations predicted out of fold, the folds of each, and the ids of those left out.

    Left out are cases that some configuration could not predict, and those of folds that not all configurations have.
    Raises UsageError where a configuration has no finished fold, DatasetError where a prediction is not of the fold's own
    network, and where fewer than five cases are left.
    """
    results = {name: finished_folds(run, name) for name in configurations}
    if empty := [name for name, folds in results.items() if not folds]:
        remedy = "Train it with held-out cases, or leave it out of --configurations"
        raise UsageError("no finished fold to choose from", code="E_SELECT", file=run / "folds", got=", ".join(empty), remedy=remedy)
    records = {(name, fold): _predicted(run, name, fold, result) for name, folds in results.items() for fold, result in folds.items()}
    files = {case.id: case for case in dataset.cases}
    cases, missing = [], []
    for fold in sorted({fold for folds in results.values() for fold in folds}):
        for case in splits.fold(fold, list(files)).validation:
            paths = {name: _folder(run, name, fold) / f"{case}.nii.gz" for name in configurations}
            label = files[case].label
            if label is None or any(case not in records[name, fold].files if (name, fold) in records else True for name in configurations):
                missing.append(case)
            else:
                cases.append(HeldOutCase(case, fold, files[case].group or case, label, paths))
    _check(cases, records)
    if len(cases) < FEWEST_CASES:
        shared = ", ".join(f"{name}: folds {', '.join(folds)}" for name, folds in results.items())
        remedy = "Train more folds, the same ones of each configuration, or name fewer with --configurations"
        raise UsageError(
            "too few cases that all configurations predicted out of fold",
            code="E_SELECT",
            file=run / "folds",
            wanted=f"at least {FEWEST_CASES}",
            got=f"{len(cases)} ({shared})",
            remedy=remedy,
        )
    return tuple(cases), {name: tuple(folds) for name, folds in results.items()}, tuple(sorted(missing))


def ensembles(cases: Sequence[HeldOutCase], configurations: Sequence[str]) -> list[Members]:
    """The pairs of configurations, and all of them together, whose probabilities were saved for every case."""
    saved = [name for name in configurations if all(case.probabilities(name).is_file() for case in cases)]
    pairs: list[Members] = list(combinations(saved, 2))
    return [*pairs, tuple(saved)] if len(saved) > 2 else pairs


def measure_cases(
    cases: Sequence[HeldOutCase],
    members: Sequence[Members],
    *,
    labels: LabelTable,
    choice: GeometryChoice,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[Members, list[CaseParts]]:
    """The parts of every case for every configuration or ensemble. Raises the first fault of a file."""
    work = partial(_measure, members=tuple(members), labels=labels, choice=choice)
    measured: dict[int, list[CaseParts]] = {}
    for outcome in map_cases(work, cases, workers=workers, what="Looking at held-out cases", progress=progress):
        measured[outcome.index] = outcome.result()
    return {one: [measured[i][j] for i in range(len(cases))] for j, one in enumerate(members)}


def fuse(paths: Sequence[Path], labels: LabelTable, *, shape: tuple[int, ...]) -> np.ndarray:
    """The label map (Z, Y, X) of the mean of several probabilities, read class by class.

    Softmax: the most probable class, the first among equals; regions: painted in order where above one half.
    Raises DataError where the files do not hold the label table's classes on a grid of `shape`.
    """
    painted = np.zeros(shape, dtype=np.uint16)
    highest = np.full(shape, 0.5 if labels.has_regions else -1.0, dtype=np.float32)
    for paint, classes in zip(labels.class_paint, _class_by_class(paths, (labels.num_classes, *shape)), strict=True):
        mean = sum(classes[1:], start=classes[0]) / np.float32(len(classes))
        ahead = mean > highest
        painted[ahead] = paint
        if not labels.has_regions:
            highest[ahead] = mean[ahead]
    return painted


def _class_by_class(paths: Sequence[Path], shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each class the probabilities of all files, in the order of the classes."""
    with ExitStack() as stack:
        readers = [stack.enter_context(open_probabilities(path)) for path in paths]
        for path, reader in zip(paths, readers, strict=True):
            if reader.shape != shape:
                raise DataError(
                    "the probabilities lie on another grid", file=path, code="E_SHAPE", wanted=str(shape), got=str(reader.shape)
                )
        yield from zip(*(reader.classes() for reader in readers), strict=True)


def _measure(case: HeldOutCase, *, members: tuple[Members, ...], labels: LabelTable, choice: GeometryChoice) -> list[CaseParts]:
    reference = read_volume(case.reference, labels=True, geometry=choice)
    measured = []
    for one in members:
        path = case.predictions[one[0]]
        predicted = read_volume(path, labels=True)
        if len(one) > 1:
            fused = fuse([case.probabilities(name) for name in one], labels, shape=predicted.array.shape)
            predicted = replace(predicted, array=fused)
        array = on_grid_of(reference, predicted, case=case.id, file=path)
        measured.append(measure_parts(array, reference.array, labels=labels, voxel_ml=reference.geometry.voxel_volume_ml))
    return measured


def _folder(run: Path, configuration: str, fold: str) -> Path:
    return FoldFolder(run / "folds" / configuration / f"fold_{fold}").validation


def _predicted(run: Path, configuration: str, fold: str, result: FoldResult) -> Predicted:
    record = read_contract(_folder(run, configuration, fold) / RECORD, Predicted)
    if record.weights_sha256 != result.weights_sha256:
        remedy = "Finish the fold: autoseg3d train RUN --fold K --resume"
        text = "these held-out predictions are of other weights than the fold's"
        raise DataError(text, code="E_SELECT", file=_folder(run, configuration, fold), remedy=remedy)
    return record


def _check(cases: Sequence[HeldOutCase], records: dict[tuple[str, str], Predicted]) -> None:
    """Raises DatasetError naming every prediction that is gone or not what its fold wrote."""
    faults = []
    for case in cases:
        for name, path in case.predictions.items():
            if not path.is_file() or sha256(path) != records[name, case.fold].files[case.id]:
                faults.append(DataError("the prediction is gone, or not what training wrote", code="E_SELECT", case=case.id, file=path))
    if faults:
        remedy = "Validate the fold again: autoseg3d train RUN --fold K --resume"
        raise DatasetError(f"{len(faults)} out-of-fold predictions cannot be used", faults, remedy=remedy)
