"""Flags: what makes a person look at a prediction, because the scan or the result is unlike what the model was trained on.

A flag says "check this scan"; no flag does not say that a prediction is right. Ranges are those of the training cases,
widened; a fingerprint that does not know something (nnU-Net's, for instance) gives no flag about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg3d.case import Case, Placement
from autoseg3d.geometry import Geometry
from autoseg3d.prediction.findings import LabelFinding, find_labels
from planners.contract import Contract
from planners.fingerprint import Fingerprint, LabelObservation
from planners.plan import Plan

# A scan's spacing may lie this factor outside of the training range before it is flagged.
SPACING_FACTOR = 1.1
# Less than half of the smallest or more than twice the largest field of view (faults, row 21).
EXTENT_FACTOR = 2.0
VOLUME_FACTOR = 2.0
# A label that touches the border in fewer training cases than this share is flagged where it does.
USUAL_AT_BORDER = 0.1
# A label present in at least this share of training cases is missed where it is absent.
USUAL_PRESENCE = 0.95
# A label's centre may lie this share of the field of view outside of where it lay in training.
PLACE_SLACK = 0.1
# Below this mean Dice between folds a label is flagged: networks trained on the same cases see different things.
LEAST_FOLD_DICE = 0.7
_SAMPLED_VOXELS = 2 * 2**20
_FEWEST_VOXELS = 20
_NETWORK_AXES = ("first", "second", "third")
_PATIENT_AXES = ("lower to upper", "back to front", "left to right")
_LOOK = "Open the scan and the label map together and compare"
_REMEDIES = {
    "REPAIRED": "Check that the scan looks as it should; export it anew from its source if it does not",
    "SPACING": "The model has not seen such voxels: compare the outline with the scan slice by slice",
    "EXTENT": "Check that the scan shows the part of the body that the model was trained on",
    "ORIENTATION": "Check left and right, front and back; export the scan in the orientation of the training cases",
    "INTENSITY": "Check that the scan is of the modality and sequence that the model was trained on",
    "EMPTY": "Check that the scan shows what the model segments",
    "EMPTIED": "Predict it again with --no-postprocess, and look at what was removed",
    "MISSING": "Look for the label in the scan; draw it by hand if it is there",
    "VOLUME": _LOOK,
    "PLACE": "Check that the scan is not mirrored or upside down, and that it shows the usual part of the body",
    "TOUCHES_EDGE": "Part of it may lie outside of the scan: do not use its volume unchecked",
    "UNCERTAIN": "The folds of the model disagree here: check the outline of this label",
}


class Flag(Contract):
    """One reason to check a prediction: a stable code, a sentence, and what to do."""

    code: str
    reason: str

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return _REMEDIES[self.code]


@dataclass(frozen=True)
class Sample:
    """Every n-th voxel of a case's image, kept to look at intensities once the labels are known.

    image   (C, z, y, x) float32
    stride  n
    """

    image: np.ndarray
    stride: int

    @classmethod
    def of(cls, case: Case) -> Sample:
        """A sample of at most about two million voxels per channel."""
        stride = 1
        while np.prod([-(-n // stride) for n in case.image.shape[1:]]) > _SAMPLED_VOXELS:
            stride += 1
        return cls(case.image[:, ::stride, ::stride, ::stride].copy(), stride)


def review(
    labels: np.ndarray,
    sample: Sample,
    placement: Placement,
    *,
    plan: Plan,
    fingerprint: Fingerprint,
    findings: Sequence[LabelFinding] | None = None,
    notes: Sequence[str] = (),
) -> tuple[Flag, ...]:
    """All flags of a predicted case.

    Args:
        labels: (Z, Y, X) label values on the grid of the case.
        sample: of the image that was read.
        placement: of the working case.
        findings: what `find_labels` says of the labels, where that is known already.
        notes: what was repaired while reading, or went another way while predicting.
    """
    found = find_labels(labels, plan.labels, placement.native) if findings is None else findings
    return (
        *(Flag(code="REPAIRED", reason=note) for note in notes),
        *_spacing(placement, plan, fingerprint),
        *_extent(placement, plan, fingerprint),
        *_orientation(placement.native, plan, fingerprint),
        *_intensities(labels, sample, plan, fingerprint),
        *_labels(found, fingerprint),
    )


def _spacing(placement: Placement, plan: Plan, fingerprint: Fingerprint) -> Iterator[Flag]:
    seen = fingerprint.spacings(plan.orientation)[:, list(plan.axis_order)]
    for axis, value in enumerate(placement.spacing_mm):
        low, high = seen[:, axis].min(), seen[:, axis].max()
        if not low / SPACING_FACTOR <= value <= high * SPACING_FACTOR:
            yield Flag(
                code="SPACING",
                reason=f"voxels of {value:.3g} mm along the {_NETWORK_AXES[axis]} axis; trained on {low:.3g} to {high:.3g} mm",
            )


def _extent(placement: Placement, plan: Plan, fingerprint: Fingerprint) -> Iterator[Flag]:
    order = list(plan.axis_order)
    seen = (fingerprint.spacings(plan.orientation) * fingerprint.shapes(plan.orientation))[:, order]
    for axis, (size, spacing) in enumerate(zip(placement.cropped_shape, placement.spacing_mm, strict=True)):
        low, high, value = seen[:, axis].min(), seen[:, axis].max(), size * spacing
        if not low / EXTENT_FACTOR <= value <= high * EXTENT_FACTOR:
            yield Flag(
                code="EXTENT",
                reason=f"a field of view of {value:.4g} mm along the {_NETWORK_AXES[axis]} axis; trained on {low:.4g} to {high:.4g} mm",
            )


def _orientation(native: Geometry, plan: Plan, fingerprint: Fingerprint) -> Iterator[Flag]:
    """Only models that take scans as they are stored depend on it."""
    seen = {case.orientation for case in fingerprint.cases} - {None}
    if plan.orientation == "as-stored" and seen and native.orientation not in seen:
        stored = ", ".join(sorted(str(orientation) for orientation in seen))
        yield Flag(
            code="ORIENTATION", reason=f"stored as {native.orientation}; this model takes scans as stored and was trained on {stored}"
        )


def _intensities(labels: np.ndarray, sample: Sample, plan: Plan, fingerprint: Fingerprint) -> Iterator[Flag]:
    """Median intensity inside each label against the medians of the training cases, or, where those are unknown, the
    median of all foreground against the range of all training foreground. One flag per channel, for the worst label.
    """
    seen = labels[:: sample.stride, :: sample.stride, :: sample.stride]
    for channel, name in enumerate(plan.channel_names):
        image = sample.image[channel]
        worst: tuple[float, str] | None = None
        for label in plan.labels.labels:
            inside = image[np.isin(seen, label.values)]
            medians = [o.quantiles[channel][1] for o in _observations(fingerprint, label.name) if channel < len(o.quantiles)]
            if len(inside) < _FEWEST_VOXELS or not medians:
                continue
            value, low, high = float(np.median(inside)), min(medians), max(medians)
            margin = max(high - low, fingerprint.intensities[channel].std)
            excess = max(low - value, value - high) - margin
            if excess > 0 and (worst is None or excess > worst[0]):
                worst = excess, f"{name}: median {value:.4g} inside {label.name}; in training {low:.4g} to {high:.4g}"
        if worst is None and not any(case.labels for case in fingerprint.cases):
            worst = _against_range(image[seen > 0], name, channel, fingerprint)
        if worst is not None:
            yield Flag(code="INTENSITY", reason=worst[1])


def _against_range(inside: np.ndarray, name: str, channel: int, fingerprint: Fingerprint) -> tuple[float, str] | None:
    if len(inside) < _FEWEST_VOXELS:
        return None
    value, known = float(np.median(inside)), fingerprint.intensities[channel]
    if known.percentile_00_5 <= value <= known.percentile_99_5:
        return None
    return 0.0, f"{name}: median {value:.4g} inside the labels; in training {known.percentile_00_5:.4g} to {known.percentile_99_5:.4g}"


def _labels(findings: Sequence[LabelFinding], fingerprint: Fingerprint) -> Iterator[Flag]:
    if not any(found.volume_ml for found in findings):
        yield Flag(code="EMPTY", reason="nothing was found")
        return
    for found in findings:
        known = _observations(fingerprint, found.name)
        present = [o for o in known if o.voxels > 0]
        if found.volume_ml == 0:
            if known and len(present) >= USUAL_PRESENCE * len(known):
                yield Flag(code="MISSING", reason=f"{found.name} was not found; {len(present)} of {len(known)} training cases have it")
            continue
        yield from _against_training(found, present)
        if found.fold_dice is not None and found.fold_dice < LEAST_FOLD_DICE:
            yield Flag(code="UNCERTAIN", reason=f"the folds agree on {found.name} with a mean Dice of only {found.fold_dice:.2f}")


def _against_training(found: LabelFinding, present: Sequence[LabelObservation]) -> Iterator[Flag]:
    """Volume, place and edge of a label against the training cases that have it."""
    if not present:
        return
    low, high = min(o.volume_ml for o in present), max(o.volume_ml for o in present)
    if not low / VOLUME_FACTOR <= found.volume_ml <= high * VOLUME_FACTOR:
        yield Flag(code="VOLUME", reason=f"{found.name} has {found.volume_ml:.4g} mL; in training {low:.4g} to {high:.4g} mL")
    yield from _place(found, [o.centroid for o in present if o.centroid is not None])
    touching = sum(o.touches_border for o in present)
    if found.touches_edge and touching < USUAL_AT_BORDER * len(present):
        reason = f"{found.name} touches the edge of the scan; {touching} of {len(present)} training cases do"
        yield Flag(code="TOUCHES_EDGE", reason=reason)


def _place(found: LabelFinding, centroids: Sequence[tuple[float, float, float]]) -> Iterator[Flag]:
    if found.centroid is None or not centroids:
        return
    for axis, value in enumerate(found.centroid):
        low, high = min(c[axis] for c in centroids), max(c[axis] for c in centroids)
        if not low - PLACE_SLACK <= value <= high + PLACE_SLACK:
            where = f"{value:.0%} of the way from {_PATIENT_AXES[axis]}"
            yield Flag(code="PLACE", reason=f"the centre of {found.name} lies {where}; in training {low:.0%} to {high:.0%}")


def _observations(fingerprint: Fingerprint, name: str) -> list[LabelObservation]:
    return [case.labels[name] for case in fingerprint.cases if name in case.labels]
