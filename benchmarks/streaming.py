"""What prediction costs beside the network: a whole `Predictor.run` with a network that takes no time.

    python benchmarks/streaming.py [--native 600 512 512] [--spacing 1 0.8 0.8] [--working 1.5] [--classes 25 105] [--mirror]

For every number of classes, in a process of its own: CPU seconds of preprocessing, of windows (cutting, mirroring,
weighting, adding up) and of the export, one thread, and the peak memory of the process and what of it the scan is.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from autoseg3d.case import Case
from autoseg3d.geometry import Geometry
from autoseg3d.prediction import Predictor
from planners.fingerprint import IntensityStatistics
from planners.labels import Label, LabelTable
from planners.plan import Configuration, NetworkPlan, Plan, Stage

FEATURES = 32


class Instant(nn.Module):
    """Gives the same features for every window, at no cost; its head is real."""

    stride_zyx = (1, 1, 1)

    def __init__(self, patch: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        coarse = torch.randn((1, FEATURES, *(p // 16 for p in patch)), generator=torch.Generator().manual_seed(0))
        self.register_buffer("given", nn.functional.interpolate(coarse, size=patch, mode="trilinear"))
        self.head = nn.Conv3d(FEATURES, classes, 1).requires_grad_(False)
        few = self.head(self.given[..., ::8, ::8, ::8])
        self.head.bias[0] += (few.amax(dim=1) - few[:, 0]).flatten().quantile(0.85)  # background wins 85 % of the voxels
        self.register_buffer("logits", self.head(self.given) if classes <= FEATURES else torch.empty(0))

    def features(self, x: Tensor) -> Tensor:
        return self.given  # type: ignore[return-value]

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.logits,)  # type: ignore[return-value]


def make_plan(patch: tuple[int, int, int], spacing: float, classes: int, mirror: bool) -> Plan:
    stage = Stage(features=FEATURES, kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1)
    network = NetworkPlan(architecture="unet", stages=(stage, stage), decoder_blocks=(1,))
    configuration = Configuration(
        spacing_mm=(spacing,) * 3,
        median_shape=(100, 100, 100),
        patch_size=patch,
        batch_size=2,
        network=network,
        normalization=("ct",),
        use_mask_for_norm=(False,),
    )
    statistics = IntensityStatistics(mean=0, median=0, std=1, min=-5, max=5, percentile_00_5=-4, percentile_99_5=4)
    return Plan(
        planner="benchmark",
        dataset_name="Benchmark",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(0, 1, 2) if mirror else (),
        channel_names=("CT",),
        labels=LabelTable(labels=tuple(Label(name=str(k), values=(k,), paint=k) for k in range(1, classes))),
        intensities=(statistics,),
        configurations={"3d_fullres": configuration},
    )


def one(native: tuple[int, int, int], spacing: tuple[float, float, float], working: float, classes: int, mirror: bool) -> dict[str, float]:
    """Measures one number of classes in this process."""
    torch.set_num_threads(1)
    patch = (128, 128, 128)
    plan = make_plan(patch, working, classes, mirror)
    image = np.random.default_rng(0).standard_normal((1, *native), dtype=np.float32)
    case = Case("scan", image, Geometry.from_affine(native, np.diag([*spacing[::-1], 1.0])))
    predictor = Predictor(plan, "3d_fullres", [Instant(patch, classes).eval()], device="cpu", precision="fp32")
    predictor._ready[("fp32", torch.device("cpu"))] = predictor._networks
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begun = time.process_time()
    prepared = predictor.prepare(case)
    preprocess = time.process_time() - begun
    del case, image
    begun, wall = time.process_time(), time.perf_counter()
    prediction = predictor.run(prepared)
    cpu, wall = time.process_time() - begun, time.perf_counter() - wall
    share = prediction.seconds["network"] / wall
    shape = prepared.working.placement.working_shape
    windows = math.prod(math.ceil((n - p) / (p / 2)) + 1 for n, p in zip(shape, patch, strict=True))
    return {
        "windows": windows,
        "preprocess": preprocess,
        "adding up": cpu * share,
        "export": cpu * (1 - share),
        "before GiB": base,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--native", type=int, nargs=3, default=(600, 512, 512))
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 0.8, 0.8))
    parser.add_argument("--working", type=float, default=1.5)
    parser.add_argument("--classes", type=int, nargs="+", default=(25, 105))
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        found = one(tuple(chosen.native), tuple(chosen.spacing), chosen.working, chosen.classes[0], chosen.mirror)
        sys.stdout.write(json.dumps(found))
        return
    for i, classes in enumerate(chosen.classes):
        arguments = [*map(str, ("--native", *chosen.native, "--spacing", *chosen.spacing, "--working", chosen.working))]
        arguments += ["--classes", str(classes), "--child", *(["--mirror"] if chosen.mirror else [])]
        told = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout
        row = json.loads(told)
        if i == 0:
            sys.stdout.write(f"| classes | {' | '.join(row)} |\n|{'---|' * (len(row) + 1)}\n")
        sys.stdout.write(f"| {classes} | {' | '.join(f'{value:.2f}' for value in row.values())} |\n")


if __name__ == "__main__":
    main()
