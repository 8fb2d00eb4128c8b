"""Networks: from a plan's stage table to a module that meets the contract of a network.

The contract: forward takes (B, C, Z, Y, X) and returns a tuple of logits, finest first, one per decoder stage in training
mode (with deep supervision) and the finest alone in evaluation mode; `stride_zyx` is what sizes must be divisible by;
`features(x)` gives what the linear `head` makes the finest logits of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoseg3d import plugins
from autoseg3d.errors import UsageError
from autoseg3d.networks.resenc import ResidualEncoderUNet
from autoseg3d.networks.unet import UNet
from autoseg3d.networks.vnet import VNet
from planners.plan import NetworkPlan

ARCHITECTURES: dict[str, Callable[[NetworkPlan, int, int], nn.Module]] = {"unet": UNet, "resenc": ResidualEncoderUNet, "vnet": VNet}

__all__ = ["ARCHITECTURES", "architecture_names", "build", "build_empty", "head_names"]


def architecture_names() -> tuple[str, ...]:
    """Every architecture that a plan may name: ours, then those of installed plugins."""
    return plugins.names(plugins.NETWORKS, ARCHITECTURES)


def build(network: NetworkPlan, in_channels: int, num_classes: int, *, seed: int = 0) -> nn.Module:
    """The network of a plan, in training mode, in float32, on the current default device.

    The same seed gives the same weights; torch's global random state stays as it was.

    Args:
        network: architecture and stage table.
        in_channels: channels of the input.
        num_classes: channels of the logits.
        seed: of the weights.

    Raises:
        UsageError: for an unknown architecture (listing the choices), a stage table it cannot honour, no channels, or a
            plugin that fails or breaks the contract.
    """
    for field, value in (("in_channels", in_channels), ("num_classes", num_classes)):
        if value < 1:
            raise UsageError("a network needs at least one channel", field=field, wanted="1 or more", got=value)
    field = "network.architecture"
    builder = plugins.find(plugins.NETWORKS, network.architecture, own=ARCHITECTURES, field=field)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = builder(network, in_channels, num_classes)
    missing = [name for name in ("stride_zyx", "head", "features") if not hasattr(module, name)]
    if not isinstance(module, nn.Module) or missing:
        wanted = "an nn.Module with stride_zyx, head and features"
        raise UsageError("not a network", code="E_PLUGIN", field=field, wanted=wanted, got=f"{type(module).__name__} without {missing}")
    return module


def build_empty(network: NetworkPlan, in_channels: int, num_classes: int) -> nn.Module:
    """The same network on the meta device: shapes and types without memory, for a look at it or to be given weights.

    Raises UsageError as `build` does.
    """
    with torch.device("meta"), _Unfilled():
        return build(network, in_channels, num_classes)


def head_names(network: nn.Module) -> str:
    """The beginning of the names of all heads: of the finest one, and of those that stand in one list with it."""
    finest = cast(nn.Module, network.head)
    name = next(name for name, module in network.named_modules() if module is finest)
    above = name.rpartition(".")[0]
    return f"{above}." if above and isinstance(network.get_submodule(above), nn.ModuleList) else f"{name}."


class _Unfilled(TorchFunctionMode):
    """Leaves out random numbers, for which torch would import its compiler on the meta device; that takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the function, unless it would fill a tensor."""
        return args[0] if func in (torch.Tensor.normal_, torch.Tensor.uniform_) else func(*args, **(kwargs or {}))
