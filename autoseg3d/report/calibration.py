"""Calibration of a run: of the probabilities that training saved beside its held-out predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg3d.errors import DataError
from autoseg3d.evaluation import collect_scores
from autoseg3d.evaluation.calibration import LabelCalibration, calibrate
from autoseg3d.io import GeometryChoice, read_volume
from autoseg3d.report.folds import Validated
from autoseg3d.workers import Progress, map_cases
from planners.labels import LabelTable


@dataclass(frozen=True)
class _Case:
    id: str
    prediction: Path
    reference: Path
    labels: LabelTable
    geometry: GeometryChoice

    @property
    def probabilities(self) -> Path:
        return self.prediction.with_name(f"{self.id}.npz")


def with_calibration(
    found: Validated,
    references: Mapping[str, Path],
    labels: LabelTable,
    *,
    geometry: GeometryChoice = "auto",
    workers: int = 1,
    progress: Progress | None = None,
) -> Validated:
    """The same with Brier score and calibration error in the rows of cases with CASE.npz beside their prediction.

    Cases whose probabilities are damaged or of another model keep their rows as they are.
    """
    cases = [_Case(case, path, references[case], labels, geometry) for case, path in found.predictions.items() if case in references]
    cases = [case for case in cases if case.probabilities.is_file()]
    measured: dict[str, dict[str, LabelCalibration]] = {}
    for outcome in map_cases(_calibrate, cases, workers=workers, what="Reading probabilities", progress=progress):
        if not isinstance(outcome.error, DataError):
            measured[cases[outcome.index].id] = outcome.result()
    if not measured:
        return found
    rows = []
    for row in found.scores.rows:
        own = measured.get(row.case, {}).get(row.label_name)
        rows.append(row if own is None else row.model_copy(update={"brier": own.brier, "ece": own.ece}))
    return replace(found, scores=collect_scores(rows, found.scores.failures))


def _calibrate(case: _Case) -> dict[str, LabelCalibration]:
    predicted = read_volume(case.prediction, labels=True)
    reference = read_volume(case.reference, labels=True, geometry=case.geometry)
    return calibrate(case.probabilities, predicted.array, reference.array, spacing=predicted.geometry.spacing_mm, labels=case.labels)
