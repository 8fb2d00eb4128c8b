"""The card of a model: what it segments, what it has seen, how well it did, and what it is not for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from autoseg3d.package.contents import Contents
from autoseg3d.package.manifest import CARD, FoldRecord, Manifest, Score
from autoseg3d.package.selection import Estimate, Selection
from planners.fingerprint import Fingerprint
from planners.labels import Label
from planners.plan import Plan

Rows = list[tuple[str, str]]

_NOT_FOR = (
    "For research. This model is not a medical device and has not been validated for clinical decisions: a person who can read "
    "these scans must check every result.\n\n"
    "Not for scans unlike those it was trained on: other channels or protocols, other parts of the body, spacing or field of view "
    "outside the ranges above. Such scans are predicted and flagged for review; a scan without a flag is not thereby right. "
    "Scores are of cases from the training data's own sources; elsewhere expect lower ones."
)


def facts(contents: Contents, manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Pairs (what, value) in plain words."""
    return tuple(row for _, rows in _sections(contents, manifest) for row in rows)


def card(contents: Contents, manifest: Manifest) -> str:
    """card.md: the facts as Markdown tables by section, with what the model must not be used for."""
    parts = [f"# {_cell(contents.plan.dataset_name)}"]
    for title, rows in _sections(contents, manifest):
        lines = "\n".join(f"| {_cell(what)} | {_cell(value)} |" for what, value in rows)
        parts.append(f"## {title}\n\n| | |\n|---|---|\n{lines}")
    if not manifest.folds:
        parts.append("No fold is trained yet.")
    parts.append(f"## What it is not for\n\n{_NOT_FOR}")
    hashes = "\n".join(f"    {record.sha256}  {name}" for name, record in sorted(manifest.files.items()) if name != CARD)
    parts.append(f"## SHA-256 of its files\n\n{hashes}")
    return "\n\n".join(parts) + "\n"


def scores_of(record: FoldRecord, key: str) -> float | None:
    """A number among the scores of a fold, None where it was not measured."""
    value = record.scores.get(key)
    return float(value) if isinstance(value, float) else None


def _sections(contents: Contents, manifest: Manifest) -> Iterator[tuple[str, Rows]]:
    plan, fingerprint = contents.plan, contents.fingerprint
    yield "Model", _model(plan, manifest)
    yield "Training data and intended input", _training_data(plan, fingerprint)
    starts = [(f"{fold.configuration} fold {fold.fold}", fold.scores.get("started_from")) for fold in manifest.folds]
    if started := [(fold, start) for fold, start in starts if isinstance(start, str)]:
        yield "Started from the weights of", started
    yield "Labels", [(f"{label.paint} {label.name}", _label(label, fingerprint)) for label in plan.labels.labels]
    scores: Rows = [(f"{fold.configuration} fold {fold.fold}", _scores(fold.scores)) for fold in manifest.folds]
    if contents.selection is not None:
        scores = _selected(contents.selection) + scores
    if scores:
        yield "Scores (Dice)", scores
    yield "Postprocessing", _postprocessing(contents)


def _model(plan: Plan, manifest: Manifest) -> Rows:
    overlapping = " (overlapping regions)" if plan.labels.has_regions else ""
    return [
        ("dataset", plan.dataset_name),
        ("segments", ", ".join(label.name for label in plan.labels.labels) + overlapping),
        ("planner", f"{plan.planner}, orientation {plan.orientation}"),
        ("mirrored copies", _copies(plan.mirror_axes)),
        ("made with", f"autoseg3d {manifest.software_version}"),
        ("licence", manifest.licence or "none stated: ask its makers before using it"),
    ]


def _copies(axes: Sequence[int]) -> str:
    if not axes:
        return "none: it was trained without flips"
    return f"flipped along network axes {', '.join(map(str, axes))} and their combinations"


def _training_data(plan: Plan, fingerprint: Fingerprint) -> Rows:
    spacings, shapes = fingerprint.spacings(), fingerprint.shapes()
    orientations = sorted({case.orientation for case in fingerprint.cases if case.orientation})
    rows = [
        ("training cases", str(fingerprint.num_training)),
        ("channels", ", ".join(plan.channel_names)),
        ("spacing seen (z, y, x)", f"{_range(spacings)} mm"),
        ("extent seen (z, y, x)", f"{_range(spacings * shapes)} mm"),
        ("orientations seen", ", ".join(orientations) or "not recorded"),
    ]
    for name, seen in zip(fingerprint.channel_names, fingerprint.intensities, strict=True):
        inside = f"{seen.percentile_00_5:.4g} to {seen.percentile_99_5:.4g} (99 % of voxels), mean {seen.mean:.4g}, sd {seen.std:.3g}"
        rows.append((f"intensities of {name} in the labels", inside))
    return rows


def _label(label: Label, fingerprint: Fingerprint) -> str:
    """In how many cases it was seen, and how large it was there."""
    seen = [case.labels[label.name] for case in fingerprint.cases if label.name in case.labels]
    if not seen:
        return "volumes not recorded"
    volumes = np.array([one.volume_ml for one in seen if one.voxels])
    if not len(volumes):
        return f"in none of {len(seen)} cases"
    low, middle, high = np.percentile(volumes, (5, 50, 95))
    return f"in {len(volumes)} of {len(seen)} cases; {middle:.3g} mL (median; 5 to 95 %: {low:.3g} to {high:.3g} mL)"


def _selected(selection: Selection) -> Rows:
    rows = [
        ("chosen", f"{' + '.join(selection.configurations)}, {_folds(selection)}, from out-of-fold predictions"),
        ("mean Dice of the choice", f"{_estimate(selection.nested)}; nested, so not tuned on the cases it is of"),
    ]
    for label in selection.nested.labels:
        rows.append((f"Dice of {label.label_name}", _dice(label.dice, label.low, label.high, label.cases)))
    return rows


def _folds(selection: Selection) -> str:
    names = sorted({fold for folds in selection.folds.values() for fold in folds})
    return f"fold{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _estimate(estimate: Estimate) -> str:
    return _dice(estimate.dice, estimate.low, estimate.high, estimate.cases)


def _dice(mean: float | None, low: float | None, high: float | None, cases: int) -> str:
    if mean is None:
        return "not defined in any case"
    interval = f" (95 % interval {low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    return f"{mean:.3f}{interval}, {cases} cases"


def _postprocessing(contents: Contents) -> Rows:
    rows: Rows = []
    for entry in contents.postprocessing.entries:
        names = " + ".join(entry.configurations) or "every prediction"
        rows.append((f"postprocessing of {names}", "; ".join(entry.sentences(contents.plan.labels)) or f"none: {entry.reason}"))
    return rows or [("postprocessing", "none")]


def _scores(scores: dict[str, Score]) -> str:
    """Dice over the held-out cases where training measured it; else whatever was noted."""
    per_label, mean, cases = scores.get("dice"), scores.get("mean_dice"), scores.get("cases")
    if isinstance(mean, float) and isinstance(per_label, dict):
        told = ", ".join(f"{name} {value:.3f}" for name, value in per_label.items() if value is not None)
        return f"{mean:.3f} over {cases:g} held-out cases ({told})" if isinstance(cases, float) else f"{mean:.3f} ({told})"
    flat = [(name.replace("_", " "), value) for name, value in scores.items() if isinstance(value, float | str)]
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in flat) or "trained"


def _range(values: np.ndarray) -> str:
    """ "a to b" of each of the three columns."""
    return ", ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(values.min(axis=0), values.max(axis=0), strict=True))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
