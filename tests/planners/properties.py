"""What every plan of `standard` promises, as one check; used by the tests and by the benchmark over 2,000 fingerprints."""

from __future__ import annotations

import math

import numpy as np
from analytic_cost import analytic_cost

from planners.budget import GIB, Budget
from planners.drafting import room_of
from planners.explain import unexplained
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.speed import Speed


def budget_for(seed: int) -> Budget:
    """A budget per seed: 0.5 to 80 GiB, each device, half of them with a time from a minute to a month."""
    rng = np.random.default_rng((seed, 1))
    device = ("cuda", "cpu", "mps")[int(rng.integers(3))]
    memory = int(GIB * np.exp(rng.uniform(np.log(0.5), np.log(80))))
    seconds = float(np.exp(rng.uniform(np.log(60), np.log(30 * 86400)))) if rng.random() < 0.5 else None
    speed = None
    if rng.random() < 0.5:
        flops = float(np.exp(rng.uniform(np.log(1e10), np.log(3e14))))
        speed = Speed(
            flops_per_second=flops, bytes_per_second=flops / float(rng.uniform(2, 200)), overhead_seconds=float(rng.uniform(0, 0.05))
        )
    return Budget(memory_bytes=memory, device=device, seconds=seconds, speed=speed)


def check_standard(plan: Plan, fingerprint: Fingerprint, budget: Budget) -> None:
    """Asserts the promises that hold for every fingerprint and budget."""
    assert unexplained(plan) == ()
    assert plan.in_channels(next(iter(plan.configurations))) == len(fingerprint.channel_names)
    limit = room_of(budget).limit
    for name, configuration in plan.configurations.items():
        stride = configuration.network.total_stride
        assert all(p % s == 0 for p, s in zip(configuration.patch_size, stride, strict=True)), name
        largest = [math.ceil(m / s) * s for m, s in zip(configuration.median_shape, stride, strict=True)]
        assert all(p <= most for p, most in zip(configuration.patch_size, largest, strict=True)), (name, configuration.patch_size, largest)
        assert configuration.batch_size >= 2
        traced = analytic_cost(
            configuration.network,
            patch_size=configuration.patch_size,
            batch_size=configuration.batch_size,
            in_channels=plan.in_channels(name),
            num_classes=plan.labels.num_classes,
            device=budget.device,
        )
        assert traced.training_bytes <= limit, (name, traced.training_bytes, limit)
    assert plan.training.seconds == budget.seconds
