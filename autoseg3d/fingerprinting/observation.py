"""What one labelled case tells: its size, spacing and orientation, each label's place and volume, its intensities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from autoseg3d.case import Case
from autoseg3d.fingerprinting.intensities import IntensitySketch, quantiles, sketch
from autoseg3d.geometry import Geometry
from autoseg3d.ops.components import Box, count_components, value_boxes
from autoseg3d.ops.cropping import nonzero_box
from planners.contract import Contract
from planners.fingerprint import CaseFingerprint, LabelObservation
from planners.labels import LabelTable

# Counting parts of a larger box would take longer than all the rest of the case.
_LARGEST_COUNTED_BOX = 2**25
_LABEL_QUANTILES = np.array([0.05, 0.5, 0.95])


class Observation(Contract):
    """One case as seen in one pass over its files.

    intensities   per channel over the foreground inside the nonzero box; None where there is no foreground
    voxel_hash    SHA-256 of shape and intensities: equal for two copies of one scan under two names
    notes         what was repaired or assumed while reading
    """

    case: CaseFingerprint
    intensities: tuple[IntensitySketch | None, ...]
    voxel_hash: str
    notes: tuple[str, ...] = ()


def observe(case: Case, table: LabelTable, *, notes: tuple[str, ...] = ()) -> Observation:
    """Observes a case with labels. Raises ValueError where its labels hold values that the table does not know."""
    assert case.labels is not None
    indices = table.value_indices(case.labels)
    start, shape = nonzero_box(case.image)
    box = tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))
    return Observation(
        case=CaseFingerprint(
            id=case.id,
            shape=case.geometry.shape,
            shape_after_crop=shape,
            spacing_mm=case.geometry.spacing_mm,
            orientation=case.geometry.orientation,
            relative_size_after_crop=float(np.prod(shape) / np.prod(case.geometry.shape)),
            labels=_labels(case, indices, table),
        ),
        intensities=_foreground_sketches(case.image[:, *box], indices[box]),
        voxel_hash=_voxel_hash(case.image),
        notes=notes,
    )


def _foreground_sketches(image: np.ndarray, indices: np.ndarray) -> tuple[IntensitySketch | None, ...]:
    """Per channel of the cropped image the intensities where the label is above 0.

    The ignore label counts as foreground here although nothing is known about its voxels: nnU-Net counts it (against
    its own documentation), and its plans, which ours must be able to equal, rest on these numbers.
    """
    foreground = np.flatnonzero(indices.ravel() > 0)
    return tuple(sketch(channel.ravel()[foreground]) for channel in image)


def _labels(case: Case, indices: np.ndarray, table: LabelTable) -> dict[str, LabelObservation]:
    """One observation per label or region of the table, by name."""
    boxes = value_boxes(indices)
    observed = {}
    for label, members in zip(table.labels, table.class_members, strict=True):
        box = _union([boxes[i] for i in members if i in boxes])
        if box is None:
            observed[label.name] = LabelObservation(voxels=0, volume_ml=0.0)
        else:
            part = indices[box]
            mask = part == members[0] if len(members) == 1 else np.isin(part, members)
            observed[label.name] = _observe_label(case, mask, box)
    return observed


def _union(boxes: list[Box]) -> Box | None:
    if not boxes:
        return None
    z, y, x = (slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))
    return (z, y, x)


def _observe_label(case: Case, mask: np.ndarray, box: Box) -> LabelObservation:
    """One label that is present; `mask` is its voxels within `box`, the smallest box around them."""
    voxels = int(np.count_nonzero(mask))
    whole = case.geometry.shape
    return LabelObservation(
        voxels=voxels,
        volume_ml=voxels * case.geometry.voxel_volume_ml,
        centroid=_canonical_centroid(mask, box, case.geometry),
        touches_border=any(side.start == 0 or side.stop == n for side, n in zip(box, whole, strict=True)),
        components=count_components(mask) if mask.size <= _LARGEST_COUNTED_BOX else None,
        quantiles=tuple(_quantiles(channel[box][mask]) for channel in case.image),
    )


def _quantiles(values: np.ndarray) -> tuple[float, float, float]:
    low, middle, high = quantiles(values, _LABEL_QUANTILES)
    return (float(low), float(middle), float(high))


def _canonical_centroid(mask: np.ndarray, box: Box, geometry: Geometry) -> tuple[float, float, float]:
    """Centre of mass as fractions of the field of view along (S, A, R); a voxel's centre lies half a voxel inside."""
    stored = [(mean + 0.5 + side.start) / n for mean, side, n in zip(_mean_indices(mask), box, geometry.shape, strict=True)]
    axes, flips = geometry.to_canonical()
    s, a, r = (1.0 - stored[axis] if flip else stored[axis] for axis, flip in zip(axes, flips, strict=True))
    return (s, a, r)


def _mean_indices(mask: np.ndarray) -> Iterator[float]:
    for axis in range(3):
        counts = np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis))
        yield float(counts @ np.arange(len(counts)) / counts.sum())


def _voxel_hash(image: np.ndarray) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    for channel in image:
        digest.update(np.ascontiguousarray(channel).data)
    return digest.hexdigest()
