"""A trained network made ready for prediction: equal in result, faster and smaller than the one that was trained."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from planners.contract import Triple

_WEIGHTED = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)


class Float32Head(nn.Module):
    """A network's head in float32 whatever it is given, since bfloat16 logits would tie where classes are close."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.layer = head.float()

    def forward(self, features: Tensor) -> Tensor:
        """(B, features, Z, Y, X) of any floating type to float32 logits (B, classes, Z, Y, X)."""
        with torch.autocast(features.device.type, enabled=False):
            return cast(Tensor, self.layer(features.float()))


class OneDnnConvolution(nn.Module):
    """A float32 convolution on a CPU that always takes oneDNN's kernel; torch takes its slow own one for small inputs."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to (B, C', Z', Y', X')."""
        c = self.conv
        if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return cast(Tensor, c(x))
        return torch.mkldnn_convolution(x, c.weight, c.bias, cast(Triple, c.padding), c.stride, c.dilation, c.groups)


class InferenceNetwork(nn.Module):
    """A frozen network that computes its features in `dtype` and its logits in float32; meets the network contract.

    Attributes:
        stride_zyx: what the sizes of an input must be divisible by.
        head: from features to logits, in float32.
        dtype: the type that convolutions compute in, and of the features.
    """

    def __init__(self, network: nn.Module, head: nn.Module, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.head = Float32Head(head)
        self.stride_zyx = cast(Triple, network.stride_zyx)
        self.dtype = dtype

    def features(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) of any floating type to the features before the head, in `dtype`."""
        reduced = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(x.device.type, dtype=self.dtype if reduced else None, enabled=reduced):
            return cast(Tensor, cast(Any, self.network).features(x.to(self.dtype)))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """The finest logits, float32, as the only element of a tuple."""
        return (self.head(self.features(x)),)


def optimise_for_inference(network: nn.Module, *, dtype: torch.dtype = torch.float32) -> InferenceNetwork:
    """A copy of `network` for prediction, in evaluation mode and without gradients; the original stays as it is.

    The weights of convolutions are held in `dtype`; normalisation keeps float32 parameters and statistics. Any network that
    meets the contract will do: operations that autocast keeps in float32 stay there.

    Args:
        network: meets the network contract.
        dtype: float32 (equal up to rounding), bfloat16 or float16.
    """
    prepared = copy.deepcopy(network).eval().requires_grad_(False)
    if dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _take_onednn(prepared)
    head = copy.deepcopy(cast(nn.Module, network.head)).requires_grad_(False)
    ready = InferenceNetwork(prepared, head, dtype=dtype)
    for module in prepared.modules():
        if isinstance(module, _WEIGHTED):
            module.to(dtype)
    return ready


def _take_onednn(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv3d) and child.padding_mode == "zeros" and not isinstance(child.padding, str):
                setattr(parent, name, OneDnnConvolution(child))
