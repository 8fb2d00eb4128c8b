"""Forecast time of a training step against real steps, for eighteen networks of four kinds, from 8 to 32 features.

    python benchmarks/step_forecast.py [--device cpu] [--threads 1]

Before every network the speed is measured anew by the probe that `autoseg3d plan` uses, then the network takes a few steps with AdamW and
averaged weights, in the precision of training: on a busy machine both meet the same neighbours. Prints forecast, real
and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch

from autoseg3d.allocator import keep_freed_pages
from autoseg3d.cost import measure_speed, trace_cost
from autoseg3d.cost.speed import fastest_step
from planners.families import RESENC, UNET, VNET, Family, lift
from planners.topology import plan_topology

CUBE, THICK, PLANE = (1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0)
SUBJECTS: list[tuple[Family, int, tuple[float, ...], tuple[int, ...], int, int, int]] = [
    *((UNET, width, CUBE, (40, 56, 40), 2, 1, 3) for width in (8, 12, 16, 24, 32)),
    (UNET, 16, CUBE, (40, 56, 40), 4, 1, 3),
    (UNET, 16, CUBE, (64, 64, 64), 2, 1, 3),
    (UNET, 32, CUBE, (64, 64, 64), 2, 1, 3),
    (UNET, 16, CUBE, (64, 64, 64), 2, 3, 12),
    (UNET, 16, THICK, (12, 128, 128), 2, 1, 4),
    (UNET, 32, THICK, (8, 96, 96), 2, 1, 4),
    (UNET, 16, PLANE, (256, 256), 4, 1, 3),
    (UNET, 32, PLANE, (128, 128), 8, 1, 3),
    (RESENC, 16, CUBE, (48, 48, 48), 2, 1, 3),
    (RESENC, 32, CUBE, (32, 48, 48), 2, 1, 3),
    (VNET, 8, CUBE, (40, 40, 40), 2, 1, 3),
    (VNET, 16, CUBE, (32, 40, 40), 2, 1, 3),
]


def main() -> None:
    """Measures speed and subjects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_pages()
    off = []
    for family, width, spacing, patch, batch, channels, classes in SUBJECTS:
        narrow = family.of_width(width)
        topology = plan_topology(spacing, patch, kernel=narrow.kernel, least_stages=2)
        plan, shape = narrow.network(topology), lift(topology.patch)
        cost = trace_cost(
            plan,
            patch_size=shape,
            batch_size=batch,
            in_channels=channels,
            num_classes=classes,
            device=chosen.device,
            optimizer="adamw",
            averaged=True,
        )
        speed = measure_speed.__wrapped__(chosen.device)  # not the one it remembers
        forecast = speed.step_seconds(cost.work)
        real = fastest_step(plan, shape, batch=batch, in_channels=channels, num_classes=classes, device=torch.device(chosen.device))
        off.append(abs(forecast / real - 1))
        subject = f"{plan.architecture} {width} features {'×'.join(map(str, shape))} batch {batch}, {channels} channels, {classes} classes"
        sys.stdout.write(f"{subject:70s} forecast {forecast:6.3f} s, real {real:6.3f} s, ratio {forecast / real:.2f}\n")
        sys.stdout.flush()
    sys.stdout.write(f"off by {statistics.median(off):.0%} (median), {max(off):.0%} (worst)\n")


if __name__ == "__main__":
    main()
