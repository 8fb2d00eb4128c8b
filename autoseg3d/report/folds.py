"""What lies in the folders of a run: the folds with their logs and scores, and which configuration to speak of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg3d.errors import ReadError
from autoseg3d.evaluation import Scores, collect_scores, read_scores
from autoseg3d.run import RunFolder


@dataclass(frozen=True)
class Fold:
    """A fold whose training has begun.

    log         its epochs, first to last
    scores      of its held-out cases, None where it was not validated
    validation  folder of the predicted held-out cases
    """

    configuration: str
    name: str
    log: tuple[dict[str, Any], ...]
    scores: Scores | None
    validation: Path

    @property
    def title(self) -> str:
        """As a person calls it."""
        return f"fold {self.name}" if self.name.isdecimal() else f"'{self.name}'"


@dataclass(frozen=True)
class Validated:
    """All held-out cases of one configuration, each predicted by a fold that did not train on it.

    scores       of all of them
    predictions  the label map of each case
    """

    configuration: str
    folds: tuple[str, ...]
    scores: Scores
    predictions: dict[str, Path]


def read_folds(run: RunFolder) -> tuple[Fold, ...]:
    """The folds begun, by configuration and name. Raises ReadError for a damaged log or table of scores."""
    return tuple(_read_fold(path) for path in sorted((run.path / "folds").glob("*/fold_*")) if (path / "log.jsonl").is_file())


def _read_fold(path: Path) -> Fold:
    scores = read_scores(path) if (path / "scores.json").is_file() else None
    name = path.name.removeprefix("fold_")
    return Fold(path.parent.name, name, _read_log(path / "log.jsonl"), scores, path / "validation")


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return tuple(json.loads(line) for line in lines if line.strip())
    except ValueError as error:
        raise ReadError(
            f"not a log of training: {error}", file=path, code="E_JSON", remedy="Train with --resume, which writes it anew"
        ) from error


def validated(folds: Sequence[Fold]) -> tuple[Validated, ...]:
    """The configurations with held-out cases, the one with most of them first."""
    found = []
    for configuration in dict.fromkeys(fold.configuration for fold in folds):
        own = [(fold, fold.scores) for fold in folds if fold.configuration == configuration and fold.scores is not None]
        if not any(scores.rows for _, scores in own):
            continue
        rows = [row for _, scores in own for row in scores.rows]
        failures = [failure for _, scores in own for failure in scores.failures]
        predictions = {case: fold.validation / f"{case}.nii.gz" for fold, scores in own for case in scores.cases}
        names = tuple(fold.name for fold, _ in own)
        found.append(Validated(configuration, names, collect_scores(rows, failures), predictions))
    return tuple(sorted(found, key=lambda one: -len(one.predictions)))
