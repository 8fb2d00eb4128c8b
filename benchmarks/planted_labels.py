"""How well wrong labels are found: plants five among the held-out cases of a trained run, ranks all, and counts.

    python benchmarks/planted_labels.py RUN --draws 40

The held-out cases of a fold never touch the training of that fold, so spoiling their labels afterwards gives the very
scores that training on the spoiled dataset and validating there would give. Each draw takes five cases at random: labels
exchanged, moved by a number of voxels in a random direction, or one label erased. Prints how often all five are among the
ten most suspicious, and the share found by kind and by distance.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from autoseg3d.evaluation import ScoreRow, score_case
from autoseg3d.geometry import Geometry
from autoseg3d.io import open_dataset, read_volume
from autoseg3d.report import suspects
from autoseg3d.report.folds import Validated, read_folds, validated
from autoseg3d.run import RunFolder
from planners.labels import LabelTable

PLANTED, LOOKED_AT = 5, 10
KINDS = ("exchanged", "erased", "moved 3", "moved 4", "moved 6")


def spoiled(labels: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The label map with one mistake of a kind."""
    values = np.unique(labels[labels > 0])
    if kind == "exchanged":
        a, b = rng.choice(values, 2, replace=False)
        return np.where(labels == a, b, np.where(labels == b, a, labels))
    if kind == "erased":
        return np.where(labels == rng.choice(values), 0, labels)
    return np.roll(labels, int(kind.split()[1]) * int(rng.choice((-1, 1))), axis=int(rng.integers(3)))


def rows_of(case: str, truth: np.ndarray, prediction: np.ndarray, grid: Geometry, table: LabelTable) -> tuple[ScoreRow, ...]:
    """Scores of one case against a label map."""
    return score_case(prediction, truth, spacing=grid.spacing_mm, labels=table, case=case)


def draw(found: Validated, references: dict[str, Path], table: LabelTable, kinds: list[str], rng: np.random.Generator) -> dict[str, int]:
    """The rank (from 1) of each planted case by its kind, for one draw."""
    cases = rng.choice(sorted(found.predictions), len(kinds), replace=False)
    rows = {case: [row for row in found.scores.rows if row.case == case] for case in found.predictions}
    for case, kind in zip(cases, kinds, strict=True):
        prediction, truth = read_volume(found.predictions[case], labels=True), read_volume(references[case], labels=True)
        rows[case] = list(rows_of(case, spoiled(truth.array, kind, rng), prediction.array, prediction.geometry, table))
    order = [suspect.case for suspect in suspects([row for own in rows.values() for row in own])]
    return {f"{kind}#{case}": order.index(case) + 1 for case, kind in zip(cases, kinds, strict=True)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=40)
    options = parser.parse_args()
    run = RunFolder(options.run)
    table, found = run.plan().labels, validated(read_folds(run))[0]
    references = {case.id: case.label for case in open_dataset(run.record().raw, partial=True).cases if case.label is not None}
    rng = np.random.default_rng(0)
    hits, complete = defaultdict(list), 0
    for i in range(options.draws):
        kinds = [KINDS[(i + k) % len(KINDS)] for k in range(PLANTED)]
        ranks = draw(found, references, table, kinds, rng)
        complete += max(ranks.values()) <= LOOKED_AT
        for name, rank in ranks.items():
            hits[name.split("#")[0]].append(rank)
    print(f"{len(found.predictions)} held-out cases, {options.draws} draws of {PLANTED} wrong label maps")  # noqa: T201
    print(f"all {PLANTED} among the {LOOKED_AT} most suspicious: {complete} of {options.draws} draws")  # noqa: T201
    for kind, ranks in sorted(hits.items()):
        within = np.mean(np.array(ranks) <= LOOKED_AT)
        print(f"  {kind:10s} found {within:.0%}, worst rank {max(ranks)}")  # noqa: T201


if __name__ == "__main__":
    main()
