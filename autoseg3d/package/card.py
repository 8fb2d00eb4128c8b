"""The card of a model: what it segments, what it has seen, how well it did, and what it is not for."""

from __future__ import annotations

import numpy as np

from autoseg3d.package.manifest import FoldRecord, Manifest, Score
from planners.fingerprint import Fingerprint
from planners.plan import Plan


def facts(plan: Plan, fingerprint: Fingerprint, manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """Pairs (what, value) in plain words."""
    spacings, shapes = fingerprint.spacings(), fingerprint.shapes()
    orientations = sorted({case.orientation for case in fingerprint.cases if case.orientation})
    names = ", ".join(f"{label.paint} {label.name}" for label in plan.labels.labels)
    rows = [
        ("dataset", f"{plan.dataset_name}, {fingerprint.num_training} training cases"),
        ("channels", ", ".join(plan.channel_names)),
        ("labels", names + (" (overlapping regions)" if plan.labels.has_regions else "")),
        ("planner", f"{plan.planner}, orientation {plan.orientation}"),
        ("spacing seen (z, y, x)", f"{_range(spacings)} mm"),
        ("extent seen (z, y, x)", f"{_range(spacings * shapes)} mm"),
        ("orientations seen", ", ".join(orientations) or "not recorded"),
    ]
    rows += [(f"{fold.configuration} fold {fold.fold}", _scores(fold.scores)) for fold in manifest.folds]
    rows.append(("made with", f"autoseg3d {manifest.software_version}"))
    return tuple(rows)


def card(plan: Plan, fingerprint: Fingerprint, manifest: Manifest) -> str:
    """card.md: the facts as a Markdown table, with what the model must not be used for."""
    rows = "\n".join(f"| {_cell(what)} | {_cell(value)} |" for what, value in facts(plan, fingerprint, manifest))
    folds = "" if manifest.folds else "\nNo fold is trained yet.\n"
    return (
        f"# {_cell(plan.dataset_name)}\n\n| | |\n|---|---|\n{rows}\n{folds}\n"
        "Scans outside these ranges are predicted and flagged for review.\n\n"
        "For research. This model is not a medical device and has not been validated for clinical decisions.\n"
    )


def scores_of(record: FoldRecord, key: str) -> float | None:
    """A number among the scores of a fold, None where it was not measured."""
    value = record.scores.get(key)
    return float(value) if isinstance(value, float) else None


def _scores(scores: dict[str, Score]) -> str:
    flat = [(name, value) for name, value in scores.items() if isinstance(value, float | str)]
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in flat) or "trained"


def _range(values: np.ndarray) -> str:
    """ "a to b" of each of the three columns."""
    return ", ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(values.min(axis=0), values.max(axis=0), strict=True))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
