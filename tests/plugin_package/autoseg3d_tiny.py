"""A third party's planner and network, written against autoseg3d's public contracts only."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from planners.budget import Budget, CostFunction, PlanningError
from planners.fingerprint import Fingerprint
from planners.plan import Configuration, Decision, NetworkPlan, Plan, Stage, TrainingPlan

SIZES = (64, 48, 32, 16)


class TinyNetwork(nn.Module):
    """Dilation-free convolutions down, nearest-neighbour upsampling and addition up, all with torch's own layers."""

    def __init__(self, network: NetworkPlan, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.stride_zyx = network.total_stride
        self.stem = _convolution(in_channels, network.stages[0])
        self.down = nn.ModuleList(_convolution(above.features, stage) for above, stage in pairwise(network.stages))
        self.match = nn.ModuleList(nn.Conv3d(b.features, a.features, 1) for a, b in pairwise(network.stages))
        self.heads = nn.ModuleList(nn.Conv3d(stage.features, num_classes, 1) for stage in network.stages[:-1])
        self.outputs = len(self.heads) if network.deep_supervision else 1

    @property
    def head(self) -> nn.Module:
        return self.heads[0]

    def features(self, x: Tensor) -> Tensor:
        return self._decoded(x)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        decoded = self._decoded(x)[: self.outputs if self.training else 1]
        return tuple(head(y) for head, y in zip(self.heads, decoded, strict=False))

    def _decoded(self, x: Tensor) -> list[Tensor]:
        if any(size % step for size, step in zip(x.shape[2:], self.stride_zyx, strict=True)):
            raise ValueError(f"sizes {tuple(x.shape[2:])} must be divisible by {self.stride_zyx}")
        skips = [self.stem(x)]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        decoded, y = [], skips.pop()
        for match, skip in zip(reversed(self.match), reversed(skips), strict=True):
            y = torch.nn.functional.interpolate(match(y), skip.shape[2:]) + skip
            decoded.append(y)
        return decoded[::-1]


def _convolution(in_channels: int, stage: Stage) -> nn.Sequential:
    padding = tuple(k // 2 for k in stage.kernel)
    layers: list[nn.Module] = [nn.Conv3d(in_channels, stage.features, stage.kernel, stage.stride, padding)]
    layers += [nn.Conv3d(stage.features, stage.features, stage.kernel, 1, padding) for _ in range(stage.blocks - 1)]
    norms = [nn.Sequential(layer, nn.GroupNorm(1, stage.features), nn.ReLU()) for layer in layers]
    return nn.Sequential(*norms)


def plan_tiny(fingerprint: Fingerprint, budget: Budget, cost: CostFunction) -> Plan:
    """Two stages, the median spacing, and the largest cube of a short list that the budget bears."""
    stages = (
        Stage(features=4, kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1),
        Stage(features=8, kernel=(3, 3, 3), stride=(2, 2, 2), blocks=1),
    )
    network = NetworkPlan(architecture="tiny", stages=stages, decoder_blocks=(1,))
    channels, classes = len(fingerprint.channel_names), fingerprint.labels.num_classes

    def bytes_for(size: int) -> int:
        shape = (size, size, size)
        traced = cost(network, patch_size=shape, batch_size=2, in_channels=channels, num_classes=classes, device=budget.device)
        return traced.training_bytes

    size = next((size for size in SIZES if bytes_for(size) <= budget.memory_bytes), None)
    if size is None:
        raise PlanningError("budget.memory_bytes", budget.memory_bytes, "too small for the smallest patch", "Allow more memory")
    spacing = sorted(case.spacing_mm for case in fingerprint.cases)[len(fingerprint.cases) // 2]
    shape = sorted(case.shape_after_crop for case in fingerprint.cases)[len(fingerprint.cases) // 2]
    configuration = Configuration(
        spacing_mm=spacing,
        median_shape=(float(shape[0]), float(shape[1]), float(shape[2])),
        patch_size=(size, size, size),
        batch_size=2,
        network=network,
        normalization=("zscore",) * channels,
        use_mask_for_norm=(False,) * channels,
    )
    return Plan(
        planner="tiny",
        dataset_name=fingerprint.dataset_name,
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(0, 1, 2),
        channel_names=fingerprint.channel_names,
        labels=fingerprint.labels,
        intensities=fingerprint.intensities,
        configurations={"3d_fullres": configuration},
        training=TrainingPlan(epochs=2, iterations=2, validation_iterations=1),
        fingerprint_hash=fingerprint.content_hash(),
        decisions=(Decision(field="3d_fullres.patch_size", rule="first that fits", reason=f"{size} is the largest cube within memory"),),
    )
