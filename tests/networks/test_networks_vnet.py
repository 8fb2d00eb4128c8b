"""V-Net: the stage table honoured value by value, and a stage against its equation."""

import torch
from network_plans import network_plan
from torch import nn
from torch.nn import functional

from autoseg3d.networks import build
from autoseg3d.networks.blocks import Convolution
from autoseg3d.networks.vnet import DownConvolution, ResidualStage

PLAN = network_plan(
    "vnet",
    [2, 4, 8],
    strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)],
    kernels=[(1, 5, 5), (3, 3, 3), (5, 5, 5)],
    blocks=[1, 2, 3],
    decoder_blocks=[1, 2],
)


def test_every_value_of_the_table_is_in_the_network() -> None:
    network = build(PLAN, 1, 3)
    stages = [m for m in network.encoder.modules() if isinstance(m, ResidualStage)]  # type: ignore[union-attr]
    assert [len(stage.convs) for stage in stages] == [1, 2, 3]
    assert [stage.convs[0].kernel_size for stage in stages] == [(1, 5, 5), (3, 3, 3), (5, 5, 5)]
    assert [stage.convs[0].out_channels for stage in stages] == [2, 4, 8]
    downs = [m for m in network.modules() if isinstance(m, DownConvolution)]
    assert [(d.kernel_size, d.stride, d.in_channels, d.out_channels) for d in downs] == [
        ((1, 2, 2), (1, 2, 2), 2, 4),
        ((2, 2, 2), (2, 2, 2), 4, 8),
    ]
    ups = [m for m in network.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert [(u.kernel_size, u.in_channels, u.out_channels) for u in ups] == [((2, 2, 2), 8, 4), ((1, 2, 2), 8, 2)]


def test_decoder_stages_are_as_wide_as_what_they_join() -> None:
    network = build(PLAN, 1, 3)
    stages = [m for m in network.decoder.modules() if isinstance(m, ResidualStage)]  # type: ignore[union-attr]
    assert [(len(s.convs), s.convs[0].in_channels, s.convs[0].kernel_size) for s in stages] == [(2, 8, (3, 3, 3)), (1, 4, (1, 5, 5))]
    assert [head.in_channels for head in network.decoder.heads] == [8, 4]  # type: ignore[union-attr]


def test_a_stage_adds_its_input_before_the_last_nonlinearity() -> None:
    torch.manual_seed(1)
    stage, x = ResidualStage(3, count=2, kernel=(3, 3, 3)), torch.randn(1, 3, 4, 4, 4)
    first, second = (conv for conv in stage.convs if isinstance(conv, Convolution))
    y = functional.instance_norm(functional.conv3d(x, first.weight, first.bias, padding=1))
    y = torch.where(y > 0, y, 0.25 * y)
    y = functional.instance_norm(functional.conv3d(y, second.weight, second.bias, padding=1)) + x
    torch.testing.assert_close(stage(x), torch.where(y > 0, y, 0.25 * y), rtol=1e-4, atol=1e-5)


def test_slopes_are_learned_per_channel() -> None:
    slopes = [m for m in build(PLAN, 1, 3).modules() if isinstance(m, nn.PReLU)]
    # stem 1; stages 1 + 2 + 3; down 2; up 2; decoder 2 + 1
    assert len(slopes) == 14
    assert {slope.num_parameters for slope in slopes} == {2, 4, 8}
    assert all(float(slope.weight.detach().min()) == 0.25 for slope in slopes)


def test_parameters_counted_by_hand() -> None:
    plan = network_plan("vnet", [2, 4], blocks=[1, 1], decoder_blocks=[1], kernels=[(1, 1, 1), (1, 1, 1)])
    stem = (1 * 2 + 2) + 3 * 2
    encoder = (2 * 2 + 2 + 3 * 2) + (8 * 2 * 4 + 4 + 3 * 4) + (4 * 4 + 4 + 3 * 4)
    decoder = (8 * 4 * 2 + 2 + 3 * 2) + (4 * 4 + 4 + 3 * 4) + (4 * 3 + 3)
    assert sum(p.numel() for p in build(plan, 1, 3).parameters()) == stem + encoder + decoder
