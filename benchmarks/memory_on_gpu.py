"""Traced memory of a training step against what a CUDA device really allocates, for twelve networks of four kinds.

    python benchmarks/memory_on_gpu.py

Prints, per network: `training_bytes` of the trace, `torch.cuda.max_memory_allocated` over three steps, and their ratio; at the end
whether all are within 15 %. Needs a CUDA device with about 10 GiB free.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from autoseg3d.cost import trace_cost, training_dtype
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build
from planners.families import RESENC, UNET, VNET, Family, lift
from planners.labels import label_table
from planners.topology import plan_topology

CUBE, THICK, PLANE = (1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0)
TABLE = label_table({"background": 0, "a": 1, "b": 2})
TOLERATED = 0.15

SUBJECTS: list[tuple[str, Family, int, tuple[float, ...], tuple[int, ...], int]] = [
    ("U-Net", UNET, 32, CUBE, (128, 128, 128), 2),
    ("U-Net", UNET, 32, CUBE, (96, 96, 96), 4),
    ("U-Net", UNET, 16, CUBE, (160, 160, 160), 2),
    ("U-Net, small patches", UNET, 32, CUBE, (40, 56, 40), 9),
    ("U-Net, thick slices", UNET, 32, THICK, (20, 320, 256), 2),
    ("U-Net, slices", UNET, 32, PLANE, (512, 512), 12),
    ("residual encoder", RESENC, 32, CUBE, (128, 128, 128), 2),
    ("residual encoder", RESENC, 32, CUBE, (64, 128, 128), 3),
    ("residual encoder, thick slices", RESENC, 32, THICK, (16, 256, 256), 2),
    ("residual encoder, slices", RESENC, 32, PLANE, (384, 384), 12),
    ("V-Net", VNET, 16, CUBE, (96, 96, 96), 2),
    ("V-Net", VNET, 16, CUBE, (64, 128, 128), 2),
]


def main() -> None:
    """Runs all subjects; exit code 1 where one is off by more than is tolerated."""
    if not torch.cuda.is_available():
        sys.exit("No CUDA device here: nothing was measured.")
    worst = 0.0
    for name, family, width, spacing, patch, batch in SUBJECTS:
        traced, real = measured(family.of_width(width), spacing, patch, batch)
        worst = max(worst, abs(traced / real - 1))
        size = "×".join(map(str, patch))
        sys.stdout.write(f"{name:32s} {width:3d} features {size:12s} batch {batch:2d}: {traced / 2**30:6.2f} GiB traced, ")
        sys.stdout.write(f"{real / 2**30:6.2f} GiB real, ratio {traced / real:.3f}\n")
    sys.stdout.write(f"worst {worst:.0%}, tolerated {TOLERATED:.0%}, on {torch.cuda.get_device_name()}\n")
    sys.exit(worst > TOLERATED)


def measured(family: Family, spacing: tuple[float, ...], patch: tuple[int, ...], batch: int) -> tuple[int, int]:
    """Bytes of a step as traced and as allocated, AdamW and averaged weights included."""
    topology = plan_topology(spacing, patch, kernel=family.kernel, least_stages=2)
    plan, shape = family.network(topology), lift(topology.patch)
    traced = trace_cost(
        plan, patch_size=shape, batch_size=batch, in_channels=1, num_classes=3, device="cuda", optimizer="adamw", averaged=True
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network, average = (build(plan, 1, 3, seed=0).to("cuda") for _ in range(2))
    loss = DeepSupervisionLoss(TABLE, batch_dice=True, num_outputs=len(plan.stages) - 1)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    image = torch.randn(batch, 1, *shape, device="cuda")
    target = (image[:, 0] > 0).to(torch.int16)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=training_dtype("cuda") == torch.bfloat16):
            outputs = network(image)
        loss(outputs, target).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, 0.01)
        del outputs
    return traced.training_bytes, torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()
