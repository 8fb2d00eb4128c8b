"""Left and right: labels that are mirror images of each other, so that flips along that axis would swap their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from planners.contract import Triple
from planners.explain import Choice
from planners.fingerprint import Fingerprint, LabelObservation

RIGHT_AXIS = 2
ALL_AXES = (0, 1, 2)

_LEAST_APART = 0.08
_OFF_CENTRE = 0.25
_SAME_HEIGHT = 0.06
_SAME_VOLUME = 1.5
_AGREEING = 0.9

Pair = tuple[str, str]


@dataclass(frozen=True)
class _Seen:
    """A label over the cases that hold it: centroids as fractions of the field of view (S, A, R), volumes in mL."""

    name: str
    cases: frozenset[str]
    centroid: tuple[float, float, float]
    volume: float


def mirrored_pairs(fingerprint: Fingerprint) -> tuple[Pair, ...]:
    """Pairs of labels that lie like mirror images about the mid-plane: equal height and depth, similar volume.

    Judged by medians over the cases, then by nine in ten of the cases that hold both: the pair must keep its sides.
    Names play no part. A wrong suspicion costs a flip in augmentation; a missed pair would swap a patient's sides.
    """
    seen = sorted(_observed(fingerprint), key=lambda label: label.name)
    pairs = [(a, b) for a, b in combinations(seen, 2) if _mirrored(a, b)]
    return tuple((a.name, b.name) for a, b in pairs if _keeps_sides(fingerprint, a.name, b.name))


def _observed(fingerprint: Fingerprint) -> list[_Seen]:
    found = []
    for label in fingerprint.labels.labels:
        held = [(case.id, seen) for case in fingerprint.cases if (seen := case.labels.get(label.name)) and seen.centroid is not None]
        if held:
            centroid = np.median([_centroid(seen) for _, seen in held], axis=0)
            volume = float(np.median([seen.volume_ml for _, seen in held]))
            middle = (float(centroid[0]), float(centroid[1]), float(centroid[2]))
            found.append(_Seen(label.name, frozenset(case for case, _ in held), middle, volume))
    return found


def _centroid(seen: LabelObservation) -> tuple[float, float, float]:
    return seen.centroid or (0.5, 0.5, 0.5)


def _mirrored(a: _Seen, b: _Seen) -> bool:
    if not a.cases & b.cases or min(a.volume, b.volume) <= 0:
        return False
    apart = abs(a.centroid[2] - b.centroid[2])
    # The middle of the field of view stands for the mid-plane; it must lie in the middle half between the two.
    centred = apart >= _LEAST_APART and abs((a.centroid[2] + b.centroid[2]) / 2 - 0.5) <= _OFF_CENTRE * apart
    level = all(abs(a.centroid[axis] - b.centroid[axis]) <= _SAME_HEIGHT for axis in (0, 1))
    return centred and level and max(a.volume, b.volume) <= _SAME_VOLUME * min(a.volume, b.volume)


def _keeps_sides(fingerprint: Fingerprint, first: str, second: str) -> bool:
    """Whether the two lie on the same sides in nine of ten cases that hold both."""
    signs = []
    for case in fingerprint.cases:
        a, b = case.labels.get(first), case.labels.get(second)
        if a and b and a.centroid and b.centroid:
            signs.append(a.centroid[2] < b.centroid[2])
    return bool(signs) and max(signs.count(True), signs.count(False)) >= _AGREEING * len(signs)


def mirror_axes(fingerprint: Fingerprint, axis_order: Triple) -> Choice[tuple[int, ...]]:
    """Network axes along which flips are allowed in a canonical plan: not left-right where labels tell the sides."""
    named = fingerprint.labels.left_right_pairs()
    suspected = mirrored_pairs(fingerprint)
    if not named and not suspected:
        return Choice(ALL_AXES, "flips along every axis", "no label names a side and no two labels lie like mirror images of each other")
    why = _why(named, suspected)
    unknown = sum(case.orientation is None for case in fingerprint.cases)
    if unknown:
        reason = f"{why}, and the orientation of {unknown} of {len(fingerprint.cases)} cases is unknown, so no axis is safe to flip"
        return Choice((), "no flips: sides matter and the orientation is unknown", reason)
    sideways = axis_order.index(RIGHT_AXIS)
    reason = f"{why}; a flip along network axis {sideways} (left-right) would swap them, in training and at prediction"
    return Choice(tuple(axis for axis in ALL_AXES if axis != sideways), "no left-right flips", reason)


def side_warning(fingerprint: Fingerprint) -> str:
    """What to tell the user of a plan that flips along every axis although labels have sides; empty where none has."""
    named, suspected = fingerprint.labels.left_right_pairs(), mirrored_pairs(fingerprint)
    if not named and not suspected:
        return ""
    return (
        f"WARNING: {_why(named, suspected)}, and nnU-Net's rule flips along every axis all the same, which is known to swap sides; "
        "the planner 'standard' does not, or set mirror_axes by hand"
    )


def _why(named: Sequence[Pair], suspected: Sequence[Pair]) -> str:
    parts = []
    if named:
        parts.append(f"labels name a left and a right ({_some(named)})")
    if suspected:
        parts.append(f"labels lie like mirror images about the mid-plane ({_some(suspected)})")
    return " and ".join(parts)


def _some(pairs: Sequence[Pair]) -> str:
    said = "; ".join(f"{a} and {b}" for a, b in pairs[:3])
    return said + (f"; {len(pairs) - 3} more" if len(pairs) > 3 else "")
