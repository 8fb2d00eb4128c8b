"""What encoder-decoder networks share: the way down, the way up with skips, the heads, and the contract of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from autoseg3d.networks.blocks import UpConvolution, check_input, head
from autoseg3d.networks.norm import channels_last
from planners.contract import Triple
from planners.plan import NetworkPlan


class Encoder(nn.Module):
    """Stages in a row, finest first; `stem`, where given, comes before them."""

    def __init__(self, stages: Sequence[nn.Module], stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The result of every stage, finest first."""
        if self.stem is not None:
            x = self.stem(x)
        results = []
        for stage in self.stages:
            x = stage(x)
            results.append(x)
        return results


class Decoder(nn.Module):
    """The way up: upsample, join the skip (upsampled channels first), refine. Entry 0 of each list is the coarsest.

    `heads` serve the finest resolutions: all of them with deep supervision, else the last one only.
    """

    def __init__(self, upsamplings: Sequence[nn.Module], stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.upsamplings = nn.ModuleList(upsamplings)
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        """Features of every decoder stage, coarsest first, from the encoder's results. Empties the list of skips."""
        x = skips.pop()
        results = []
        for upsample, stage in zip(self.upsamplings, self.stages, strict=True):
            x = stage(torch.cat((upsample(x), skips.pop()), 1))
            results.append(x)
        return results


class EncoderDecoder(nn.Module):
    """A segmentation network with skips: meets the contract of a network, given its encoder and decoder.

    Attributes:
        stride_zyx: what the sizes of an input must be divisible by.
    """

    def __init__(self, network: NetworkPlan, in_channels: int, *, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stride_zyx: Triple = network.total_stride
        self.encoder = encoder
        self.decoder = decoder

    @property
    def head(self) -> nn.Module:
        """The linear 1×1×1 layer that makes the finest logits of the features."""
        return self.decoder.heads[-1]

    def features(self, x: Tensor) -> Tensor:
        """What the head is applied to: (B, C, Z, Y, X) to (B, features, Z, Y, X). Raises UsageError on a wrong shape."""
        return self._decoded(x)[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits, finest first: one per head in training mode, the finest alone in evaluation mode.

        Args:
            x: (B, in_channels, Z, Y, X), sizes divisible by `stride_zyx`.

        Raises:
            UsageError: for any other shape.
        """
        if not self.training:
            return (self.head(self.features(x)),)
        decoded = self._decoded(x)[-len(self.decoder.heads) :]
        return tuple(layer(y) for layer, y in zip(reversed(self.decoder.heads), reversed(decoded), strict=True))

    def _decoded(self, x: Tensor) -> list[Tensor]:
        check_input(x, self.in_channels, self.stride_zyx)
        return cast(list[Tensor], self.decoder(self.encoder(channels_last(x))))


def upsamplings(network: NetworkPlan, widths: Sequence[int]) -> list[nn.Module]:
    """Transposed convolutions from each decoder input (`widths`, coarsest first) to the features of the stage above."""
    below = network.stages[:0:-1]
    above = network.stages[-2::-1]
    return [UpConvolution(w, a.features, stride=b.stride) for w, a, b in zip(widths, above, below, strict=True)]


def heads(network: NetworkPlan, widths: Sequence[int], num_classes: int) -> list[nn.Module]:
    """One head per decoder stage of the given `widths` (coarsest first), or the finest alone without deep supervision."""
    return [head(w, num_classes) for w in (widths if network.deep_supervision else widths[-1:])]
