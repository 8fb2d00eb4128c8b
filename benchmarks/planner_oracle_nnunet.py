"""The nnU-Net side of planner_oracle.py; runs in nnU-Net's own environment.

Usage: python planner_oracle_nnunet.py WORK SECONDS
WORK holds raw/, preprocessed/ and jobs.json, a list of {name, planner}. Appends one line for each job to WORK/answers.jsonl: the
axis order and the fields of the configurations that nnU-Net planned, or `error`, where it failed or took more than SECONDS.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

work, limit = Path(sys.argv[1]), int(sys.argv[2])
for folder in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{folder}"] = str(work / folder)

# nnU-Net reads those when it is imported.
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner  # noqa: E402
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (  # noqa: E402
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)

PLANNERS = {
    "default": (ExperimentPlanner, {}),
    "default_24gb": (ExperimentPlanner, {"gpu_memory_target_in_gb": 24}),
    "resenc_m": (nnUNetPlannerResEncM, {}),
    "resenc_l": (nnUNetPlannerResEncL, {}),
    "resenc_xl": (nnUNetPlannerResEncXL, {}),
}


def fields(made: dict[str, Any]) -> dict[str, Any]:
    """What is compared of one configuration; of one that inherits, only whose labels it takes."""
    if "architecture" not in made:
        return {name: made[name] for name in ("previous_stage",) if name in made}
    network = made["architecture"]["arch_kwargs"]
    return {
        "spacing": made["spacing"],
        "patch_size": made["patch_size"],
        "batch_size": made["batch_size"],
        "median_image_size_in_voxels": made["median_image_size_in_voxels"],
        "strides": network["strides"],
        "kernel_sizes": network["kernel_sizes"],
        "features_per_stage": network["features_per_stage"],
        "blocks_encoder": network.get("n_conv_per_stage") or network["n_blocks_per_stage"],
        "blocks_decoder": network["n_conv_per_stage_decoder"],
        "normalization": made["normalization_schemes"],
        "use_mask_for_norm": made["use_mask_for_norm"],
        "batch_dice": made["batch_dice"],
    }


def planned(name: str, planner: str) -> dict[str, Any]:
    """nnU-Net's answer to one dataset."""
    made, options = PLANNERS[planner]
    plans = made(name, **options).plan_experiment()
    return {
        "transpose_forward": [int(axis) for axis in plans["transpose_forward"]],
        "configurations": {configuration: fields(given) for configuration, given in plans["configurations"].items()},
    }


def too_slow(number: int, frame: object) -> None:
    raise TimeoutError(f"more than {limit} s")


def main() -> None:
    signal.signal(signal.SIGALRM, too_slow)
    for job in json.loads((work / "jobs.json").read_text()):
        signal.alarm(limit)
        try:
            answer = planned(job["name"], job["planner"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        signal.alarm(0)
        with (work / "answers.jsonl").open("a") as file:
            file.write(json.dumps(answer, default=float) + "\n")


if __name__ == "__main__":
    main()
