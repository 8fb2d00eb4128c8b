"""V-Net: a fully convolutional network of residual stages.

Paper: Milletari, Navab and Ahmadi 2016 (arXiv 1606.04797). What changed for the plans of this program:
- kernels and strides are the plan's per stage and axis, where the paper has 5×5×5 and 2×2×2 throughout; the
  convolutions between resolutions have kernel = stride, as in the paper, and the stage's number of convolutions is its
  `blocks` (the paper's 1, 2, 3, 3, 3) and `decoder_blocks` (its 1, 2, 3, 3);
- instance normalisation before every PReLU, which the paper does without: batches here hold two patches;
- the input is brought to the first stage's features by a 1×1×1 convolution, where the paper repeats its one channel;
- with deep supervision each decoder stage has a head of its own; logits instead of a softmax.
As in the paper, a decoder stage is as wide as the upsampled and the skipped features together.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from autoseg3d.networks.blocks import Convolution, UpConvolution, initialise
from autoseg3d.networks.norm import InstanceNorm
from autoseg3d.networks.skeleton import Decoder, Encoder, EncoderDecoder, heads
from planners.contract import Triple
from planners.plan import NetworkPlan, Stage


class NormPReLU(nn.Module):
    """Instance normalisation, then a PReLU with one learned slope per channel (He et al. 2015), 0.25 at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = InstanceNorm(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as `x`."""
        return cast(Tensor, self.act(self.norm(x)))


class ResidualStage(nn.Module):
    """`count` convolutions of equal width; the stage's input is added before the last nonlinearity."""

    def __init__(self, channels: int, *, count: int, kernel: Triple) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Convolution(channels, channels, kernel=kernel) for _ in range(count))
        self.inner = nn.ModuleList(NormPReLU(channels) for _ in range(count - 1))
        self.norm = InstanceNorm(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to the same shape."""
        y = x
        for conv, norm_act in zip(self.convs[:-1], self.inner, strict=True):
            y = norm_act(conv(y))
        y = self.norm(self.convs[-1](y))
        return cast(Tensor, self.act(y + x))


class VNet(EncoderDecoder):
    """A V-Net with the stage table's kernels, strides, widths and numbers of convolutions.

    Args:
        network: the stage table.
        in_channels: channels of the input.
        num_classes: channels of the logits.

    Raises:
        UsageError: for an even kernel.
    """

    def __init__(self, network: NetworkPlan, in_channels: int, num_classes: int) -> None:
        first = network.stages[0]
        stem = nn.Sequential(Convolution(in_channels, first.features, kernel=(1, 1, 1)), NormPReLU(first.features))
        stages: list[nn.Module] = [ResidualStage(first.features, count=first.blocks, kernel=first.kernel)]
        stages += [_down(above, stage) for above, stage in pairwise(network.stages)]
        super().__init__(network, in_channels, encoder=Encoder(stages, stem), decoder=_decoder(network, num_classes))


class DownConvolution(nn.Conv3d):
    """A convolution whose kernel equals its stride: V-Net's replacement of pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: Triple) -> None:
        super().__init__(in_channels, out_channels, stride, stride)

    def reset_parameters(self) -> None:
        """Draws the weights from torch's current random generator."""
        initialise(self)


def _down(above: Stage, stage: Stage) -> nn.Sequential:
    down = DownConvolution(above.features, stage.features, stride=stage.stride)
    residual = ResidualStage(stage.features, count=stage.blocks, kernel=stage.kernel)
    return nn.Sequential(down, NormPReLU(stage.features), residual)


def _decoder(network: NetworkPlan, num_classes: int) -> Decoder:
    above, below = network.stages[-2::-1], network.stages[:0:-1]
    outputs = [2 * s.features for s in above]
    inputs = [network.stages[-1].features, *outputs[:-1]]
    ups = [
        nn.Sequential(UpConvolution(width, a.features, stride=b.stride), NormPReLU(a.features))
        for width, a, b in zip(inputs, above, below, strict=True)
    ]
    counts = reversed(network.decoder_blocks)
    stages = [ResidualStage(2 * s.features, count=count, kernel=s.kernel) for s, count in zip(above, counts, strict=True)]
    return Decoder(ups, stages, heads(network, outputs, num_classes))
