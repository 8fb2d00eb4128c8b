"""3D U-Net with deep supervision, laid out as in nnU-Net.

Papers: Ronneberger et al. 2015 (arXiv 1505.04597), Çiçek et al. 2016 (arXiv 1606.06650), Isensee et al. 2021 (nnU-Net).
For 3D and anisotropic plans: kernels and strides are the plan's own per stage and axis; pooling is the stride of each
stage's first convolution; instance normalisation and leaky ReLU; same padding, so that nothing is cropped.
"""

from __future__ import annotations

from torch import nn

from autoseg3d.networks.blocks import conv_units
from autoseg3d.networks.skeleton import Decoder, Encoder, EncoderDecoder, heads, upsamplings
from planners.plan import NetworkPlan


class UNet(EncoderDecoder):
    """A plain U-Net: `blocks` convolution units per encoder stage, `decoder_blocks` per decoder stage.

    Args:
        network: the stage table.
        in_channels: channels of the input.
        num_classes: channels of the logits.

    Raises:
        UsageError: for an even kernel.
    """

    def __init__(self, network: NetworkPlan, in_channels: int, num_classes: int) -> None:
        widths = (in_channels, *(s.features for s in network.stages))
        stages = [
            conv_units(width, s.features, count=s.blocks, kernel=s.kernel, stride=s.stride)
            for width, s in zip(widths, network.stages, strict=False)
        ]
        super().__init__(network, in_channels, encoder=Encoder(stages), decoder=plain_decoder(network, num_classes))


def plain_decoder(network: NetworkPlan, num_classes: int) -> Decoder:
    """The decoder of plain convolution units that the U-Net and the residual-encoder U-Net share."""
    stages: list[nn.Module] = [
        conv_units(2 * s.features, s.features, count=count, kernel=s.kernel)
        for s, count in zip(network.stages[-2::-1], reversed(network.decoder_blocks), strict=True)
    ]
    inputs = [s.features for s in network.stages[:0:-1]]
    outputs = [s.features for s in network.stages[-2::-1]]
    return Decoder(upsamplings(network, inputs), stages, heads(network, outputs, num_classes))
