"""The layers that all architectures are made of: convolutions, instance normalisation, and the unit of the three.

Tensors are (B, C, Z, Y, X). A convolution of odd kernel k is padded by (k - 1) / 2, so that a stride s divides the size
exactly. Initialisation follows He et al. 2015 (arXiv 1502.01852): normal, fan-in, for a leaky ReLU of slope 0.01; biases 0.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg3d.errors import UsageError
from autoseg3d.networks.norm import SLOPE, InstanceNorm
from planners.contract import Triple


class Convolution(nn.Conv3d):
    """A 3D convolution with same padding whose weight gradient can be trusted in bfloat16 on a CPU.

    oneDNN (as in torch 2.13, AVX512-BF16) leaves the weight gradient of a bfloat16 convolution unset, and may crash,
    where the padded kernel is deeper than the input and there is more than one output slice. Such layers, the deepest of
    anisotropic plans, are computed in float32 while gradients are recorded; forward passes alone are right in bfloat16.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: Triple, stride: Triple = (1, 1, 1), bias: bool = True) -> None:
        if any(k % 2 == 0 for k in kernel):
            raise UsageError(
                "convolution kernels must be odd", field="network.stages.kernel", got=kernel, remedy="Use 1, 3, 5 or 7 per axis"
            )
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=bias)

    def reset_parameters(self) -> None:
        """Draws the weights from torch's current random generator."""
        initialise(self)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to (B, C', Z/s, Y/s, X/s); under autocast the result has autocast's type everywhere."""
        target = _training_dtype_on_cpu(input)
        if target != torch.bfloat16 or not self.stride[0] < input.shape[2] < self.kernel_size[0]:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return functional.conv3d(input.float(), self.weight.float(), bias, self.stride, self.padding).to(target)


def _training_dtype_on_cpu(x: Tensor) -> torch.dtype | None:
    """The type a convolution of `x` computes in, where gradients are recorded on a CPU; else None."""
    if not torch.is_grad_enabled() or x.device.type != "cpu":
        return None
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class UpConvolution(nn.ConvTranspose3d):
    """A transposed convolution whose kernel equals its stride: every voxel becomes a block of stride's size."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: Triple) -> None:
        super().__init__(in_channels, out_channels, stride, stride, bias=True)

    def reset_parameters(self) -> None:
        """Draws the weights from torch's current random generator."""
        initialise(self)


def initialise(layer: nn.Conv3d | nn.ConvTranspose3d) -> None:
    """He's normal initialisation of the weights (fan-in, slope 0.01) from torch's current generator; bias 0."""
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ConvUnit(nn.Module):
    """Convolution, instance normalisation and leaky ReLU (slope 0.01); without the last where `activate` is False."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: Triple, stride: Triple = (1, 1, 1), bias: bool = True, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, out_channels, kernel=kernel, stride=stride, bias=bias)
        self.norm = InstanceNorm(out_channels)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to (B, C', Z/s, Y/s, X/s)."""
        return cast(Tensor, self.norm(self.conv(x), activated=self.activate))


def conv_units(in_channels: int, out_channels: int, *, count: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Sequential:
    """`count` units in a row, the first of them strided."""
    units = [ConvUnit(in_channels, out_channels, kernel=kernel, stride=stride)]
    units += [ConvUnit(out_channels, out_channels, kernel=kernel) for _ in range(count - 1)]
    return nn.Sequential(*units)


def check_input(x: Tensor, in_channels: int, stride: Triple) -> None:
    """Raises UsageError where `x` is not (B, in_channels, Z, Y, X) with sizes divisible by `stride`."""
    if x.dim() != 5 or x.shape[1] != in_channels:
        wanted = f"(batch, {in_channels}, Z, Y, X)"
        raise UsageError("wrong input to the network", code="E_NETWORK_INPUT", field="shape", wanted=wanted, got=tuple(x.shape))
    if any(size % step or not size for size, step in zip(x.shape[2:], stride, strict=True)):
        raise UsageError(
            "the network cannot halve this volume evenly",
            code="E_NETWORK_INPUT",
            field="shape",
            wanted=f"sizes divisible by {stride}",
            got=tuple(x.shape[2:]),
            remedy="Pad the volume, or use a patch size that the network's total stride divides",
        )


def head(in_channels: int, num_classes: int) -> Convolution:
    """The linear 1×1×1 layer from features to logits."""
    return Convolution(in_channels, num_classes, kernel=(1, 1, 1))
