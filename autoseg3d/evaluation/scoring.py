"""score_case: every measure of one predicted label map against its reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from autoseg3d import metrics
from autoseg3d.errors import LabelError
from autoseg3d.evaluation.rows import ScoreRow
from planners.labels import Label, LabelTable

Spacing = tuple[float, float, float]
Tolerance = float | Mapping[str, float] | None


def default_tolerance_mm(spacings: Sequence[Spacing]) -> float:
    """The tolerance of NSD where none is given: the edge of a cube as large as a voxel, median over cases, two digits.

    An outline cannot be drawn more exactly than to about a voxel, so a distance below that is no error.
    """
    edges = [math.prod(spacing) ** (1 / 3) for spacing in spacings]
    return float(f"{np.median(edges):.2g}")


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    spacing: Spacing,
    labels: LabelTable,
    case: str = "",
    tolerance_mm: Tolerance = None,
    voxel_volume_ml: float | None = None,
) -> tuple[ScoreRow, ...]:
    """One ScoreRow per label or region, in the table's order, absent ones too.

    Args:
        prediction, reference: label maps of values (Z, Y, X), integers, on one grid.
        spacing: mm (z, y, x).
        labels: what the values mean. Voxels that the reference marks as ignore are left out of the prediction.
        case: name for the rows and for errors.
        tolerance_mm: of NSD, one for all or by label name; without it (or for names not in it) `default_tolerance_mm`
            of this case, so give one where several cases are to be averaged.
        voxel_volume_ml: for sheared grids, where it is not the product of the spacings.

    Raises LabelError for values that the table does not know, and ValueError for unlike shapes.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(f"label maps must be (Z, Y, X) of one shape, got {prediction.shape} and {reference.shape}")
    boxes = []
    for name, label_map, allowed in (("prediction", prediction, {0, *labels.values}), ("reference", reference, set(labels.allowed_values))):
        boxes.append(metrics.label_boxes(label_map))
        _check_values(boxes[-1].keys(), label_map, allowed=allowed, case=case, which=name)
    if voxel_volume_ml is None:
        voxel_volume_ml = math.prod(spacing) / 1000
    rows = []
    for label in labels.labels:
        box = metrics.merge_boxes(found[value] for found in boxes for value in label.values if value in found)
        crop = (slice(0, 0),) * 3 if box is None else metrics.grow_box(box, reference.shape)
        masks = _masks(prediction[crop], reference[crop], label, labels.ignore)
        rows.append(_row(masks, label, case, spacing, voxel_volume_ml, _tolerance(tolerance_mm, label, spacing)))
    return tuple(rows)


def _check_values(found: Iterable[int], label_map: np.ndarray, *, allowed: set[int], case: str, which: str) -> None:
    wrong = sorted(set(found) - allowed)
    if label_map.size and (lowest := int(label_map.min())) < 0:
        wrong.insert(0, lowest)
    if wrong:
        raise LabelError(
            f"the {which} holds label values that the label table does not know",
            code="E_LABEL_VALUE",
            case=case or None,
            wanted=sorted(allowed),
            got=wrong,
            remedy="Correct the label map, or the labels in dataset.json",
        )


def _masks(prediction: np.ndarray, reference: np.ndarray, label: Label, ignore: int | None) -> tuple[np.ndarray, np.ndarray]:
    predicted, referred = _member(prediction, label.values), _member(reference, label.values)
    if ignore is not None:
        predicted &= reference != ignore
    return predicted, referred


def _member(label_map: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    mask: np.ndarray = label_map == values[0]
    for value in values[1:]:
        mask |= label_map == value
    return mask


def _tolerance(given: Tolerance, label: Label, spacing: Spacing) -> float:
    if isinstance(given, Mapping):
        given = given.get(label.name)
    return default_tolerance_mm([spacing]) if given is None else given


def _row(
    masks: tuple[np.ndarray, np.ndarray], label: Label, case: str, spacing: Spacing, voxel_volume_ml: float, tolerance_mm: float
) -> ScoreRow:
    counts = metrics.count_overlap(*masks)
    distances = metrics.surface_distances(*masks, spacing_mm=spacing)
    lesions = metrics.match_lesions(*masks)
    return ScoreRow(
        case=case,
        label=label.paint,
        label_name=label.name,
        dice=_finite(metrics.dice(counts)),
        iou=_finite(metrics.iou(counts)),
        nsd=_finite(metrics.nsd(distances, tolerance_mm)),
        hd95_mm=_finite(metrics.hd95(distances)),
        assd_mm=_finite(metrics.assd(distances)),
        volume_reference_ml=counts.reference * voxel_volume_ml,
        volume_prediction_ml=counts.prediction * voxel_volume_ml,
        volume_difference_ml=metrics.volume_difference_ml(counts, voxel_volume_ml=voxel_volume_ml),
        sensitivity=_finite(metrics.sensitivity(counts)),
        precision=_finite(metrics.precision(counts)),
        tp=counts.tp,
        fp=counts.fp,
        fn=counts.fn,
        volume_difference_percent=_finite(metrics.volume_difference_percent(counts)),
        nsd_tolerance_mm=tolerance_mm,
        lesions_reference=lesions.reference,
        lesions_prediction=lesions.prediction,
        lesions_matched=lesions.matched,
        lesion_f1=_finite(lesions.f1),
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
