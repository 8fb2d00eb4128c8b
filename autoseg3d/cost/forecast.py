"""From a traced step to the memory of a process: weights, optimiser, averaged weights and what the step itself needs."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch

from autoseg3d.cost.trace import Trace, trace
from autoseg3d.devices import fast_bfloat16
from planners.budget import NetworkCost
from planners.contract import Triple
from planners.plan import NetworkPlan

# Working memory of a convolution per byte that it reads and writes. CPU: what real steps took beyond their tensors, by
# oneDNN's reordered copies and the heap's gaps, fitted to seven plans in two precisions (measured peaks: most within 25 %).
# Elsewhere an allowance, not measured.
_REORDER = {"cpu": 2.25}
_REORDER_ELSEWHERE = 1.0
_SLOTS = {"sgd": 1, "adamw": 2}
# Passes over all weights in float32, each a read or a write: clipping the gradients takes three, an optimiser reads weight,
# gradient and its slots and writes weight and slots, averaging takes three.
_CLIPPING, _AVERAGING = 3, 3


def training_dtype(device: str) -> torch.dtype:
    """The type that convolutions are trained in on a kind of device ("cpu", "cuda", "mps"): bfloat16 where it is fast.

    A CUDA device that is planned for on another machine is taken to have it.
    """
    elsewhere = device == "cuda" and not torch.cuda.is_available()
    return torch.bfloat16 if elsewhere or fast_bfloat16(device) else torch.float32


def trace_cost(
    network: NetworkPlan,
    *,
    patch_size: Triple,
    batch_size: int,
    in_channels: int,
    num_classes: int,
    device: str,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    averaged: bool = False,
    dtype: torch.dtype | None = None,
) -> NetworkCost:
    """What a network costs to train and to run; a planners' CostFunction. Equal questions are answered from memory.

    Args:
        network: architecture and stage table; any registered architecture.
        patch_size: (Z, Y, X), divisible by the network's total stride.
        batch_size: patches per step.
        in_channels, num_classes: of the network.
        device: "cpu", "cuda" or "mps".
        optimizer: "sgd" with momentum or "adamw".
        averaged: whether averaged weights are kept beside the trained ones.
        dtype: of convolutions; None takes `training_dtype(device)`.

    Returns:
        Bytes and operations; `training_bytes` is the peak of weights, best weights, optimiser and one step on the device
        and leaves out the Python process itself and the data loading.

    Raises:
        UsageError: where the network cannot be built or the patch does not fit its strides.
    """
    chosen = dtype or training_dtype(device)
    reorder = _REORDER.get(device, _REORDER_ELSEWHERE)
    traced = _traced(network.to_json(), patch_size, batch_size, in_channels, num_classes, chosen, reorder)
    copies = 1 + _SLOTS[optimizer] + averaged + (device == "cpu")  # on a CPU the best weights lie in the same memory
    weights = 4 * traced.parameters
    inputs = 4 * batch_size * in_channels * patch_size[0] * patch_size[1] * patch_size[2]
    return NetworkCost(
        parameters=traced.parameters,
        forward_flops=traced.forward_flops,
        kept_bytes=traced.kept_bytes,
        training_bytes=traced.state_bytes + (copies - 1) * weights + traced.step_bytes + inputs,
        inference_bytes=traced.state_bytes + traced.inference_bytes + inputs,
        step_flops=traced.step_flops,
        moved_bytes=traced.moved_bytes + weights * (_CLIPPING + 3 + 2 * _SLOTS[optimizer] + _AVERAGING * averaged),
    )


@lru_cache(maxsize=4096)
def _traced(
    network: str, patch_size: Triple, batch_size: int, in_channels: int, num_classes: int, dtype: torch.dtype, reorder: float
) -> Trace:
    plan = NetworkPlan.model_validate_json(network)
    return trace(
        plan,
        patch_size=patch_size,
        batch_size=batch_size,
        in_channels=in_channels,
        num_classes=num_classes,
        dtype=dtype,
        reorder=reorder,
    )
