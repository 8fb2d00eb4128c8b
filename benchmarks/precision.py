"""Is training in bfloat16 training? Gradients of one step, layer by layer, and short trainings, beside float32.

Usage: python benchmarks/precision.py [--plans FILE] [--part 0/6] [--width 8] [--gib 3] [--seconds 400]
       python benchmarks/precision.py --train RAW --change ASSIGNMENT … [--seeds 3] [--iterations 60]

--plans  JSON of nnU-Net plans: {"pairs": [{"dataset": …, "plans": {name: {"configurations": …}}}]}. Every geometry (patch, kernels,
         strides, blocks) in it is built once, --width features in its first stage, and takes one step from the same weights on the
         same batch in both precisions, where the float32 step fits into --gib. The error of a layer is |g_bf16 − g_fp32| / |g_fp32| of
         its weights. What an error must be is told by a third step: float32 convolutions whose inputs, weights and results are
         rounded to bfloat16. The same step once more with plain convolutions shows what our own are for. --part I/N takes every
         N-th geometry from the I-th on, in the order of their patches' sizes.
--train  plans RAW with the given changes and trains fold 0 in both precisions from several seeds; prints loss and pseudo-Dice.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes
from autoseg3d.cost import trace_cost
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build
from autoseg3d.networks.blocks import Convolution
from autoseg3d.training import TrainOptions
from planners.labels import Label, LabelTable
from planners.plan import NetworkPlan, Stage

# A layer whose error is this many times that of rounding is computed wrongly.
_SAME = 3.0
_WIDEST = 10  # times the first stage's features, as in nnU-Net's plans (320 over 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=Path)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--gib", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--change", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    if options.plans is not None:
        compare_gradients(options)
    if options.train is not None:
        compare_trainings(options)


def compare_gradients(options: argparse.Namespace) -> None:
    """One step of every geometry in both precisions; prints the worst layers and a summary."""
    began, rows, left_out, plain_caught = time.monotonic(), [], 0, 0
    first, every = (int(number) for number in options.part.split("/"))
    for name, patch, classes, network in geometries(options.plans, options.width)[first::every]:
        arguments: dict[str, Any] = {"patch_size": patch, "batch_size": 1, "in_channels": 1, "num_classes": classes, "device": "cpu"}
        if trace_cost(network, **arguments, dtype=torch.float32).training_bytes > options.gib * 2**30 or (
            time.monotonic() - began > options.seconds
        ):
            left_out += 1
            continue
        exact, *others = (gradients(network, patch, classes, way) for way in ("fp32", "bf16", "rounded", "bf16 plain"))
        ours, rounded, plain = (errors_of(exact, other) for other in others)
        ratios = {layer: ours[layer] / rounded[layer] for layer in ours}
        worst = max(ratios, key=lambda layer: ratios[layer])
        bad = sum(not plain[layer] / rounded[layer] < _SAME for layer in plain)
        plain_caught += bad > 0
        rows.append((ratios[worst], *(statistics.median(errors.values()) for errors in (ours, rounded))))
        print(
            f"{name:34} {patch!s:16} median layer {rows[-1][1]:.3f}, rounded {rows[-1][2]:.3f}; most beyond it: "
            f"{ratios[worst]:.2f} times ({worst}, {ours[worst]:.3f})" + (f"; plain convolutions: {bad} layers wrong" if bad else ""),
            flush=True,
        )
    worst_ratios, medians, rounded_medians = zip(*rows, strict=True)
    print(f"{len(rows)} geometries, {left_out} left out for memory or time")
    print(f"error of the median layer: {statistics.median(medians):.3f}; with rounding alone {statistics.median(rounded_medians):.3f}")
    print(f"the layer most beyond its rounding: {max(worst_ratios):.2f} times")
    print(f"with plain convolutions {plain_caught} of {len(rows)} geometries had layers more than {_SAME} times beyond")


def geometries(file: Path, width: int) -> list[tuple[str, tuple[int, int, int], int, NetworkPlan]]:
    """(name, patch, classes, network) of every geometry in the file, once each, small patches first."""
    return sorted(_geometries(file, width), key=lambda found: math.prod(found[1]))


def _geometries(file: Path, width: int) -> Iterator[tuple[str, tuple[int, int, int], int, NetworkPlan]]:
    seen = set()
    for number, pair in enumerate(json.loads(file.read_text())["pairs"]):
        classes = min(len(pair["dataset"]["labels"]), 8)
        for planner, plan in pair["plans"].items():
            for name, entry in plan.get("configurations", {}).items():
                if "patch_size" not in entry:
                    continue
                network, patch = _network(planner, entry, width), _triple(entry["patch_size"])
                key = (patch, network.to_json())
                if key not in seen:
                    seen.add(key)
                    yield f"{number} {planner} {name}", patch, classes, network


def _network(planner: str, entry: dict[str, Any], width: int) -> NetworkPlan:
    stages = tuple(
        Stage(features=min(width * 2**i, _WIDEST * width), kernel=_triple(kernel), stride=_triple(stride), blocks=blocks)
        for i, (kernel, stride, blocks) in enumerate(zip(entry["kernel_sizes"], entry["strides"], entry["blocks_encoder"], strict=True))
    )
    architecture = "resenc" if planner.startswith("resenc") else "unet"
    return NetworkPlan(architecture=architecture, stages=stages, decoder_blocks=tuple(entry["blocks_decoder"]))


def _triple(values: list[int]) -> tuple[int, int, int]:
    z, y, x = (1, *values) if len(values) == 2 else values
    return (z, y, x)


def gradients(network: NetworkPlan, patch: tuple[int, int, int], classes: int, way: str) -> dict[str, torch.Tensor]:
    """Weight gradients of one step on a batch of smooth noise whose bands are the labels."""
    module = build(network, 1, classes, seed=0)
    for name, parameter in module.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)  # residual blocks begin with zeros, behind which all gradients are zero
    for layer in module.modules():
        if way == "bf16 plain" and isinstance(layer, Convolution):
            layer.forward = nn.Conv3d.forward.__get__(layer)  # type: ignore[method-assign]
        if way == "rounded" and isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.forward = _rounded_forward.__get__(layer)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, *(max(1, n // 8) for n in patch), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=patch, mode="trilinear")
    image = smooth + 0.3 * torch.randn(smooth.shape, generator=generator)
    target = ((smooth[:, 0] + 1.5) * classes / 3).clamp(0, classes - 1).to(torch.int16)
    labels = LabelTable(labels=tuple(Label(name=f"{i}", values=(i,), paint=i) for i in range(1, max(classes, 2))))
    loss = DeepSupervisionLoss(labels, batch_dice=False, num_outputs=len(network.stages) - 1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way.startswith("bf16")):
        outputs = module(image)
    loss(outputs, target).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.dim() == 5 and p.grad is not None}


def _rounded_forward(layer: nn.Conv3d | nn.ConvTranspose3d, x: torch.Tensor) -> torch.Tensor:
    transposed = isinstance(layer, nn.ConvTranspose3d)
    convolve = nn.functional.conv_transpose3d if transposed else nn.functional.conv3d
    return _rounded(convolve(_rounded(x), _rounded(layer.weight), layer.bias, layer.stride, layer.padding))


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).float()


def errors_of(exact: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative error of each layer's weight gradient; inf where it is not finite."""
    found = {name: float((other[name] - exact[name]).double().norm() / exact[name].double().norm()) for name in exact}
    return {name: error if error - error == 0 else float("inf") for name, error in found.items()}


