"""evaluate_folder: predicted against reference label maps, file by file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from autoseg3d.errors import Autoseg3dError, DatasetError, GeometryError, ReadError, UsageError
from autoseg3d.evaluation.calibration import calibrate
from autoseg3d.evaluation.labels import find_label_table, table_of_values
from autoseg3d.evaluation.output import write_scores
from autoseg3d.evaluation.rows import ScoreRow
from autoseg3d.evaluation.scores import Failure, Scores, collect_scores
from autoseg3d.evaluation.scoring import Tolerance, default_tolerance_mm, score_case
from autoseg3d.geometry import turn, turn_back
from autoseg3d.io import Volume, read_geometry, read_volume
from autoseg3d.workers import map_cases
from planners.labels import LabelTable

Progress = Callable[[str, int, int], None]

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".mgz", ".mgh", ".nhdr", ".hdr")


@dataclass(frozen=True)
class _Pair:
    case: str
    prediction: Path
    reference: Path

    @property
    def probabilities(self) -> Path:
        """Where `predict --save-probabilities` puts those of the case."""
        return self.prediction.with_name(f"{self.case}.npz")


@dataclass(frozen=True)
class _Scored:
    """The rows of a case, and what could not be used."""

    rows: tuple[ScoreRow, ...]
    notes: tuple[str, ...] = ()


def evaluate_folder(
    predictions: Path | str,
    reference: Path | str,
    *,
    out: Path | str | None = None,
    labels: LabelTable | None = None,
    tolerance_mm: Tolerance = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Scores:
    """Scores every label map of `predictions` against the one of the same case in `reference`.

    Args:
        predictions, reference: folders of label maps, or one file each. Files belong together by their names without
            format ending, so `a.nii.gz` and `a.nrrd` are one case. Grids must be the same; one that is merely stored
            with its axes in another order or direction is turned.
        out: folder for scores.csv, summary.json, summary.md and scores.json; without it nothing is written.
        labels: the label table; without it that of dataset.json in or above the reference folder, else the values found.
        tolerance_mm: of NSD, one for all or by label name; where there is none, `default_tolerance_mm` of all references.
        workers: processes; 0 or 1 works in this one.
        progress: called with (what, done, total).

    Where CASE.npz lies beside a prediction (`predict --save-probabilities`), Brier score and calibration error are taken of
    it; one that does not fit is named in the notes.

    Returns Scores; cases that could not be scored stand in its failures, those that lack a file among them.
    Raises DatasetError, with all failures, where not one case could be scored, ReadError for a wrong dataset.json, and
    UsageError for a tolerance of a label that the table does not know.
    """
    pairs, errors = _pair_up(Path(predictions), Path(reference))
    labels = labels or find_label_table(reference)
    _check_names(tolerance_mm, labels)
    default = None if isinstance(tolerance_mm, float | int) else _common_tolerance(pairs)
    work = partial(_score_pair, labels=labels, tolerance_mm=tolerance_mm, default_mm=default)
    scored: dict[str, tuple[ScoreRow, ...]] = {}
    notes: list[str] = []
    for outcome in map_cases(work, pairs, workers=workers, what="evaluate", progress=progress):
        case = pairs[outcome.index].case
        if isinstance(outcome.error, Autoseg3dError):
            errors[case] = outcome.error
        else:
            scored[case] = outcome.result().rows
            notes += outcome.result().notes
    rows = _complete(scored) if labels is None else [row for own in scored.values() for row in own]
    if not rows:
        remedy = "Give a folder of predictions and a folder of reference label maps with the same file names"
        raise DatasetError("not one case could be scored", list(errors.values()), file=Path(predictions), remedy=remedy)
    scores = collect_scores(rows, [Failure(case=case, code=error.code, message=str(error)) for case, error in errors.items()], notes=notes)
    if out is not None:
        write_scores(scores, Path(out))
    return scores


def _check_names(tolerance_mm: Tolerance, labels: LabelTable | None) -> None:
    """Refuses a tolerance of a misspelt label, which would be the default without a word."""
    if not isinstance(tolerance_mm, Mapping) or labels is None:
        return
    known = [label.name for label in labels.labels]
    if unknown := sorted(set(tolerance_mm) - set(known)):
        remedy = "Correct the name"
        raise UsageError(
            "a tolerance of an unknown label", field="tolerance", wanted=", ".join(known), got=", ".join(unknown), remedy=remedy
        )


def _pair_up(predictions: Path, reference: Path) -> tuple[list[_Pair], dict[str, Autoseg3dError]]:
    """The cases in both places, and an error for each case that lacks one side."""
    if predictions.is_file() and reference.is_file():
        return [_Pair(_case(predictions), predictions, reference)], {}
    predicted, referred = _label_maps(predictions), _label_maps(reference)
    pairs = [_Pair(case, predicted[case], path) for case, path in referred.items() if case in predicted]
    errors: dict[str, Autoseg3dError] = {}
    for case, path in referred.items():
        if case not in predicted:
            errors[case] = ReadError(f"no prediction for this case in {predictions}", code="E_NO_PREDICTION", case=case, file=path)
    for case, path in predicted.items():
        if case not in referred:
            errors[case] = ReadError(f"no reference for this case in {reference}", code="E_NO_REFERENCE", case=case, file=path)
    return pairs, errors


def _label_maps(folder: Path) -> dict[str, Path]:
    """The label maps in a folder by case, sorted. Raises DatasetError where it is no folder or a case is there twice."""
    if not folder.is_dir():
        raise DatasetError("no such folder", file=folder, remedy="Check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(_ENDINGS) or not path.is_file():
            continue
        case = _case(path)
        if case in found:
            raise DatasetError(f"case {case} is there twice: {found[case].name} and {path.name}", file=folder, remedy="Remove one of them")
        found[case] = path
    return found


def _case(path: Path) -> str:
    ending = next((e for e in _ENDINGS if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)]


def _common_tolerance(pairs: Sequence[_Pair]) -> float | None:
    """One tolerance for all cases, so that their NSD can be averaged; None where no reference can be read."""
    spacings = []
    for pair in pairs:
        try:
            spacings.append(read_geometry(pair.reference).spacing_mm)
        except Autoseg3dError:
            continue  # this case will fail with the same error when it is scored
    return default_tolerance_mm(spacings) if spacings else None


def _score_pair(pair: _Pair, *, labels: LabelTable | None, tolerance_mm: Tolerance, default_mm: float | None) -> _Scored:
    reference, stored = read_volume(pair.reference, labels=True), read_volume(pair.prediction, labels=True)
    prediction = on_grid_of(reference, stored, case=pair.case, file=pair.prediction)
    known = labels is not None
    labels = labels or table_of_values(int(v) for array in (prediction, reference.array) for v in np.unique(array))
    if labels is None:
        return _Scored(())
    if default_mm is not None:
        given = tolerance_mm if tolerance_mm is not None and not isinstance(tolerance_mm, float | int) else {}
        tolerance_mm = {label.name: given.get(label.name, default_mm) for label in labels.labels}
    rows = score_case(
        prediction,
        reference.array,
        spacing=reference.geometry.spacing_mm,
        labels=labels,
        case=pair.case,
        tolerance_mm=tolerance_mm,
        voxel_volume_ml=reference.geometry.voxel_volume_ml,
    )
    if not known or not pair.probabilities.is_file():
        return _Scored(rows)
    return _with_calibration(rows, pair, stored, reference, labels)


def _with_calibration(rows: tuple[ScoreRow, ...], pair: _Pair, prediction: Volume, reference: Volume, labels: LabelTable) -> _Scored:
    """The rows with Brier score and calibration error of the probabilities, which lie on the grid of the prediction as stored."""
    truth = on_grid_of(prediction, reference, case=pair.case, file=pair.reference)
    try:
        found = calibrate(pair.probabilities, prediction.array, truth, spacing=prediction.geometry.spacing_mm, labels=labels)
    except Autoseg3dError as error:
        return _Scored(rows, (f"Probabilities not used: {error}",))
    added = [{"brier": found[row.label_name].brier, "ece": found[row.label_name].ece} if row.label_name in found else {} for row in rows]
    return _Scored(tuple(row.model_copy(update=update) for row, update in zip(rows, added, strict=True)))


def on_grid_of(reference: Volume, prediction: Volume, *, case: str, file: Path) -> np.ndarray:
    """The predicted label map in the axis order and directions of the reference. Raises GeometryError for another grid."""
    ours, theirs = prediction.geometry, reference.geometry
    if ours.same_grid(theirs):
        return prediction.array
    if ours.turned(*ours.to_canonical()).same_grid(theirs.turned(*theirs.to_canonical())):
        return turn_back(turn(prediction.array, *ours.to_canonical()), *theirs.to_canonical())
    if sorted(ours.shape) != sorted(theirs.shape):
        what, code, wanted, got = "prediction and reference differ in shape", "E_SHAPE", str(theirs.shape), str(ours.shape)
    else:
        what, code = "prediction and reference lie in different places", "E_ALIGN"
        wanted, got = (f"affine {[[round(v, 4) for v in row] for row in geometry.affine]}" for geometry in (theirs, ours))
    remedy = "Write the prediction on the grid of the scan that the reference was drawn on"
    raise GeometryError(what, code=code, case=case, file=file, wanted=wanted, got=got, remedy=remedy)


def _complete(scored: dict[str, tuple[ScoreRow, ...]]) -> list[ScoreRow]:
    """Rows by case and value where every case has only those of the values that it holds: the others are absent there."""
    found = {row.label: row for rows in scored.values() for row in rows}
    labels = table_of_values(found)
    if labels is None:
        return []
    empty = np.zeros((1, 1, 1), dtype=np.int16)
    complete = []
    for case, rows in scored.items():
        own = {row.label: row for row in rows}
        tolerances = {row.label_name: row.nsd_tolerance_mm for row in found.values()}
        absent = score_case(empty, empty, spacing=(1.0, 1.0, 1.0), labels=labels, case=case, tolerance_mm=tolerances)
        complete += [own.get(row.label, row) for row in absent]
    return complete
