"""From a case as read to the working case a network sees: turned, cropped, normalised, resized."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autoseg3d.case import Case, Placement, place, turn_for_plan
from autoseg3d.errors import DataError, LabelError
from autoseg3d.ops.cropping import Box, nonzero_box, nonzero_mask
from autoseg3d.ops.resampling import resampled_shape, resize_image, resize_labels, separate_axis
from autoseg3d.preprocessing.locations import class_locations
from autoseg3d.preprocessing.normalization import normalize
from planners.contract import Triple
from planners.labels import LabelTable
from planners.plan import Configuration, Plan


@dataclass(frozen=True)
class WorkingCase:
    """A case in network-axis order at a configuration's spacing.

    image      (C, Z, Y, X) float32
    labels     (Z, Y, X) int16 value indices, -1 outside of the nonzero mask; None where the case is to be predicted
    placement  the way back to the scan's own grid
    locations  voxels per foreground class, see `class_locations`; empty without labels
    """

    id: str
    image: np.ndarray
    labels: np.ndarray | None
    placement: Placement
    locations: dict[int, np.ndarray] = field(default_factory=dict)


def preprocess(case: Case, plan: Plan, configuration: str) -> WorkingCase:
    """The working case of `case` for one configuration of a plan, by nnU-Net's rules in its order.

    Turn, crop to the nonzero box, mark background outside of the nonzero mask by -1, normalise, resize (order 3;
    labels by order-1 scores), draw class locations. The case itself is left as it is.

    Raises DataError where the channels are not those of the plan or hold impossible intensities, LabelError where
    labels hold values that the plan's table does not know.
    """
    chosen = plan.configurations[configuration]
    _check_channels(case, plan)
    placement = place_case(case, plan, chosen)
    image = np.array(placement.crop(case.image), dtype=np.float32, order="C")
    labels = None if case.labels is None else _value_indices(placement.crop(case.labels), plan.labels, case.id)
    inside = _mark_outside(image, labels, needed=any(chosen.use_mask_for_norm))
    try:
        normalize(image, chosen, plan.intensities, inside=inside)
    except DataError as error:
        error.case = case.id
        raise
    del inside
    separate = separate_axis(placement.spacing_mm, _target_spacing(placement.spacing_mm, chosen))
    image = resize_image(image, placement.working_shape, separate=separate)
    if labels is None:
        return WorkingCase(case.id, image, None, placement)
    labels = resize_labels(labels, placement.working_shape, separate=separate)
    return WorkingCase(case.id, image, labels, placement, class_locations(labels, plan.labels))


def working_labels(label_map: np.ndarray, placement: Placement, plan: Plan, configuration: str) -> np.ndarray:
    """A label map (Z, Y, X) on the scan's own grid, brought onto a case's working grid: (Z, Y, X) int16 value indices.

    Raises ValueError for values that the plan's table does not know.
    """
    indices = np.ascontiguousarray(plan.labels.value_indices(placement.crop(label_map)))
    target = _target_spacing(placement.spacing_mm, plan.configurations[configuration])
    return resize_labels(indices, placement.working_shape, separate=separate_axis(placement.spacing_mm, target))


def _check_channels(case: Case, plan: Plan) -> None:
    if len(case.image) != len(plan.channel_names):
        raise DataError(
            "the scan's channels are not those the model was planned for",
            case=case.id,
            code="E_CHANNEL",
            wanted=", ".join(plan.channel_names),
            got=f"{len(case.image)} channels",
        )


def place_case(case: Case, plan: Plan, configuration: Configuration) -> Placement:
    """Where the working array will lie in the scan."""
    axes, flips = turn_for_plan(case.geometry, plan)
    start, shape = _turned_box(nonzero_box(case.image), case.geometry.shape, axes, flips)
    native = case.geometry.spacing_mm
    spacing = (native[axes[0]], native[axes[1]], native[axes[2]])
    working = resampled_shape(shape, spacing, _target_spacing(spacing, configuration))
    return place(case.geometry, plan, (start, shape), working)


def _turned_box(box: Box, whole: Triple, axes: Triple, flips: tuple[bool, bool, bool]) -> Box:
    """A box of the stored array as (start, shape) in the turned array."""
    start, shape = box
    turned = [whole[a] - start[a] - shape[a] if flip else start[a] for a, flip in zip(axes, flips, strict=True)]
    return (turned[0], turned[1], turned[2]), (shape[axes[0]], shape[axes[1]], shape[axes[2]])


def _target_spacing(spacing: tuple[float, float, float], configuration: Configuration) -> tuple[float, float, float]:
    """The configuration's spacing; slices of a slicewise one are never resampled across axis 0."""
    target = configuration.spacing_mm
    return (spacing[0], target[1], target[2]) if configuration.slicewise else target


def _value_indices(label_map: np.ndarray, table: LabelTable, case: str) -> np.ndarray:
    try:
        return np.ascontiguousarray(table.value_indices(label_map))
    except ValueError as error:
        raise LabelError(str(error), case=case) from error


def _mark_outside(image: np.ndarray, labels: np.ndarray | None, *, needed: bool) -> np.ndarray | None:
    """Sets background labels outside of the nonzero mask to -1 and returns where they are not -1.

    Without labels that is the mask itself; None where nobody needs it.
    """
    if labels is None:
        return nonzero_mask(image) if needed else None
    mask = nonzero_mask(image)
    if not mask.all():
        labels[~mask & (labels == 0)] = -1
        mask |= labels >= 0
    return mask
