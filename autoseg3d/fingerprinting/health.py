"""What is suspicious in a dataset as a whole: faults that stop planning, and warnings for a person to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoseg3d.errors import Autoseg3dError, LabelError
from autoseg3d.fingerprinting.observation import Observation
from planners.fingerprint import LabelObservation
from planners.labels import LabelTable

Kind = Literal[
    "copies", "number", "rare label", "empty label map", "orientation", "label volume", "label place", "intensity", "channels", "reading"
]
FEW = 5
# Outliers are told only where there are enough cases to know what is usual, and only far outside of it: 1.4826 × the
# median absolute deviation estimates a standard deviation.
_ENOUGH = 8
_DEVIATIONS = 6.0
_LEAST_VOLUME_RATIO = 3.0
_LEAST_DISPLACEMENT = 0.25
_ODD_SHARE = 0.05


def dataset_faults(observations: Sequence[Observation], table: LabelTable) -> list[Autoseg3dError]:
    """Faults of the readable cases together: nothing labelled at all, or declared labels that never occur."""
    if observations and not any(_is_labelled(seen) and seen.intensities[0] is not None for seen in observations):
        what = f"none of the {len(observations)} label maps holds a labelled voxel where its image is not all zero"
        return [LabelError(what, code="E_NO_FOREGROUND", remedy="Check that the right label files were exported")]
    faults: list[Autoseg3dError] = []
    for label in table.labels:
        if observations and not any(seen.case.labels[label.name].voxels for seen in observations):
            faults.append(
                LabelError(
                    f"the label occurs in none of the {len(observations)} readable cases",
                    code="E_CLASS_ABSENT",
                    field=label.name,
                    wanted=f"values {list(label.values)}",
                    remedy="Remove it from the dataset's table of labels, or add cases that show it",
                )
            )
    return faults


def _is_labelled(seen: Observation) -> bool:
    return any(label.voxels for label in seen.case.labels.values())


def duplicates(observations: Iterable[Observation]) -> tuple[tuple[str, ...], ...]:
    """Groups of case ids whose images are the same voxel by voxel."""
    groups = defaultdict(list)
    for seen in observations:
        groups[seen.voxel_hash].append(seen.case.id)
    return tuple(tuple(ids) for ids in groups.values() if len(ids) > 1)


@dataclass(frozen=True)
class Finding:
    """Something worth a look that does not stop planning: a sentence, what it is about, and the cases it names."""

    kind: Kind
    text: str
    cases: tuple[str, ...] = ()


def dataset_findings(observations: Sequence[Observation], table: LabelTable) -> list[Finding]:
    """Everything worth a look, most serious first."""
    found = [
        Finding(
            "copies",
            f"cases {', '.join(ids)} hold the same images: they will be kept in one fold; remove the copies if they are no repeats",
            ids,
        )
        for ids in duplicates(observations)
    ]
    if 0 < len(observations) < FEW:
        count = f"{len(observations)} readable case{'s' if len(observations) > 1 else ''}"
        text = f"only {count}: five folds need at least {FEW}, and a model of so few will not generalise"
        found.append(Finding("number", text))
    found += _rare_labels(observations, table) + _orientations(observations)
    found += [finding for label in table.labels for finding in _unusual_label(observations, label.name)]
    return found + _intensities(observations) + _channel_order(observations) + _notes(observations)


def _rare_labels(observations: Sequence[Observation], table: LabelTable) -> list[Finding]:
    found = []
    for label in table.labels:
        cases = tuple(seen.case.id for seen in observations if seen.case.labels[label.name].voxels)
        if 0 < len(cases) < min(FEW, len(observations)):
            text = f"label '{label.name}' occurs in only {len(cases)} of {len(observations)} cases: some folds may never see it"
            found.append(Finding("rare label", text, cases))
    if empty := tuple(seen.case.id for seen in observations if not _is_labelled(seen)):
        found.append(Finding("empty label map", f"the label map is empty in {_listed(empty)}", empty))
    return found


def _orientations(observations: Sequence[Observation]) -> list[Finding]:
    kinds = Counter(seen.case.orientation for seen in observations)
    if len(kinds) < 2:
        return []
    usual, _ = kinds.most_common(1)[0]
    odd = {seen.case.id: seen.case.orientation for seen in observations if seen.case.orientation != usual}
    listed = _listed([f"{case} ({orientation})" for case, orientation in odd.items()])
    return [Finding("orientation", f"scans are stored in {len(kinds)} orientations; most are {usual}, not so {listed}", tuple(odd))]


def _unusual_label(observations: Sequence[Observation], name: str) -> list[Finding]:
    """Cases where a label's volume or place is far from what the others show."""
    present = [(seen.case.id, seen.case.labels[name]) for seen in observations if seen.case.labels[name].voxels]
    if len(present) < _ENOUGH:
        return []
    found = []
    volumes = np.log([label.volume_ml for _, label in present])
    centre, spread = _usual(volumes)
    far = np.abs(volumes - centre) > max(_DEVIATIONS * spread, np.log(_LEAST_VOLUME_RATIO))
    if far.any():
        odd = {case: label.volume_ml for (case, label), is_far in zip(present, far, strict=True) if is_far}
        listed = _listed([f"{case} ({volume:.3g} mL)" for case, volume in odd.items()])
        text = f"label '{name}' has an unusual volume in {listed}; usual are {np.exp(centre):.3g} mL"
        found.append(Finding("label volume", text, tuple(odd)))
    if misplaced := _misplaced(present):
        listed = _listed([f"{case} ({where})" for case, where in misplaced.items()])
        found.append(Finding("label place", f"label '{name}' lies far from its usual place in {listed}", tuple(misplaced)))
    return found


