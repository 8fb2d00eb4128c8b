"""How fast this machine trains: a few real steps of a small U-Net, in the precision that training will use."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from autoseg3d.cost.forecast import trace_cost, training_dtype
from autoseg3d.losses import DeepSupervisionLoss
from autoseg3d.networks import build
from planners.labels import Label, LabelTable
from planners.plan import NetworkPlan, Stage

# A step counts its forward pass three times: the backward pass computes two products of the same size.
STEP_FLOPS = 3
_EDGES = (32, 48, 64, 96)
_LABELS = LabelTable(labels=(Label(name="object", values=(1,), paint=1),))
_BATCH = 2


def measure_flops_per_second(device: str | torch.device = "cpu", *, seconds: float = 2.0) -> float:
    """Training throughput of `device` for `Budget.flops_per_second`: FLOPs of the forward pass, three times, per second.

    The probe is a three-stage U-Net from 32 features with deep supervision, Dice and cross-entropy, and SGD. Its cubic
    patch grows until a step takes a fifth of a second, so that a GPU is not judged by its launching of kernels.

    Args:
        device: as torch names it; measured with this process's number of threads.
        seconds: how long to measure after the patch is found; at least three steps are taken.

    Returns:
        The rate of the fastest step. The whole call lasts two to four seconds on common machines.
    """
    target = torch.device(device)
    network = _network()
    for edge in _EDGES:
        step = _steps(network, edge, target)
        step()
        if _timed(step) >= 0.2:
            break
    until = time.perf_counter() + seconds
    durations = [_timed(step) for _ in range(3)]
    while time.perf_counter() < until:
        durations.append(_timed(step))
    cost = trace_cost(network, patch_size=(edge,) * 3, batch_size=_BATCH, in_channels=1, num_classes=2, device=target.type)
    # The fastest step: what slows the others is somebody else's work, which will hardly last as long as the training.
    return STEP_FLOPS * cost.forward_flops / min(durations)


def _network() -> NetworkPlan:
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    stages = tuple(Stage(features=32 * 2**i, kernel=(3, 3, 3), stride=stride, blocks=2) for i, stride in enumerate(strides))
    return NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(2, 2))


def _steps(network: NetworkPlan, edge: int, device: torch.device) -> Callable[[], float]:
    """A function that takes one training step and returns when the device has finished it."""
    module = build(network, 1, 2).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.99, nesterov=True)
    loss = DeepSupervisionLoss(_LABELS, batch_dice=False, num_outputs=2)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(_BATCH, 1, edge, edge, edge, generator=generator).to(device)
    target = (image[:, 0] > 0).to(torch.int16)
    dtype = training_dtype(device.type)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32):
            outputs = module(image)
        value = loss(outputs, target)
        value.backward()
        optimizer.step()
        return float(value.detach())  # waits for the device

    return step


def _timed(step: Callable[[], float]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
