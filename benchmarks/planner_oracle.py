"""Random datasets, planned by nnU-Net itself and by us: every field of every configuration compared.

    python benchmarks/planner_oracle.py --nnunet PYTHON --work FOLDER [--number 60] [--seed 0] [--limit 60]

`--nnunet` names the Python of an environment in which nnU-Net 2 is installed. Each dataset is a fingerprint as nnU-Net writes it
(shapes, spacings, channels, labels, regions, an ignore label), planned by one of nnU-Net's planners in turn: the default for
8 and for 24 GB, and ResEnc M, L and XL. Datasets that nnU-Net cannot plan within `--limit` seconds are counted, not compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "tests" / "planners")]

from analytic_cost import analytic_cost  # noqa: E402
from nnunet_plans import differences, read_fingerprint  # noqa: E402

from planners.budget import GIB, Budget, PlanningError  # noqa: E402
from planners.nnunet import plan_nnunet, plan_resenc_l, plan_resenc_m, plan_resenc_xl  # noqa: E402

SIDE = Path(__file__).with_name("planner_oracle_nnunet.py")
OURS = {
    "default": (plan_nnunet, Budget()),
    "default_24gb": (plan_nnunet, Budget(memory_bytes=24 * GIB)),
    "resenc_m": (plan_resenc_m, Budget()),
    "resenc_l": (plan_resenc_l, Budget()),
    "resenc_xl": (plan_resenc_xl, Budget()),
}
CHANNELS = ("CT", "MRI", "T1", "noNorm", "rescale_to_0_1", "PET", "rgb_to_0_1", "zscore")
STATISTICS = {"mean": 40.0, "median": 38.0, "std": 120.0, "min": -400.0, "max": 700.0, "percentile_00_5": -350.0, "percentile_99_5": 600.0}


def random_dataset(seed: int) -> dict[str, Any]:
    """dataset.json and dataset_fingerprint.json of a dataset that might exist; a fifth of them have odd shapes."""
    rng = np.random.default_rng(seed)
    cases = int(rng.integers(1, 40))
    spacing = np.exp(rng.uniform(np.log(0.3), np.log(2.5), 3)) if rng.random() < 0.5 else np.full(3, np.exp(rng.uniform(-1, 1)))
    if rng.random() < 0.5:
        spacing[rng.integers(3)] *= rng.uniform(1, 8)
    extent = np.exp(rng.uniform(np.log(20), np.log(500), 3)) if rng.random() < 0.8 else np.exp(rng.uniform(np.log(3), np.log(1500), 3))
    vary, digits = rng.choice([0.0, 0.05, 0.3]), int(rng.choice([2, 4, 7]))
    spacings = np.round(spacing * np.exp(rng.normal(0, vary, (cases, 3))), digits).clip(10.0**-digits)
    shapes = np.round(extent / spacing * np.exp(rng.normal(0, rng.choice([0.0, 0.2]), (cases, 3)))).clip(1, 1500).astype(int)
    if rng.random() < 0.1:
        shapes[:, rng.integers(3)] = 1
    classes = int(rng.choice([1, 2, 4, 15, 120]))
    labels: dict[str, Any] = {"background": 0, **{f"organ {k}": k for k in range(1, classes + 1)}}
    more: dict[str, Any] = {}
    if classes > 1 and rng.random() < 0.2:
        labels["organ 1"] = list(range(1, classes + 1))
        more["regions_class_order"] = list(range(1, classes + 1))
    if rng.random() < 0.15:
        labels["ignore"] = classes + 1
    names = [str(name) for name in rng.choice(CHANNELS, int(rng.choice([1, 1, 2, 4])))]
    return {
        "dataset": {
            "channel_names": {str(i): name for i, name in enumerate(names)},
            "labels": labels,
            "numTraining": cases if rng.random() < 0.8 else int(rng.integers(1, 2000)),
            "file_ending": ".nii.gz",
            **more,
        },
        "fingerprint": {
            "spacings": spacings.tolist(),
            "shapes_after_crop": shapes.tolist(),
            "foreground_intensity_properties_per_channel": {str(i): STATISTICS for i in range(len(names))},
            "median_relative_size_after_cropping": float(rng.uniform(0.3, 1)),
        },
    }


def write(work: Path, number: int, made: dict[str, Any]) -> str:
    """Puts a dataset where nnU-Net looks for it, with one tiny scan to try readers on; its name."""
    name = f"Dataset{number + 100:03d}_Random"
    raw, prepared = work / "raw" / name, work / "preprocessed" / name
    for folder in (raw / "imagesTr", raw / "labelsTr", prepared):
        folder.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps(made["dataset"]))
    (prepared / "dataset_fingerprint.json").write_text(json.dumps(made["fingerprint"]))
    for i in range(len(made["dataset"]["channel_names"])):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), raw / "imagesTr" / f"a_{i:04d}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), raw / "labelsTr" / "a.nii.gz")
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--number", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=60, help="seconds for nnU-Net per plan")
    chosen = parser.parse_args()
    made = [random_dataset(chosen.seed + i) for i in range(chosen.number)]
    planners = [tuple(OURS)[i % len(OURS)] for i in range(chosen.number)]
    chosen.work.mkdir(parents=True, exist_ok=True)
    for folder in ("raw", "preprocessed"):  # nnU-Net keeps configurations of plans that it finds
        shutil.rmtree(chosen.work / folder, ignore_errors=True)
    jobs = [{"name": write(chosen.work, i, dataset), "planner": planners[i]} for i, dataset in enumerate(made)]
    file, answers = chosen.work / "jobs.json", chosen.work / "answers.jsonl"
    file.write_text(json.dumps(jobs))
    answers.unlink(missing_ok=True)
    with (chosen.work / "nnunet.log").open("w") as log:
        command = [chosen.nnunet, str(SIDE), str(chosen.work), str(chosen.limit)]
        subprocess.run(command, check=True, stdout=log, stderr=log)
    outcomes: Counter[str] = Counter()
    for number, line in enumerate(answers.read_text().splitlines()):
        answer, (plan_by, budget) = json.loads(line), OURS[planners[number]]
        try:
            plan = plan_by(read_fingerprint(made[number]), budget, analytic_cost)
        except PlanningError as error:
            outcomes["both refused" if "error" in answer else "only we refused"] += 1
            sys.stdout.write(f"{chosen.seed + number} {planners[number]}: we refused: {error}; nnU-Net: {answer.get('error', 'a plan')}\n")
            continue
        if "error" in answer:
            outcomes["only nnU-Net refused"] += 1
            sys.stdout.write(f"{chosen.seed + number} {planners[number]}: nnU-Net refused: {answer['error']}\n")
            continue
        wrong = differences(plan, answer)
        outcomes["different" if wrong else "equal in every field"] += 1
        for what in wrong:
            sys.stdout.write(f"{chosen.seed + number} {planners[number]}: {what}\n")
    for outcome, count in sorted(outcomes.items()):
        sys.stdout.write(f"{outcome}: {count}\n")


if __name__ == "__main__":
    main()
