"""A run and a batch of predictions to report on: phantoms in four orientations, predicted with small random errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage
from small_datasets import small_plan

from autoseg3d.evaluation import evaluate_folder
from autoseg3d.fingerprinting import survey
from autoseg3d.io import find_scans, open_dataset, read_volume, write_labels
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from autoseg3d.phantom import write_phantom_dataset
from autoseg3d.prediction import CaseResult, PredictOptions, predict_scans
from autoseg3d.run import RunFolder, RunRecord
from planners.plan import Plan
from planners.readable import plan_markdown

CONFIGURATION = "3d_fullres"
Spoil = Callable[[np.ndarray], np.ndarray]


def write_raw(folder: Path, cases: int, *, names: Mapping[str, str] | None = None, test_cases: int = 0) -> Path:
    """Phantoms as a dataset; `names` renames labels."""
    write_phantom_dataset(folder, cases=cases, test_cases=test_cases)
    path = folder / "dataset.json"
    document = json.loads(path.read_text())
    document["labels"] = {(names or {}).get(name, name): value for name, value in document["labels"].items()}
    path.write_text(json.dumps(document))
    return folder


def plan_run(raw: Path, folder: Path) -> tuple[RunFolder, Plan]:
    """A run folder with a small plan, nothing trained."""
    dataset = open_dataset(raw)
    fingerprint = survey(dataset, workers=1, cache_folder=None, exclude=frozenset(), progress=None).fingerprint
    assert fingerprint is not None
    plan = small_plan(labels=fingerprint.labels, channel_names=("T2",), dataset_name=fingerprint.dataset_name, patch_size=(32, 48, 64))
    run = RunFolder(folder)
    record = RunRecord(software_version="0", raw=str(raw), command={})
    run.write(record=record, fingerprint=fingerprint, plan=plan, splits_json="{}", plan_text=plan_markdown(plan))
    return run, plan


def validate(run: RunFolder, raw: Path, *, fold: str = "0", spoil: Mapping[str, Spoil] | None = None) -> Path:
    """A fold whose held-out cases are all cases: predictions near the truth, after which `spoil` alters true label maps."""
    folder = run.path / "folds" / CONFIGURATION / f"fold_{fold}"
    for i, path in enumerate(sorted((raw / "labelsTr").iterdir())):
        volume = read_volume(path, labels=True)
        write_labels(folder / "validation" / path.name, bent(volume.array, seed=i), volume.geometry)
        if change := (spoil or {}).get(path.name.split(".")[0]):
            write_labels(path, change(volume.array), volume.geometry)
    evaluate_folder(folder / "validation", raw / "labelsTr", out=folder, labels=run.plan().labels)
    names = [label.name for label in run.plan().labels.labels]
    (folder / "log.jsonl").write_text("".join(json.dumps(_epoch(i, names)) + "\n" for i in range(5)))
    return folder


def bent(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """A label map moved by a smooth random field of about a voxel, as a model might see it."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(0, 1, labels.shape), 3) for _ in range(3)]
    places = [place + 0.8 * field / field.std() for place, field in zip(np.indices(labels.shape), fields, strict=True)]
    moved: np.ndarray = ndimage.map_coordinates(labels, places, order=0, mode="nearest")
    return moved


def _epoch(index: int, names: list[str]) -> dict[str, object]:
    dice = 1 - 0.8**index
    return {
        "attempt": 1, "epoch": index, "step": index, "position": index / 5, "loss": -dice, "validation_loss": -dice + 0.1,
        "dice": dict.fromkeys(names, dice), "mean_dice": dice, "ema_dice": dice, "best": True, "learning_rate": 1e-3, "skipped": 0,
        "alarms": ["<b>the loss is high</b>"] if index == 3 else [], "timing": {"seconds": 60.0, "samples_per_second": 2.0},
    }  # fmt: skip


def predict_batch(run: RunFolder, plan: Plan, scans: Path, out: Path) -> list[CaseResult]:
    """The scans as a random network sees them."""
    create_package(run.model, plan, run.fingerprint())
    network = build(plan.configurations[CONFIGURATION].network, 1, plan.labels.num_classes, seed=0)
    add_fold(run.model, configuration=CONFIGURATION, fold="0", weights=network.state_dict())
    options = PredictOptions(device="cpu", precision="fp32", mirror=False)
    return predict_scans(find_scans(scans, num_channels=1), run.model, out, options, source=scans)
