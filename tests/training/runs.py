"""Runs of the spheres from files: the raw dataset, a run folder planned by hand, and one call of train_fold on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from spheres import SIZE, Spheres
from spheres import plan as spheres_plan

from autoseg3d.files import write_text
from autoseg3d.fingerprinting import survey
from autoseg3d.geometry import Geometry
from autoseg3d.io import Dataset, open_dataset, write_image, write_labels
from autoseg3d.run import RunFolder, RunRecord
from autoseg3d.training import FoldResult, TrainOptions, make_splits, train_fold
from planners.plan import Configuration, Plan, TrainingPlan

Run = tuple[Path, Dataset, Plan]

TRAINING = TrainingPlan(
    epochs=3, iterations=20, validation_iterations=2, optimizer="adamw", learning_rate=4e-3, schedule="cosine", warmup=0.1, ema_decay=0.9
)


def write_spheres(folder: Path, cases: int = 10) -> Path:
    """Cases of balls as files, in nnU-Net's layout, stored left to right the other way round (LAS)."""
    store = Spheres(cases)
    geometry = Geometry.from_affine((SIZE,) * 3, np.diag([-1.0, 1.0, 1.0, 1.0]))
    for case in store.ids:
        image, labels = store.read(case, (0, 0, 0), (SIZE,) * 3)
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", image[0] + 10, geometry)
        write_labels(folder / "labelsTr" / f"{case}.nii.gz", labels, geometry)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "bright": 1, "dim": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    write_text(folder / "dataset.json", json.dumps(description))
    return folder


def full_resolution() -> Configuration:
    """The only configuration of the spheres' plan, for cases from files."""
    return spheres_plan(TRAINING).configurations["3d_fullres"].model_copy(update={"normalization": ("zscore",)})


def made_run(raw: Path, folder: Path, *, folds: int = 5, configurations: Mapping[str, Configuration] | None = None) -> Run:
    """A planned run folder, its dataset and its plan."""
    dataset = open_dataset(raw)
    fingerprint = survey(dataset, workers=1, cache_folder=None, exclude=frozenset(), progress=None).fingerprint
    assert fingerprint is not None
    chosen = dict(configurations or {"3d_fullres": full_resolution()})
    plan = spheres_plan(TRAINING).model_copy(update={"configurations": chosen})
    record = RunRecord(software_version="0", raw=str(raw), command={})
    splits = make_splits([case.id for case in dataset.cases], folds=folds)
    RunFolder(folder).write(record=record, fingerprint=fingerprint, plan=plan, splits_json=splits.to_json(), plan_text="")
    return folder, dataset, plan


def train(
    run: Run, fold: str = "0", *, configuration: str = "3d_fullres", watch: Any = None, progress: Any = None, **wishes: Any
) -> FoldResult:
    """One fold, on the CPU in float32."""
    options = TrainOptions(**{"device": "cpu", "precision": "fp32", "workers": 0, "pictures": False, **wishes})
    folder, dataset, plan = run
    return train_fold(folder, dataset, plan, configuration=configuration, fold=fold, options=options, watch=watch, progress=progress)
