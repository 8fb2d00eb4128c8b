"""What is suspicious in a dataset as a whole: faults that stop planning, and warnings for a person to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from autoseg3d.errors import Autoseg3dError, LabelError
from autoseg3d.fingerprinting.observation import Observation
from planners.fingerprint import LabelObservation
from planners.labels import LabelTable

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


def dataset_warnings(observations: Sequence[Observation], table: LabelTable) -> list[str]:
    """Everything worth a look that does not stop planning, one sentence each, most serious first."""
    warnings = [
        f"cases {', '.join(ids)} hold the same images: they will be kept in one fold; remove the copies if they are no repeats"
        for ids in duplicates(observations)
    ]
    if len(observations) < FEW:
        warnings.append(f"only {len(observations)} cases: five folds need at least {FEW}, and a model of so few will not generalise")
    warnings += _rare_labels(observations, table) + _orientations(observations)
    warnings += [w for label in table.labels for w in _unusual_label(observations, label.name)]
    warnings += _intensities(observations) + _channel_order(observations) + _notes(observations)
    return warnings


def _rare_labels(observations: Sequence[Observation], table: LabelTable) -> list[str]:
    warnings = []
    for label in table.labels:
        count = sum(bool(seen.case.labels[label.name].voxels) for seen in observations)
        if 0 < count < min(FEW, len(observations)):
            warnings.append(f"label '{label.name}' occurs in only {count} of {len(observations)} cases: some folds may never see it")
    if empty := [seen.case.id for seen in observations if not _is_labelled(seen)]:
        warnings.append(f"the label map is empty in {_listed(empty)}")
    return warnings


def _orientations(observations: Sequence[Observation]) -> list[str]:
    kinds = Counter(seen.case.orientation for seen in observations)
    if len(kinds) < 2:
        return []
    usual, _ = kinds.most_common(1)[0]
    others = [f"{seen.case.id} ({seen.case.orientation})" for seen in observations if seen.case.orientation != usual]
    return [f"scans are stored in {len(kinds)} orientations; most are {usual}, not so {_listed(others)}"]


def _unusual_label(observations: Sequence[Observation], name: str) -> list[str]:
    """Cases where a label's volume or place is far from what the others show."""
    present = [(seen.case.id, seen.case.labels[name]) for seen in observations if seen.case.labels[name].voxels]
    if len(present) < _ENOUGH:
        return []
    warnings = []
    volumes = np.log([label.volume_ml for _, label in present])
    centre, spread = _usual(volumes)
    far = np.abs(volumes - centre) > max(_DEVIATIONS * spread, np.log(_LEAST_VOLUME_RATIO))
    if far.any():
        cases = [f"{case} ({label.volume_ml:.3g} mL)" for (case, label), odd in zip(present, far, strict=True) if odd]
        warnings.append(f"label '{name}' has an unusual volume in {_listed(cases)}; usual are {np.exp(centre):.3g} mL")
    if misplaced := _misplaced(present):
        warnings.append(f"label '{name}' lies far from its usual place in {_listed(misplaced)}")
    return warnings


def _misplaced(present: Sequence[tuple[str, LabelObservation]]) -> list[str]:
    """Cases whose centroid is far off, with the direction; the field of view is the measure, so a quarter of it at least."""
    centroids = np.array([label.centroid for _, label in present])
    offsets = []
    for axis in range(3):
        centre, spread = _usual(centroids[:, axis])
        offset = centroids[:, axis] - centre
        offsets.append(np.where(np.abs(offset) > max(_DEVIATIONS * spread, _LEAST_DISPLACEMENT), offset, 0.0))
    words = (("below", "above"), ("behind", "in front"), ("to the left", "to the right"))
    found = []
    for (case, _), shift in zip(present, np.array(offsets).T, strict=True):
        if directions := [pair[int(s > 0)] for pair, s in zip(words, shift, strict=True) if s]:
            found.append(f"{case} ({' and '.join(directions)})")
    return found


def _intensities(observations: Sequence[Observation]) -> list[str]:
    """Cases whose foreground is far brighter or darker than that of the others."""
    warnings = []
    for channel in range(len(observations[0].intensities) if observations else 0):
        seen = [(o.case.id, sketch) for o in observations if (sketch := o.intensities[channel]) is not None]
        if len(seen) < _ENOUGH:
            continue
        medians = np.array([sketch.quantile(0.5) for _, sketch in seen])
        within = float(np.median([(sketch.quantile(0.95) - sketch.quantile(0.05)) / 2 for _, sketch in seen]))
        centre, spread = _usual(medians)
        far = np.abs(medians - centre) > _DEVIATIONS * max(spread, within)
        # Many far from the middle are no outliers but scanners that scale differently, as MR scanners do.
        if 0 < np.count_nonzero(far) <= _ODD_SHARE * len(seen):
            cases = [f"{case} ({median:.4g})" for (case, _), median, odd in zip(seen, medians, far, strict=True) if odd]
            warnings.append(f"channel {channel}: unusual intensities inside the labels in {_listed(cases)}; usual are {centre:.4g}")
    return warnings


def _channel_order(observations: Sequence[Observation]) -> list[str]:
    """Cases where two channels whose order of brightness is the same almost everywhere are the other way round."""
    complete = [o for o in observations if all(sketch is not None for sketch in o.intensities)]
    if len(complete) < _ENOUGH:
        return []
    medians = np.array([[sketch.quantile(0.5) for sketch in o.intensities if sketch is not None] for o in complete])
    warnings = []
    for first in range(medians.shape[1]):
        for second in range(first + 1, medians.shape[1]):
            brighter = medians[:, first] > medians[:, second]
            usual = np.median(brighter) > 0.5
            odd = np.flatnonzero(brighter != usual)
            if 0 < len(odd) <= _ODD_SHARE * len(complete):
                cases = _listed([complete[i].case.id for i in odd])
                warnings.append(f"channels {first} and {second} may be swapped in {cases}: which is brighter differs from all others")
    return warnings


def _notes(observations: Sequence[Observation]) -> list[str]:
    """What was repaired or assumed while reading, each once with its cases."""
    cases = defaultdict(list)
    for seen in observations:
        for note in seen.notes:
            _, _, text = note.partition(": ")  # a note on a file leads with the file's name
            cases[text or note].append(seen.case.id)
    return [f"{note}: {_listed(ids)}" for note, ids in cases.items()]


def _usual(values: np.ndarray) -> tuple[float, float]:
    """Median, and the standard deviation that the median absolute deviation suggests."""
    centre = float(np.median(values))
    return centre, 1.4826 * float(np.median(np.abs(values - centre)))


def _listed(names: Sequence[str], most: int = 8) -> str:
    """'case a', 'cases a, b', or the first few and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"case{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"
