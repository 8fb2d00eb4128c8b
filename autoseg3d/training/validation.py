"""Whole-case validation: the held-out cases predicted as a user would, written as label maps and scored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from torch import Tensor

from autoseg3d.case import Placement
from autoseg3d.errors import Autoseg3dError, DataError
from autoseg3d.evaluation import Failure, ScoreRow, Scores, collect_scores, default_tolerance_mm, score_case
from autoseg3d.files import read_contract, sha256, write_text
from autoseg3d.geometry import Geometry
from autoseg3d.io import CaseFiles, GeometryChoice, read_geometry, read_volume, write_labels
from autoseg3d.io.regrid import resample
from autoseg3d.prediction.probabilities import probability_file
from autoseg3d.training.options import Report
from planners.contract import Contract
from planners.labels import LabelTable

RECORD = "predicted.json"


@dataclass(frozen=True)
class HeldOut:
    """A held-out case.

    files    its raw files
    choice   which statement of a NIfTI header to follow
    predict  gives label values (Z, Y, X) and the grid they are on
    probabilities   file that `predict` writes them to, None where they are not wanted
    """

    files: CaseFiles
    choice: GeometryChoice
    predict: Callable[[], tuple[np.ndarray, Geometry]]
    probabilities: Path | None = None

    @property
    def id(self) -> str:
        """The case's name."""
        return self.files.id

    def complete(self) -> bool:
        """Whether nothing is missing beside the label map."""
        return self.probabilities is None or self.probabilities.is_file()

    def grid(self) -> Geometry:
        """The scan's own grid."""
        return read_geometry(self.files.images[0], geometry=self.choice)

    def predicted(self) -> tuple[np.ndarray, Geometry]:
        """Label values on the scan's own grid, and that grid; only for a sheared scan is it another than predicted on."""
        labels, geometry = self.predict()
        native = self.grid()
        return (labels if native == geometry else resample(labels, geometry, native, order=0, fill=0)), native


Cases = Sequence[HeldOut]


class Predicted(Contract):
    """Which weights wrote the label maps of a validation folder, and the SHA-256 of each finished file."""

    weights_sha256: str
    files: dict[str, str] = Field(default_factory=dict)


def predict_cases(cases: Cases, folder: Path, *, weights_sha256: str, progress: Report | None = None) -> tuple[Failure, ...]:
    """Writes folder/<case>.nii.gz for every case; those that these weights wrote before are kept where still whole.

    One case that cannot be predicted does not stop the others; it is returned as a failure.
    """
    done = _already_predicted(folder, weights_sha256)
    failures = []
    for i, case in enumerate(cases):
        if progress is not None:
            progress("Validating whole cases", i, len(cases))
        path = folder / f"{case.id}.nii.gz"
        if case.id in done.files and case.complete() and path.is_file() and sha256(path) == done.files[case.id]:
            continue
        try:
            write_labels(path, *case.predicted())
        except DataError as error:
            failures.append(_failure(case.id, error))
            continue
        done = done.model_copy(update={"files": {**done.files, case.id: sha256(path)}})
        write_text(folder / RECORD, done.to_json())
    if progress is not None:
        progress("Validating whole cases", len(cases), len(cases))
    return tuple(failures)


@contextlib.contextmanager
def saved(
    path: Path | None, placement: Placement, labels: LabelTable, *, native: Geometry
) -> Iterator[Callable[[int, slice, Tensor], None] | None]:
    """Where the probabilities of a case go while they stream by; None for no path. `path` appears, on `native`, at a good end."""
    if path is None:
        yield None
        return
    with probability_file(path, placement, labels, native=native) as probabilities:
        yield probabilities.write


def score_cases(cases: Cases, folder: Path, *, labels: LabelTable, failed: tuple[Failure, ...] = ()) -> Scores:
    """Scores the label maps that `predict_cases` wrote, all with one tolerance for surface distances."""
    tolerance = default_tolerance_mm([case.grid().spacing_mm for case in cases])
    rows: list[ScoreRow] = []
    failures = list(failed)
    for case in cases:
        if any(failure.case == case.id for failure in failed):
            continue
        try:
            rows += _score(case, folder, labels, tolerance)
        except Autoseg3dError as error:
            failures.append(_failure(case.id, error))
    return collect_scores(rows, failures)


def _score(case: HeldOut, folder: Path, labels: LabelTable, tolerance: float) -> tuple[ScoreRow, ...]:
    if case.files.label is None:
        raise DataError("a held-out case without a label map", case=case.id, code="E_MISSING")
    predicted = read_volume(folder / f"{case.id}.nii.gz", labels=True)
    reference = read_volume(case.files.label, labels=True, geometry=case.choice)
    grid = predicted.geometry
    return score_case(
        predicted.array,
        reference.array,
        spacing=grid.spacing_mm,
        labels=labels,
        case=case.id,
        tolerance_mm=tolerance,
        voxel_volume_ml=grid.voxel_volume_ml,
    )


def mean_dice(scores: Scores, labels: LabelTable) -> tuple[dict[str, float | None], float | None]:
    """Mean Dice per label over the cases where it is defined, and the mean over labels; None where nothing is defined."""
    found: dict[str, float | None] = {}
    for label in labels.labels:
        values = [row.dice for row in scores.rows if row.label_name == label.name and row.dice is not None]
        found[label.name] = sum(values) / len(values) if values else None
    defined = [value for value in found.values() if value is not None]
    return found, sum(defined) / len(defined) if defined else None


def _already_predicted(folder: Path, weights_sha256: str) -> Predicted:
    try:
        record = read_contract(folder / RECORD, Predicted)
    except Autoseg3dError:
        return Predicted(weights_sha256=weights_sha256)
    return record if record.weights_sha256 == weights_sha256 else Predicted(weights_sha256=weights_sha256)


def _failure(case: str, error: Autoseg3dError) -> Failure:
    return Failure(case=case, code=error.code, message=str(error))
