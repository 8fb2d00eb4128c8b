"""What a whole prediction takes in memory and time, from a file on disk to a label map on disk, against its own forecast.

    python benchmarks/memory.py               512×512×600 at 0.8×0.8×1 mm, working grid 1.5 mm, 25 and 105 classes
    python benchmarks/memory.py growth        scans of 1, 2 and 4 lengths, and 5, 25 and 105 classes
    python benchmarks/memory.py bound         the first scan once more, bounded by --max-memory

Every row is a process of its own, which reads a scan, predicts and writes. Its peak is the high-water mark of its resident
memory. The network is small (two stages, random weights, a background that wins 85 % of the voxels, no mirrored copies), so
that a row takes minutes on one core; a larger one makes the share of time outside the network smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoseg3d.geometry import Geometry
from autoseg3d.io import CaseFiles, write_image
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from autoseg3d.prediction import CaseRecord, PredictOptions, predict_scans
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from planners.labels import Label, LabelTable
from planners.plan import Configuration, NetworkPlan, Plan, Stage

PATCH = (128, 128, 128)
STATISTICS = IntensityStatistics(mean=40, median=40, std=150, min=-1000, max=1000, percentile_00_5=-900, percentile_99_5=600)


@dataclass(frozen=True)
class Setting:
    """One row: shape (z, y, x) and spacing of the scan, spacing of the working grid in mm, classes, features of the network."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    working: float
    classes: int
    features: int
    limit: int | None = None


