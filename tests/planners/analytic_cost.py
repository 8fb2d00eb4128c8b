"""A stand-in for the traced cost: real formulas for the three architectures, no torch. The program uses autoseg3d.cost.trace_cost.

Bytes of a training step = 16 per weight (float32 weight, gradient, two moments)
                         + per patch: 6 per value put out by a convolution (bfloat16, its normalised copy, float32 statistics amortised)
                                      + 16 per voxel and class (float32 logits, their gradient, probabilities, one-hot target)
                                      + 8 per voxel and input channel
                         + 64 MiB of workspace on a GPU, 8 MiB on a CPU.
A training step computes three times the forward pass; channels are not filled up.
Bytes moved by a training step = 70 per weight + per patch: 40 per value put out by a convolution + 60 per voxel and class.
"""

from __future__ import annotations

import math

from planners.budget import NetworkCost
from planners.contract import Triple
from planners.plan import NetworkPlan

CALLS: list[NetworkPlan] = []


def analytic_cost(
    network: NetworkPlan, *, patch_size: Triple, batch_size: int, in_channels: int, num_classes: int, device: str
) -> NetworkCost:
    """What the formulas above say of a network; the call is remembered in CALLS."""
    CALLS.append(network)
    weights, multiply_adds, values, voxels = 0, 0, 0, math.prod(patch_size)
    sizes = []
    for stage in network.stages:
        voxels //= math.prod(stage.stride)
        sizes.append(voxels)
    inputs = in_channels
    for stage, size in zip(network.stages, sizes, strict=True):
        convolutions = 2 * stage.blocks + 1 if network.architecture == "resenc" else stage.blocks + (network.architecture == "vnet")
        for number in range(convolutions):
            each = math.prod(stage.kernel) * (inputs if number == 0 else stage.features) * stage.features
            weights, multiply_adds = weights + each, multiply_adds + each * size
            values += stage.features * size
        inputs = stage.features
    wider = 2 if network.architecture == "vnet" else 1
    below = network.stages[-1].features
    for number in reversed(range(len(network.stages) - 1)):
        stage, size = network.stages[number], sizes[number]
        up = math.prod(network.stages[number + 1].stride) * below * stage.features
        weights, multiply_adds = weights + up, multiply_adds + below * stage.features * size
        width = wider * stage.features
        for block in range(network.decoder_blocks[number]):
            each = math.prod(stage.kernel) * (2 * stage.features if block == 0 else width) * width
            weights, multiply_adds = weights + each, multiply_adds + each * size
        values += (stage.features + width * network.decoder_blocks[number]) * size
        weights, multiply_adds = weights + width * num_classes, multiply_adds + width * num_classes * size
        below = width
    kept = batch_size * (6 * values + (16 * num_classes + 8 * in_channels) * sizes[0])
    workspace = (64 if device == "cuda" else 8) * 1024**2
    return NetworkCost(
        parameters=weights,
        forward_flops=2 * multiply_adds * batch_size,
        kept_bytes=kept,
        training_bytes=16 * weights + kept + workspace,
        inference_bytes=4 * weights + kept // 4 + workspace,
        step_flops=6 * multiply_adds * batch_size,
        moved_bytes=70 * weights + batch_size * (40 * values + 60 * num_classes * sizes[0]),
    )
