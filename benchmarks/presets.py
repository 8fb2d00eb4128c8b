"""What presets of prediction cost, and how far their labels agree with the default's.

    python benchmarks/presets.py MODEL SCANS [--reference LABELS] [--limit 52]

Every scan is predicted in every way in turn (interleaved), in one process with one thread: networks' CPU seconds as a ratio to
the default's, foreground agreement with the default (voxels with equal labels among those that are foreground in either), and
mean Dice against reference labels where there are any.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from autoseg3d.io import find_scans, load_case, read_volume
from autoseg3d.package import open_package
from autoseg3d.prediction import Predictor, foreground_agreement
from planners.labels import LabelTable

# name: mirror, step, folds (0: all), precision
WAYS = {
    "default": (True, 0.5, 0, "fp32"),
    "step 0.25": (True, 0.25, 0, "fp32"),
    "step 0.75": (True, 0.75, 0, "fp32"),
    "no mirror": (False, 0.5, 0, "fp32"),
    "no mirror, step 0.75": (False, 0.75, 0, "fp32"),
    "no mirror, step 1": (False, 1.0, 0, "fp32"),
    "no mirror, step 0.75, one fold": (False, 0.75, 1, "fp32"),
    "default, bf16": (True, 0.5, 0, "bf16"),
}


def mean_dice(labels: np.ndarray, reference: np.ndarray, table: LabelTable) -> float:
    """Mean over the labels that either has."""
    found = []
    for label in table.labels:
        a, b = np.isin(labels, label.values), np.isin(reference, label.values)
        if total := int(a.sum() + b.sum()):
            found.append(2 * int((a & b).sum()) / total)
    return statistics.mean(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--cases", help="names, separated by commas; all by default")
    parser.add_argument("--limit", type=int, default=52)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    package = open_package(chosen.model)
    table = package.plan.labels
    predictors = {}
    for name, (mirror, step, folds, precision) in WAYS.items():
        made = Predictor.from_package(package, device="cpu", precision=precision, mirror=mirror, step=step)  # type: ignore[arg-type]
        predictors[name] = made.variant(folds=folds) if folds else made
    scans = find_scans(chosen.scans, num_channels=len(package.plan.channel_names))
    if chosen.cases:
        scans = tuple(scan for scan in scans if scan.id in chosen.cases.split(","))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    agreement: dict[str, list[float]] = {name: [] for name in WAYS}
    dice: dict[str, list[float]] = {name: [] for name in WAYS}
    for scan in scans[: chosen.limit]:
        case = load_case(scan, labels=None).case
        reference = read_volume(chosen.reference / f"{scan.id}.nii.gz", labels=True).array if chosen.reference else None
        default = None
        for name, predictor in predictors.items():
            prepared = predictor.prepare(case)
            begun = time.process_time()
            labels = predictor.run(prepared).labels
            seconds[name].append(time.process_time() - begun)
            default = labels if default is None else default
            same = foreground_agreement(torch.from_numpy(labels.astype(np.int16)), torch.from_numpy(default.astype(np.int16)))
            agreement[name].append(1.0 if same is None else same)
            if reference is not None:
                dice[name].append(mean_dice(labels, reference, table))
    sys.stdout.write(
        f"{len(seconds['default'])} scans\n| way | CPU s, median | cost | agreement, mean | worst | Dice |\n|---|---|---|---|---|---|\n"
    )
    for name in WAYS:
        cost = statistics.median(a / b for a, b in zip(seconds[name], seconds["default"], strict=True))
        scored = f"{statistics.mean(dice[name]):.4f}" if dice[name] else "–"
        row = (
            f"{statistics.median(seconds[name]):.3f}",
            f"{cost:.2f}",
            f"{statistics.mean(agreement[name]):.4f}",
            f"{min(agreement[name]):.4f}",
        )
        sys.stdout.write(f"| {name} | {' | '.join(row)} | {scored} |\n")


if __name__ == "__main__":
    main()
