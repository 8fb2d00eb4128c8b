"""How often a usual scan is flagged for review, and whether unusual ones are.

    python benchmarks/review_flags.py RUN RAW [--fold 0] [--ct SCAN.nii.gz]

The held-out cases of a fold are predicted by that fold's network and looked over against a fingerprint from which they were
left out: flags on them are false alarms. Then each of the first ten is changed and predicted again: upside down, back to front
(voxels turned, header left), the intensities of another modality, shifted half out of the picture, replaced by its own noise.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from autoseg3d.case import Case
from autoseg3d.files import read_contract
from autoseg3d.io import CaseFiles, load_case
from autoseg3d.io.dataset import open_dataset
from autoseg3d.package import open_package
from autoseg3d.prediction import Predictor
from autoseg3d.prediction.findings import find_labels
from autoseg3d.prediction.flags import Flag, Sample, review
from autoseg3d.training.splits import Splits
from planners.fingerprint import Fingerprint


def noise(image: np.ndarray) -> np.ndarray:
    """The same intensities in another order: a scan without anatomy."""
    return np.random.default_rng(0).permutation(image.ravel()).reshape(image.shape)


def half_out(image: np.ndarray) -> np.ndarray:
    shifted = np.roll(image, image.shape[2] // 2, axis=2)
    shifted[:, :, : image.shape[2] // 2] = image.min()
    return shifted


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda image: image[:, ::-1].copy(),
    "back to front": lambda image: image[:, :, ::-1].copy(),
    "side to side": lambda image: image[..., ::-1].copy(),
    "intensities negated": lambda image: image.max() - image,
    "half out of the picture": half_out,
    "noise": noise,
}


def flags(predictor: Predictor, case: Case, fingerprint: Fingerprint) -> tuple[Flag, ...]:
    prepared = predictor.prepare(case)
    labels = predictor.run(prepared).labels
    findings = find_labels(labels, predictor.plan.labels, case.geometry)
    return review(labels, Sample.of(case), prepared.working.placement, plan=predictor.plan, fingerprint=fingerprint, findings=findings)


def show(name: str, found: list[tuple[Flag, ...]]) -> None:
    codes = Counter(code for flags in found for code in {flag.code for flag in flags})
    told = ", ".join(f"{code} {count}" for code, count in codes.most_common())
    sys.stdout.write(f"| {name} | {sum(bool(flags) for flags in found)} of {len(found)} | {told} |\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--fold", default="0")
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="scans of something else")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    package = open_package(chosen.run)
    dataset = open_dataset(chosen.raw, partial=True)
    held_out = set(read_contract(chosen.run / "splits.json", Splits).fold(chosen.fold, [case.id for case in dataset.cases]).validation)
    known = package.fingerprint.model_copy(update={"cases": tuple(c for c in package.fingerprint.cases if c.id not in held_out)})
    predictor = Predictor.from_package(package, folds=(chosen.fold,), device="cpu", precision="fp32")
    cases = [load_case(files, labels=None).case for files in dataset.cases if files.id in held_out]
    sys.stdout.write(f"fingerprint of {len(known.cases)} training cases\n| scans | flagged | by |\n|---|---|---|\n")
    usual = [flags(predictor, case, known) for case in cases]
    show("held out", usual)
    for case, found in zip(cases, usual, strict=True):
        for flag in found:
            sys.stderr.write(f"{case.id} {flag.code}: {flag.reason}\n")
    for name, change in CHANGES.items():
        show(name, [flags(predictor, replace(case, image=change(case.image)), known) for case in cases[:10]])
    for path in chosen.other:
        found = flags(predictor, load_case(CaseFiles("other", (path,)), labels=None).case, known)
        show(path.name, [found])


if __name__ == "__main__":
    main()
