"""A run with held-out predictions and no training: label maps made from the references, with errors planted in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from small_datasets import LPS, describe, small_plan, write_case

from autoseg3d.files import sha256, write_text
from autoseg3d.io import read_geometry, read_volume, write_labels
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from autoseg3d.run import RunFolder, RunRecord
from autoseg3d.training.folder import FoldFolder
from autoseg3d.training.options import FoldResult
from autoseg3d.training.splits import make_splits, write_splits
from autoseg3d.training.validation import RECORD, Predicted
from planners.fingerprint import CaseFingerprint, Fingerprint
from planners.plan import Plan, TrainingPlan

SHAPE = (8, 14, 14)
Predict = Callable[[str, np.ndarray, np.random.Generator], np.ndarray]


def truth(rng: np.random.Generator) -> np.ndarray:
    """An organ with a lesion beside it, (Z, Y, X), each somewhat different."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    a, b = rng.integers(3, 6, 2)
    labels[2:6, 2 : 2 + a, 2 : 2 + b] = 1
    labels[3:5, 9:12, 2:5] = 2
    return labels


def write_raw(root: Path, cases: int) -> Path:
    """A raw dataset of organs and lesions."""
    describe(root, count=cases)
    rng = np.random.default_rng(0)
    for i in range(cases):
        labels = truth(rng)
        write_case(root, f"c{i:02d}", labels.astype(np.float32) + rng.normal(size=SHAPE), labels, affine=LPS)
    return root


def two_plans() -> Plan:
    """A plan with the configurations 3d_fullres and 2d."""
    plan = small_plan()
    return plan.model_copy(update={"configurations": dict.fromkeys(("3d_fullres", "2d"), plan.configurations["3d_fullres"])})


def write_run(
    root: Path, predictors: dict[str, Predict], *, cases: int = 15, folds: Sequence[str] = ("0", "1", "2", "3", "4"), soft: bool = False
) -> Path:
    """A run folder whose configurations predicted their held-out cases with `predictors`; `soft` saves probabilities too."""
    raw, run, plan = write_raw(root / "raw", cases), root / "run", two_plans()
    ids = [f"c{i:02d}" for i in range(cases)]
    fingerprint = _fingerprint(plan, ids)
    folder = RunFolder(run)
    run.mkdir()
    record = RunRecord(software_version="0", raw=str(raw), command={})
    splits = make_splits(ids)
    folder.write(record=record, fingerprint=fingerprint, plan=plan, splits_json=splits.to_json(), plan_text="")
    write_splits(run / "splits.json", splits)
    create_package(folder.model, plan, fingerprint)
    network = build(plan.configurations["2d"].network, 1, plan.labels.num_classes)
    for name, predict in predictors.items():
        for fold in folds:
            place = FoldFolder(run / "folds" / name / f"fold_{fold}")
            held_out = splits.folds[int(fold)].validation
            files = {case: _predict(raw, place.validation, case, predict, soft=soft) for case in held_out}
            write_text(place.validation / RECORD, Predicted(weights_sha256=f"{name} {fold}", files=files).to_json())
            place.finish(_result(name, fold))
            with torch.no_grad():
                add_fold(folder.model, configuration=name, fold=fold, weights=network.state_dict(), scores={"mean_dice": 0.5})
    return run


def _predict(raw: Path, folder: Path, case: str, predict: Predict, *, soft: bool) -> str:
    reference = read_volume(raw / "labelsTr" / f"{case}.nii.gz", labels=True)
    geometry = read_geometry(raw / "imagesTr" / f"{case}_0000.nii.gz")
    predicted = predict(case, reference.array, np.random.default_rng(int(case[1:])))
    write_labels(folder / f"{case}.nii.gz", predicted.astype(np.uint8), geometry)
    if soft:
        write_probabilities(folder / f"{case}.npz", predicted)
    return sha256(folder / f"{case}.nii.gz")


def write_probabilities(path: Path, labels: np.ndarray, *, sure: float = 0.8) -> None:
    """The label map as probabilities: `sure` for the class it names, the rest for the others."""
    rest = (1 - sure) / 2
    probabilities = np.stack([np.where(labels == value, sure, rest) for value in (0, 1, 2)]).astype(np.float32)
    np.savez_compressed(path, probabilities=probabilities)


def _result(name: str, fold: str) -> FoldResult:
    return FoldResult(
        configuration=name, fold=fold, chosen="final", dice={}, mean_dice=0.5, cases=3, steps=1, epochs=1, seconds=1.0, skipped=0,
        attempts=1, training=TrainingPlan(), weights_sha256=f"{name} {fold}",
    )  # fmt: skip


def _fingerprint(plan: Plan, ids: Sequence[str]) -> Fingerprint:
    cases = tuple(
        CaseFingerprint(
            id=case, shape=SHAPE, shape_after_crop=SHAPE, spacing_mm=(3, 1.5, 1.5), orientation="LPS", relative_size_after_crop=1
        )
        for case in ids
    )
    return Fingerprint(
        dataset_name="small", channel_names=("MR",), labels=plan.labels, num_training=len(ids), cases=cases,
        intensities=plan.intensities, median_relative_size_after_crop=1,
    )  # fmt: skip


def exact(case: str, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The reference itself."""
    return labels


def with_islands(case: str, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The reference with an island of the organ far from it, in every case."""
    found = labels.copy()
    found[0:2, 12:14, 10 : 10 + rng.integers(2, 4)] = 1
    return found


def eroded(case: str, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The reference without one of its slices."""
    found = labels.copy()
    found[2 + int(rng.integers(0, 2))] = 0
    return found