def compare_trainings(options: argparse.Namespace) -> None:
    """Short trainings of both precisions from the same seeds, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        api.plan(options.train, run, wishes=PlanWishes(changes=tuple(options.change)))
        ends: dict[str, list[tuple[float, float]]] = {"fp32": [], "bf16": []}
        for seed in range(options.seeds):
            for precision, found in ends.items():
                wishes: dict[str, Any] = {"epochs": options.epochs, "iterations": options.iterations, "precision": precision, "seed": seed}
                train = TrainOptions(**wishes, device="cpu", workers=0, mode="restart", validate_cases=False)
                api.train(run, fold="0", configuration="3d_fullres", options=train)
                last = json.loads((run / "folds" / "3d_fullres" / "fold_0" / "log.jsonl").read_text().splitlines()[-1])
                found.append((last["validation_loss"], last["mean_dice"]))
                print(f"{options.train.name} seed {seed} {precision}: loss {found[-1][0]:.4f}, pseudo-Dice {found[-1][1]:.4f}", flush=True)
        for precision, found in ends.items():
            losses, dices = zip(*found, strict=True)
            print(f"{precision}: loss {statistics.fmean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f}), "
                  f"pseudo-Dice {statistics.fmean(dices):.4f} ({min(dices):.4f} to {max(dices):.4f})")  # fmt: skip


if __name__ == "__main__":
    main()