def _misplaced(present: Sequence[tuple[str, LabelObservation]]) -> dict[str, str]:
    """Cases whose centroid is far off, and in which direction; the field of view is the measure, so a quarter of it at least."""
    centroids = np.array([label.centroid for _, label in present])
    offsets = []
    for axis in range(3):
        centre, spread = _usual(centroids[:, axis])
        offset = centroids[:, axis] - centre
        offsets.append(np.where(np.abs(offset) > max(_DEVIATIONS * spread, _LEAST_DISPLACEMENT), offset, 0.0))
    words = (("below", "above"), ("behind", "in front"), ("to the left", "to the right"))
    found = {}
    for (case, _), shift in zip(present, np.array(offsets).T, strict=True):
        if directions := [pair[int(s > 0)] for pair, s in zip(words, shift, strict=True) if s]:
            found[case] = " and ".join(directions)
    return found


def _intensities(observations: Sequence[Observation]) -> list[Finding]:
    """Cases whose foreground is far brighter or darker than that of the others."""
    found = []
    for channel in range(len(observations[0].intensities) if observations else 0):
        seen = [(o.case.id, sketch) for o in observations if (sketch := o.intensities[channel]) is not None]
        if len(seen) < _ENOUGH:
            continue
        medians = np.array([sketch.quantile(0.5) for _, sketch in seen])
        within = float(np.median([(sketch.quantile(0.95) - sketch.quantile(0.05)) / 2 for _, sketch in seen]))
        centre, spread = _usual(medians)
        far = np.abs(medians - centre) > _DEVIATIONS * max(spread, within)
        # Many far from the middle are no outliers but scanners that scale differently, as MR scanners do.
        if 0 < np.count_nonzero(far) <= max(1, _ODD_SHARE * len(seen)):
            odd = {case: float(median) for (case, _), median, is_far in zip(seen, medians, far, strict=True) if is_far}
            listed = _listed([f"{case} ({median:.4g})" for case, median in odd.items()])
            text = f"channel {channel}: unusual intensities inside the labels in {listed}; usual are {centre:.4g}"
            found.append(Finding("intensity", text, tuple(odd)))
    return found


def _channel_order(observations: Sequence[Observation]) -> list[Finding]:
    """Cases where two channels whose order of brightness is the same almost everywhere are the other way round."""
    complete = [o for o in observations if all(sketch is not None for sketch in o.intensities)]
    if len(complete) < _ENOUGH:
        return []
    medians = np.array([[sketch.quantile(0.5) for sketch in o.intensities if sketch is not None] for o in complete])
    found = []
    for first in range(medians.shape[1]):
        for second in range(first + 1, medians.shape[1]):
            brighter = medians[:, first] > medians[:, second]
            usual = np.median(brighter) > 0.5
            odd = tuple(complete[i].case.id for i in np.flatnonzero(brighter != usual))
            if 0 < len(odd) <= max(1, _ODD_SHARE * len(complete)):
                which = f"channels {first} and {second} may be swapped in {_listed(odd)}"
                found.append(Finding("channels", f"{which}: which is brighter differs from all others", odd))
    return found


def _notes(observations: Sequence[Observation]) -> list[Finding]:
    """What was repaired or assumed while reading, each once with its cases."""
    cases = defaultdict(list)
    for seen in observations:
        for note in seen.notes:
            _, _, text = note.partition(": ")  # a note on a file leads with the file's name
            cases[text or note].append(seen.case.id)
    return [Finding("reading", f"{note}: {_listed(ids)}", tuple(ids)) for note, ids in cases.items()]


def _usual(values: np.ndarray) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation suggests."""
    centre = float(np.median(values))
    return centre, 1.4826 * float(np.median(np.abs(values - centre)))


def _listed(names: Sequence[str], most: int = 8) -> str:
    """'case a', 'cases a, b', or the first few and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"case{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"
