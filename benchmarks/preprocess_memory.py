"""The peak memory of preparing one large labelled CT, in a process of its own.

Usage: python benchmarks/preprocess_memory.py [--shape 600 512 512] [--spacing 1.0 0.8 0.8] [--target 1.5 1.0 1.0] [--repeats 3]

Reads a .nii.gz of int16 and its label map of uint8, crops, normalises, resamples (order 3, labels order 1) and stores the case.
The volume is smooth noise in an ellipse with air of -1024 around it, as CT has; labels are eight blocks.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from autoseg3d.geometry import Geometry
from autoseg3d.io import open_dataset, write_image, write_labels
from autoseg3d.preprocessing import prepare
from planners.fingerprint import IntensityStatistics
from planners.labels import label_table
from planners.plan import Configuration, NetworkPlan, Plan, Stage

_LIMIT_BYTES = 4 * 10**9
NAMES: dict[str, int] = {"background": 0, **{f"organ {i}": i for i in range(1, 9)}}


def main() -> None:
    """Writes the case, prepares it some times in children, and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(600, 512, 512))
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 0.8, 0.8))
    parser.add_argument("--target", type=float, nargs=3, default=(1.5, 1.0, 1.0))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare is not None:
        prepare(open_dataset(arguments.prepare), plan_for(tuple(arguments.target)), "3d_fullres", arguments.prepare / "cache")
        return
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), tuple(arguments.shape), tuple(arguments.spacing))
        command = [sys.executable, __file__, "--target", *map(str, arguments.target), "--prepare", folder]
        runs = [measured(command, Path(folder)) for _ in range(arguments.repeats)]
    seconds, peak = np.median(np.array(runs), axis=0)
    print(f"{' × '.join(map(str, arguments.shape))} at {arguments.spacing} mm to {arguments.target} mm, median of {len(runs)}:")
    print(f"  {seconds:.1f} s with start-up, peak memory {peak / 2**30:.2f} GiB = {peak / _LIMIT_BYTES:.0%} of 4 GB")


def measured(command: list[str], folder: Path) -> tuple[float, int]:
    """Wall seconds and bytes of the child at its largest."""
    for path in sorted((folder / "cache").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"preparing ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def write_dataset(folder: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """A dataset with the one case, written slab by slab so that this process stays small for its children's sake."""
    rng = np.random.default_rng(0)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape[1:])
    inside = (y[:, None] / 0.8) ** 2 + (x[None, :] / 0.9) ** 2 < 1
    image, labels = np.full(shape, -1024, dtype=np.int16), np.zeros(shape, dtype=np.uint8)
    texture = rng.normal(40, 30, (shape[1], shape[2])).astype(np.int16)
    for k in range(shape[0]):
        image[k][inside] = np.roll(texture, 7 * k, axis=1)[inside]
    for i in range(8):
        side = [slice(n * (2 + (i >> axis & 1) * 3) // 8, n * (4 + (i >> axis & 1) * 3) // 8) for axis, n in enumerate(shape)]
        labels[tuple(side)] = i + 1
    geometry = Geometry.from_affine(shape, np.diag([-spacing[2], -spacing[1], spacing[0], 1.0]))
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    write_image(folder / "imagesTr" / "a_0000.nii.gz", image, geometry)
    write_labels(folder / "labelsTr" / "a.nii.gz", labels, geometry)
    document = {"channel_names": {"0": "CT"}, "labels": NAMES, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(document))


def plan_for(spacing: tuple[float, ...]) -> Plan:
    """A plan with CT normalisation at a spacing; its network does not matter."""
    stage = Stage(features=8, kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1)
    configuration = Configuration.model_validate(
        {
            "spacing_mm": spacing,
            "median_shape": (100.0, 100.0, 100.0),
            "patch_size": (64, 64, 64),
            "batch_size": 2,
            "network": NetworkPlan(architecture="unet", stages=(stage, stage), decoder_blocks=(1,)),
            "normalization": ("ct",),
            "use_mask_for_norm": (False,),
        }
    )
    statistics = IntensityStatistics(mean=40, median=40, std=60, min=-1024, max=3000, percentile_00_5=-900, percentile_99_5=400)
    return Plan(
        planner="benchmark",
        dataset_name="Large",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(),
        channel_names=("CT",),
        labels=label_table(NAMES),
        intensities=(statistics,),
        configurations={"3d_fullres": configuration},
    )


if __name__ == "__main__":
    main()