def write_scan(path: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """A body in air with a few smooth organs and noise, int16."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(0, 200, (1, 1, 24, 20, 20)).astype(np.float32))
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    body = (y / 0.7) ** 2 + (x / 0.9) ** 2 < 1
    image = np.empty(shape, np.int16)
    for z in range(shape[0]):
        at = z / max(shape[0] - 1, 1) * 23
        low = int(at)
        plane = torch.lerp(coarse[:, :, low], coarse[:, :, min(low + 1, 23)], at - low)
        tissue = nn.functional.interpolate(plane, size=shape[1:], mode="bicubic")[0, 0].numpy()
        image[z] = np.where(body, 40 + tissue + 4 * rng.integers(-3, 4, shape[1:]), -1000)
    write_image(path, image, Geometry.from_affine(shape, np.diag([*spacing[::-1], 1.0])))


def make_plan(setting: Setting) -> Plan:
    first = Stage(features=setting.features, kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1)
    second = Stage(features=2 * setting.features, kernel=(3, 3, 3), stride=(2, 2, 2), blocks=1)
    configuration = Configuration(
        spacing_mm=(setting.working,) * 3,
        median_shape=(100, 100, 100),
        patch_size=PATCH,
        batch_size=2,
        network=NetworkPlan(architecture="unet", stages=(first, second), decoder_blocks=(1,)),
        normalization=("ct",),
        use_mask_for_norm=(False,),
    )
    return Plan(
        planner="benchmark",
        dataset_name="Benchmark",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(),
        channel_names=("CT",),
        labels=LabelTable(labels=tuple(Label(name=f"label {k}", values=(k,), paint=k) for k in range(1, setting.classes))),
        intensities=(STATISTICS,),
        configurations={"3d_fullres": configuration},
    )


def write_model(folder: Path, setting: Setting) -> None:
    plan = make_plan(setting)
    known = CaseFingerprint(
        id="a",
        shape=setting.shape,
        shape_after_crop=setting.shape,
        spacing_mm=setting.spacing,
        orientation="RAS",
        relative_size_after_crop=1,
    )
    fingerprint = Fingerprint(
        dataset_name="Benchmark",
        channel_names=("CT",),
        labels=plan.labels,
        num_training=1,
        cases=(known,),
        intensities=(STATISTICS,),
        median_relative_size_after_crop=1,
    )
    network: Any = build(plan.configurations["3d_fullres"].network, 1, setting.classes, seed=0).eval()
    smooth = nn.functional.interpolate(
        torch.randn((1, 1, 6, 6, 6), generator=torch.Generator().manual_seed(0)), size=(64, 64, 64), mode="trilinear"
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 5:
                parameter.abs_()  # averages of what is around a voxel: features as smooth as a trained network's
        head = next(module for module in network.head.modules() if isinstance(module, nn.Conv3d))
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)))
        logits = network(smooth)[0]
        lead = logits[:, 1:].amax(dim=1) - logits[:, 0]
        assert head.bias is not None
        head.bias[0] += lead.flatten().quantile(0.85)
    create_package(folder, plan, fingerprint)
    add_fold(folder, configuration="3d_fullres", fold="0", weights=network.state_dict(), scores={"bf16_agreement": 1.0})


def predict_in_child(setting: Setting, folder: Path) -> dict[str, float]:
    """Runs one setting in a fresh process and adds up what it took."""
    model, out = folder / f"model_{setting.classes}_{setting.features}", folder / "out"
    scan = folder / "scans" / f"scan_{'_'.join(map(str, setting.shape))}.nii.gz"
    if not scan.exists():
        write_scan(scan, setting.shape, setting.spacing)
    if not model.exists():
        write_model(model, setting)
    for path in out.glob("*"):
        path.unlink()
    begun = time.perf_counter()
    arguments = [sys.executable, __file__, "child", str(scan), str(model), str(out), str(setting.limit or 0)]
    process = subprocess.Popen(arguments)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the child process ended with {process.returncode}")
    record = CaseRecord.model_validate_json((out / "scan.json").read_text())
    seconds = {name: record.seconds[name] for name in ("read", "preprocess", "predict", "write")}
    # The record's own mark covers all up to the end of the networks, the system's what came after.
    peak = max(record.peak_bytes, usage.ru_maxrss * 1024)
    return {
        "process s": time.perf_counter() - begun,
        "network s": record.seconds["network"],
        "outside": 1 - record.seconds["network"] / sum(seconds.values()),
        "export s": record.seconds["export"],
        "peak GiB": peak / 2**30,
        "forecast GiB": (record.forecast_bytes or 0) / 2**30,
        "forecast/peak": (record.forecast_bytes or 0) / peak,
        **{f"{name} s": value for name, value in seconds.items()},
    }


def child(arguments: list[str]) -> None:
    scan, model, out, limit = arguments
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    options = PredictOptions(device="cpu", mirror=False, precision="bf16", max_memory_bytes=int(limit) or None)
    [result] = predict_scans([CaseFiles("scan", (Path(scan),))], Path(model), Path(out), options)
    if result.status == "failed":
        sys.stderr.write(f"{result.cause}\n")
        raise SystemExit(3)


def show(rows: list[tuple[str, dict[str, float]]]) -> None:
    sys.stdout.write(f"| setting | {' | '.join(rows[0][1])} |\n|{'---|' * (len(rows[0][1]) + 1)}\n")
    for name, row in rows:
        sys.stdout.write(f"| {name} | {' | '.join(f'{value:.2f}' for value in row.values())} |\n")
    sys.stdout.flush()


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["large", "growth", "bound"], default="large")
    parser.add_argument("--folder", type=Path, help="where scans and models are kept; a temporary folder by default")
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--limit-gib", type=float, default=2.0)
    chosen = parser.parse_args()
    large = Setting((600, 512, 512), (1.0, 0.8, 0.8), 1.5, 25, chosen.features)
    settings = {
        "large": [("25 classes", large), ("105 classes", Setting(large.shape, large.spacing, 1.5, 105, chosen.features))],
        "bound": [
            (
                f"{classes} classes, {chosen.limit_gib:g} GiB",
                Setting(large.shape, large.spacing, 1.5, classes, chosen.features, int(chosen.limit_gib * 2**30)),
            )
            for classes in (25, 105)
        ],
        "growth": [
            *((f"{n} slices, 25 classes", Setting((n, 192, 192), (1.5, 1.5, 1.5), 1.5, 25, 8)) for n in (150, 300, 600)),
            *((f"150 slices, {k} classes", Setting((150, 192, 192), (1.5, 1.5, 1.5), 1.5, k, 8)) for k in (5, 105)),
        ],
    }[chosen.what]
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [(name, predict_in_child(setting, folder)) for name, setting in settings]
    show(rows)
    sys.stdout.write(json.dumps(dict(rows)) + "\n")


if __name__ == "__main__":
    main()
