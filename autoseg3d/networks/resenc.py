"""Residual-encoder U-Net: nnU-Net's ResEnc presets.

Papers: Isensee et al. 2024 (arXiv 2404.09556); the block is ResNet-D's, He et al. 2019 (arXiv 1812.01187), with instance
normalisation and leaky ReLU. For 3D and anisotropic plans: shortcuts average over the stage's own stride per axis.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from autoseg3d.networks.blocks import ConvUnit
from autoseg3d.networks.norm import activate
from autoseg3d.networks.skeleton import Encoder, EncoderDecoder
from autoseg3d.networks.unet import plain_decoder
from planners.contract import Triple
from planners.plan import NetworkPlan, Stage


class ResidualBlock(nn.Module):
    """Two convolution units and a shortcut; starts as the shortcut alone, since its second scale is zero at first."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.conv1 = ConvUnit(in_channels, out_channels, kernel=kernel, stride=stride)
        self.conv2 = ConvUnit(out_channels, out_channels, kernel=kernel, activate=False)
        nn.init.zeros_(self.conv2.norm.weight)
        self.stride = stride
        same = in_channels == out_channels
        self.project = nn.Identity() if same else ConvUnit(in_channels, out_channels, kernel=(1, 1, 1), bias=False, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to (B, C', Z/s, Y/s, X/s)."""
        y = self.conv2(self.conv1(x))
        y = y + self.project(x if self.stride == (1, 1, 1) else average_pool(x, self.stride))
        return activate(y)


def average_pool(x: Tensor, stride: Triple) -> Tensor:
    """Means over blocks of `stride`: (B, C, Z, Y, X) to (B, C, Z/s, Y/s, X/s), same type.

    torch's own has no bfloat16 on CPUs, and under autocast it keeps a float32 copy of its input for the backward pass,
    which needs none: a sixth of a residual encoder's memory.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return cast(Tensor, _AveragePool.apply(x, stride))  # type: ignore[no-untyped-call]
    return _pooled(x, stride)


def _pooled(x: Tensor, stride: Triple) -> Tensor:
    return functional.avg_pool3d(x.float(), stride, stride).to(x.dtype)


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: Triple) -> Tensor:
        ctx.stride = stride
        return _pooled(x, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (batch, channels, z, y, x), (a, b, c) = grad.shape, ctx.stride
        spread = (grad / (a * b * c))[:, :, :, None, :, None, :, None].expand(batch, channels, z, a, y, b, x, c)
        return spread.reshape(batch, channels, z * a, y * b, x * c), None


class ResidualEncoderUNet(EncoderDecoder):
    """A stem, `blocks` residual blocks per encoder stage, and the plain U-Net's decoder.

    Args:
        network: the stage table; the stem takes the first stage's kernel and features.
        in_channels: channels of the input.
        num_classes: channels of the logits.

    Raises:
        UsageError: for an even kernel.
    """

    def __init__(self, network: NetworkPlan, in_channels: int, num_classes: int) -> None:
        first = network.stages[0]
        stem = ConvUnit(in_channels, first.features, kernel=first.kernel)
        widths = (first.features, *(s.features for s in network.stages))
        stages = [_stage(width, s) for width, s in zip(widths, network.stages, strict=False)]
        super().__init__(network, in_channels, encoder=Encoder(stages, stem), decoder=plain_decoder(network, num_classes))


def _stage(in_channels: int, stage: Stage) -> nn.Sequential:
    blocks = [ResidualBlock(in_channels, stage.features, kernel=stage.kernel, stride=stage.stride)]
    blocks += [ResidualBlock(stage.features, stage.features, kernel=stage.kernel) for _ in range(stage.blocks - 1)]
    return nn.Sequential(*blocks)
