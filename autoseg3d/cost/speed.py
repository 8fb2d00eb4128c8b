"""How fast this machine trains: real steps of three small networks, in the precision that training will use."""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from autoseg3d.allocator import keeping_freed_pages
from autoseg3d.cost.forecast import trace_cost, training_dtype
from autoseg3d.cost.trace import class_labels
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build
from planners.contract import Triple
from planners.plan import NetworkPlan, Stage
from planners.speed import Speed, Work

_BATCH = 2
_LONG_ENOUGH_SECONDS = 0.1
_FEWEST = 3
_NEVER = 1e-18  # seconds of an operation or byte that took no time to be seen


@dataclass(frozen=True)
class _Probe:
    """A U-Net of two stages from `features`, on cubic patches that grow along `edges` until a step takes long enough."""

    features: int
    kernel: Triple
    edges: tuple[int, ...]


# Almost nothing to compute; few operations per byte, as in narrow networks and thick slices; many, as in wide ones.
_PROBES = (
    _Probe(16, (3, 3, 3), (8,)),
    _Probe(16, (1, 3, 3), (32, 48, 64, 96, 128)),
    _Probe(64, (3, 3, 3), (16, 24, 32, 48, 64, 96)),
)


@cache
def measure_speed(device: str = "cpu", *, seconds: float = 0.6) -> Speed:
    """How fast `device` trains, for `Budget.speed`; measured once per process.

    Three small U-Nets with deep supervision, Dice and cross-entropy, AdamW and averaged weights: one that is all overhead, one
    that is bound by memory, one by arithmetic. The patches of the last two grow until a step takes a tenth of a second, so
    that a GPU is not judged by its launching of kernels.

    Args:
        device: as torch names it; measured with this process's number of threads.
        seconds: how long to measure once the probes are set up, which takes about a second.

    Returns:
        The Speed that explains the undisturbed step of each best.
    """
    target = torch.device(device)
    with keeping_freed_pages() if target.type == "cpu" else contextlib.nullcontext():
        prepared = [_prepared(probe, target) for probe in _PROBES]
        times: list[list[tuple[float, float]]] = [[] for _ in prepared]
        until = time.perf_counter() + seconds
        # By turns, so that what disturbs one for a while does not spoil it alone.
        while len(times[0]) < _FEWEST or time.perf_counter() < until:
            for found, (step, _) in zip(times, prepared, strict=True):
                found.append(_timed(step))
    return explained([work for _, work in prepared], [fastest(found, target) for found in times])


def fastest_step(network: NetworkPlan, patch: Triple, *, batch: int, in_channels: int, num_classes: int, device: torch.device) -> float:
    """Seconds of an undisturbed training step of a network, the best of four."""
    step = _steps(network, patch, batch=batch, in_channels=in_channels, num_classes=num_classes, device=device)
    step()
    return fastest([_timed(step) for _ in range(4)], device)


def explained(works: Sequence[Work], seconds: Sequence[float]) -> Speed:
    """The Speed whose forecasts come nearest to what was measured, by the relative error; no rate is negative."""
    rows = np.array([[work.flops, work.moved_bytes, 1.0] for work in works]) / np.array(seconds)[:, None]
    best, least = np.zeros(3), np.inf
    for count in range(1, 4):
        for used in itertools.combinations(range(3), count):
            found = np.zeros(3)
            found[list(used)] = np.linalg.lstsq(rows[:, used], np.ones(len(rows)), rcond=None)[0]
            error = float(np.square(rows @ found - 1).sum())
            if (found >= 0).all() and error < least - 1e-12:
                best, least = found, error
    flops, moved, overhead = (float(value) for value in best)
    return Speed(flops_per_second=1 / max(flops, _NEVER), bytes_per_second=1 / max(moved, _NEVER), overhead_seconds=overhead)


def _prepared(probe: _Probe, device: torch.device) -> tuple[Callable[[], float], Work]:
    """A step on the smallest patch that takes long enough, already warm, and its work."""
    network, known = _network(probe), {"batch": _BATCH, "in_channels": 1, "num_classes": 2}
    for edge in probe.edges:
        step = _steps(network, (edge,) * 3, device=device, **known)
        step()
        if _timed(step)[0] >= _LONG_ENOUGH_SECONDS:
            break
    counted = {"patch_size": (edge,) * 3, "batch_size": _BATCH, "in_channels": 1, "num_classes": 2}
    cost = trace_cost(network, **counted, device=device.type, optimizer="adamw", averaged=True)  # type: ignore[arg-type]
    return step, cost.work


def fastest(times: Sequence[tuple[float, float]], device: torch.device) -> float:
    """Seconds of the best step, from (wall-clock, processor time) of several."""
    return undisturbed(times) if device.type == "cpu" else min(wall for wall, _ in times)


def undisturbed(times: Sequence[tuple[float, float]]) -> float:
    """Seconds of a step on a CPU of its own, from (wall-clock, processor time) of several steps beside other programs.

    Processor time hardly grows when others compute, wall-clock time does. The step that made most of its time on the clock
    tells how many processors a step keeps busy; divided among those, the least processor time is the answer.
    """
    busy = max(processor / wall for wall, processor in times)
    return min(processor for _, processor in times) / busy


def _network(probe: _Probe) -> NetworkPlan:
    strides = ((1, 1, 1), (2, 2, 2))
    stages = tuple(Stage(features=probe.features * 2**i, kernel=probe.kernel, stride=stride, blocks=2) for i, stride in enumerate(strides))
    return NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(2,))


def _steps(
    network: NetworkPlan, patch: Triple, *, batch: int, in_channels: int, num_classes: int, device: torch.device
) -> Callable[[], float]:
    """A function that takes one training step and returns when the device has finished it."""
    module = build(network, in_channels, num_classes).to(device)
    average = copy.deepcopy(module).requires_grad_(False)
    update = _adamw(list(module.parameters()), fused=device.type in ("cpu", "cuda"))
    loss = DeepSupervisionLoss(class_labels(num_classes), batch_dice=False, num_outputs=len(network.stages) - 1)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, in_channels, *patch, generator=generator).to(device)
    target = (image[:, 0] > 0).to(torch.int16)
    dtype = training_dtype(device.type)

    def step() -> float:
        module.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32):
            outputs = module(image)
        value = loss(outputs, target)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 12.0)
        with torch.no_grad():
            update()
            for mean, new in zip(average.parameters(), module.parameters(), strict=True):
                mean.lerp_(new, 0.01)
        return float(value.detach())  # waits for the device

    return step


def _adamw(parameters: list[nn.Parameter], *, fused: bool) -> Callable[[], None]:
    """A function that takes a step of AdamW. torch's optimiser object would import its compiler, which takes a second."""
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    device = parameters[0].device if fused else None
    steps: list[Tensor] = [torch.zeros((), device=device) for _ in parameters]

    def update() -> None:
        adamw(
            list[Tensor](parameters),
            [p.grad for p in parameters if p.grad is not None],
            means,
            squares,
            [],
            steps,
            fused=fused,
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=1e-4,
            weight_decay=0.01,
            eps=1e-8,
            maximize=False,
        )

    return update


def _timed(step: Callable[[], float]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - processor
