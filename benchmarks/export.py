"""Export of logits to a label map: ours against torch (all classes, then argmax) and against nnU-Net's own function.

    python benchmarks/export.py [--classes 15] [--shape 200 256 256] [--target 300 400 400] [--nnunet /path/to/python]

`--nnunet` names a Python in whose environment nnU-Net 2 is installed. CPU seconds of one thread (best of three for ours),
growth of peak memory over the input, share of voxels with equal labels. Logits are synthetic: ellipsoids with noise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoseg3d.ops.labelling import grid_map, label_slabs
from planners.labels import Label, LabelTable

NNUNET = """
import json, resource, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
logits = np.load(sys.argv[1]); target = json.loads(sys.argv[2]); spacing = json.loads(sys.argv[3]); new = json.loads(sys.argv[4])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.process_time()
resized = resample_data_or_seg_to_shape(logits, target, spacing, new, is_seg=False, order=1, order_z=0, force_separate_z=None)
labels = torch.from_numpy(np.asarray(resized)).argmax(0).to(torch.uint8).numpy()
seconds = time.process_time() - begun
np.save(sys.argv[5], labels)
print(json.dumps([seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20]))
"""


def synthetic(classes: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """(classes, *shape) logits of `classes` - 1 ellipsoids on background, with smooth noise."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    logits = torch.zeros((classes, *shape))
    for k in range(1, classes):
        c, r = rng.uniform(-0.7, 0.7, 3), rng.uniform(0.12, 0.35, 3) * min(1.0, 20 / classes)
        distance = (((z - c[0]) / r[0]) ** 2 + ((y - c[1]) / r[1]) ** 2 + ((x - c[2]) / r[2]) ** 2).sqrt()
        logits[k] = 6 * (1 - distance).clamp(min=-3)
    for k in range(classes):
        noise = torch.randn((1, 1, *(n // 4 for n in shape)), generator=generator) * 0.5
        logits[k] += torch.nn.functional.interpolate(noise, size=shape, mode="trilinear")[0, 0]
    return logits


def ours(logits: Tensor, target: tuple[int, int, int], separate: int | None) -> np.ndarray:
    """The streamed way."""
    table = LabelTable(labels=tuple(Label(name=str(k), values=(k,), paint=k) for k in range(1, len(logits))))
    out = np.zeros(target, np.uint8)

    def slabs() -> Iterator[tuple[int, Tensor]]:
        for start in range(0, logits.shape[1], 8):
            yield start, logits[:, start : start + 8]

    label_slabs(slabs(), out, grid=grid_map(tuple(logits.shape[1:]), target, separate=separate), labels=table)  # type: ignore[arg-type]
    return out


def torch_all(logits: Tensor, target: tuple[int, int, int]) -> np.ndarray:
    """All classes on the target grid at once."""
    resized = torch.nn.functional.interpolate(logits[None], size=target, mode="trilinear", align_corners=False)[0]
    return resized.argmax(dim=0).to(torch.uint8).numpy()


def measured(function: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float, float]:
    """(result, best CPU seconds, growth of peak memory in GiB)."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        result = function()
        best = min(best, time.process_time() - begun)
    return result, best, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def nnunet(
    python: str, logits: Tensor, target: tuple[int, int, int], spacings: tuple[list[float], list[float]]
) -> tuple[np.ndarray, float, float]:
    """nnU-Net's own function in its own environment, one thread."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "logits.npy", Path(folder) / "labels.npy"
        np.save(source, logits.numpy())
        arguments = [str(source), json.dumps(target), *(json.dumps(s) for s in spacings), str(result)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        told = subprocess.run([python, "-c", NNUNET, *arguments], check=True, capture_output=True, text=True, env=environment).stdout
        seconds, memory = json.loads(told.strip().splitlines()[-1])
        return np.load(result), seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=15)
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 256, 256))
    parser.add_argument("--target", type=int, nargs=3, default=(300, 400, 400))
    parser.add_argument("--separate", action="store_true", help="anisotropic: nearest along axis 0")
    parser.add_argument("--nnunet")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logits, target = synthetic(chosen.classes, tuple(chosen.shape)), tuple(chosen.target)
    spacing = [5.0 if chosen.separate else 1.0, 1.0, 1.0]
    new = [s * n / m for s, n, m in zip(spacing, chosen.shape, target, strict=True)]
    rows = [("autoseg3d", *measured(lambda: ours(logits, target, 0 if chosen.separate else None), 3))]
    if not chosen.separate:
        rows.append(("torch, all classes", *measured(lambda: torch_all(logits, target), 1)))
    if chosen.nnunet:
        rows.append(("nnU-Net", *nnunet(chosen.nnunet, logits, target, (spacing, new))))
    sys.stdout.write(
        f"{chosen.classes} classes, {tuple(chosen.shape)} -> {target}\n| way | CPU s | memory GiB | equal labels |\n|---|---|---|---|\n"
    )
    for name, labels, seconds, memory in rows:
        sys.stdout.write(f"| {name} | {seconds:.2f} | {memory:.2f} | {(labels == rows[0][1]).mean():.7f} |\n")


if __name__ == "__main__":
    main()
