"""What a small dataset gains from another model's weights: the same few cases, steps and seeds, with and without --from.

Usage: python benchmarks/transfer.py RAW --label NAME --work FOLDER [--cases 10] [--held-out 50] [--steps 250] [--seeds 2]

RAW        a dataset in nnU-Net's layout with integer labels
--label    the only label that the model to start from learns; all others are background to it
--work     a folder for datasets, runs and results.jsonl; trainings that stand there are not repeated
--cases    training cases of the small dataset; --held-out other cases score it
--source-steps, --steps   training steps of the model to start from, and of each training on the small dataset

The model to start from is trained on all remaining cases, so it has seen neither the small dataset nor the held-out cases. Both are
planned with the same changes (--change), so that the networks fit. Prints mean Dice over the held-out cases per label.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes
from autoseg3d.training import Split, Splits, TrainOptions, write_splits

_STEPS_PER_EPOCH = 25
# How the trainings differ from each other.
_WAYS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "transfer": {"start_from": True},
    "transfer, a quarter of the rate": {"start_from": True, "slower": 4},
    "transfer, encoder frozen": {"start_from": True, "freeze": "encoder"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--held-out", type=int, default=50)
    parser.add_argument("--source-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=3.0, help="time to plan for; it decides the width of the networks")
    parser.add_argument("--change", action="append", default=[])
    parser.add_argument("--way", action="append", choices=list(_WAYS), help="only this way; may be given several times")
    options = parser.parse_args()
    source, small = prepare(options)
    results = options.work / f"results_{options.steps}.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in range(options.seeds):
        for way in options.way or _WAYS:
            if not any((row["way"], row["seed"]) == (way, seed) for row in done):
                row = {"way": way, "seed": seed, **train(small, source, _WAYS[way], seed=seed, steps=options.steps)}
                done.append(row)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    report(done)


def prepare(options: argparse.Namespace) -> tuple[Path, Path]:
    """The runs of both datasets: the one to start from, trained on all its cases, and the small one, planned."""
    description = json.loads((options.raw / "dataset.json").read_text())
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (options.raw / "labelsTr").glob("*.nii.gz"))
    order = [ids[i] for i in np.random.default_rng(0).permutation(len(ids))]
    few, held_out = order[: options.cases], order[options.cases : options.cases + options.held_out]
    source, small = options.work / "run_source", options.work / "run_small"
    wishes = PlanWishes(seconds=60 * options.minutes, changes=tuple(options.change))
    if not (source / "plan.json").exists():
        only = {"background": 0, options.label: 1}
        raw = write_dataset(options.work / "Dataset901_Source", options.raw, description, order[len(few) + len(held_out) :], only)
        api.plan(raw, source, wishes=wishes)
    api.train(source, fold="full", options=TrainOptions(device="cpu", mode="resume", **counted(options.source_steps)))
    if not (small / "plan.json").exists():
        api.plan(write_dataset(options.work / "Dataset902_Small", options.raw, description, few + held_out), small, wishes=wishes)
        fold = Split(train=tuple(sorted(few)), validation=tuple(sorted(held_out)))
        splits = Splits(rule="by hand: a few cases train", cases=tuple(sorted(few + held_out)), folds=(fold,))
        write_splits(small / "splits.json", splits)
    return source, small


def write_dataset(folder: Path, raw: Path, description: dict[str, Any], cases: Sequence[str], labels: dict[str, int] | None = None) -> Path:
    """Some cases of a dataset by links; with `labels`, only the first of them is kept, as 1."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for case in cases:
        for image in (raw / "imagesTr").glob(f"{case}_*.nii.gz"):
            (folder / "imagesTr" / image.name).symlink_to(image.resolve())
        target = folder / "labelsTr" / f"{case}.nii.gz"
        found = nibabel.load(raw / "labelsTr" / target.name)
        if labels is None:
            target.symlink_to((raw / "labelsTr" / target.name).resolve())
            continue
        kept = description["labels"][next(name for name in labels if name != "background")]
        nibabel.save(nibabel.Nifti1Image((np.asarray(found.dataobj) == kept).astype(np.uint8), found.affine), target)
    text = {**description, "name": folder.name, "labels": labels or description["labels"], "numTraining": len(cases)}
    (folder / "dataset.json").write_text(json.dumps(text))
    return folder


def counted(steps: int) -> dict[str, Any]:
    """So many steps, however fast the machine."""
    return {"epochs": max(1, steps // _STEPS_PER_EPOCH), "iterations": _STEPS_PER_EPOCH}


def train(run: Path, source: Path, differs: dict[str, Any], *, seed: int, steps: int) -> dict[str, Any]:
    """One training on the small dataset and what it scored."""
    plan = json.loads((run / "plan.json").read_text())
    wishes: dict[str, Any] = {"seed": seed, **counted(steps)}
    if "start_from" in differs:
        wishes["start_from"] = source
    if "slower" in differs:
        wishes["learning_rate"] = plan["training"]["learning_rate"] / differs["slower"]
    if "freeze" in differs:
        wishes["freeze"] = differs["freeze"]
    (result,) = api.train(run, fold="0", options=TrainOptions(device="cpu", mode="restart", pictures=False, **wishes)).results
    log = [json.loads(line) for line in (run / "folds" / result.configuration / "fold_0" / "log.jsonl").read_text().splitlines()]
    curve = [round(record["mean_dice"] or 0.0, 3) for record in log]
    return {"dice": result.dice, "mean": result.mean_dice, "seconds": result.seconds, "from": result.started_from, "curve": curve}


def report(rows: Sequence[dict[str, Any]]) -> None:
    """A line per way: the mean over seeds and each seed's."""
    for way in _WAYS:
        own = [row for row in rows if row["way"] == way]
        if own:
            labels = ", ".join(f"{name} {statistics.fmean(row['dice'][name] for row in own):.4f}" for name in own[0]["dice"])
            each = ", ".join(f"{row['mean']:.4f}" for row in own)
            seconds = statistics.fmean(row["seconds"] for row in own)
            print(f"{way:32} mean Dice {statistics.fmean(row['mean'] for row in own):.4f} ({each}); {labels}; {seconds:.0f} s")


if __name__ == "__main__":
    main()
