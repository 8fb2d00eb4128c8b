"""A trained network in terms that other runtimes know: torch's own layers only, float32, evaluation mode, no gradients."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg3d.networks.norm import EPSILON, SLOPE, InstanceNorm
from planners.contract import Triple


class PlainInstanceNorm(nn.Module):
    """Our instance normalisation without the ways round that make torch fast on a CPU and that exporters do not know."""

    def __init__(self, norm: InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor, *, activated: bool = False) -> Tensor:
        """(B, C, Z, Y, X) to the same shape, after a leaky ReLU where `activated`."""
        y = functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)
        return functional.leaky_relu(y, SLOPE) if activated else y


class FeatureGraph(nn.Module):
    """Only what comes before a network's head, as a module to be traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to (B, features, Z, Y, X)."""
        return cast(Tensor, cast(Any, self.network).features(x))


class MeanLogits(nn.Module):
    """The mean of the finest logits of several networks: what prediction makes of the folds of a model."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.stride_zyx = cast(Triple, networks[0].stride_zyx)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X)."""
        total: Tensor = self.networks[0](x)[0]
        for network in self.networks[1:]:
            total = total + network(x)[0]
        return total / len(self.networks)


def portable(network: nn.Module) -> nn.Module:
    """A copy of `network` that exporters and other runtimes can follow; equal in result up to rounding.

    Networks of third parties are copied as they are: whether theirs can be followed, the exporter will tell.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False).to("cpu", torch.float32)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InstanceNorm):
                setattr(parent, name, PlainInstanceNorm(child))
    return copied
