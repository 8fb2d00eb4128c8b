"""Network families: stage tables, and work to check by hand."""

import pytest
from analytic_cost import analytic_cost

from planners.families import RESENC, UNET, VNET, lift
from planners.topology import plan_topology

CUBE = plan_topology((1, 1, 1), (16, 16, 16))  # two stages of halving: 16, 8, 4


def test_features_double_up_to_a_limit():
    assert UNET.features(6, 3) == [32, 64, 128, 256, 320, 320]
    assert UNET.features(6, 2) == [32, 64, 128, 256, 512, 512]
    assert VNET.features(6, 3) == [16, 32, 64, 128, 256, 256]
    assert UNET.narrowed(0.5).features(6, 3) == [16, 32, 64, 128, 160, 160]


def test_widths_stay_multiples_of_four():
    assert [UNET.narrowed(share).base for share in (1.0, 0.75, 0.5, 0.375, 0.25, 0.01)] == [32, 24, 16, 12, 8, 4]


def test_blocks_repeat_their_last_number():
    assert RESENC.encoder_blocks(7) == [1, 3, 4, 6, 6, 6, 6]
    assert RESENC.decoder_blocks(7) == [1, 1, 1, 1, 1, 1]
    assert VNET.decoder_blocks(6) == [1, 2, 3, 3, 3]


def test_feature_voxels_of_a_plain_unet():
    encoder = 2 * (32 * 16**3 + 64 * 8**3 + 128 * 4**3)
    decoder = 3 * (64 * 8**3 + 32 * 16**3)
    assert UNET.feature_voxels(CUBE, heads=3) == encoder + decoder + 3 * 16**3


def test_feature_voxels_of_a_residual_unet():
    encoder = (1 + 2) * 32 * 16**3 + (2 * 3 + 1) * 64 * 8**3 + (2 * 4 + 1) * 128 * 4**3
    decoder = 2 * (64 * 8**3 + 32 * 16**3)
    assert RESENC.feature_voxels(CUBE, heads=3) == encoder + decoder + 3 * 16**3


def test_weights_and_operations_of_a_small_unet():
    family = UNET.of_width(16)
    topology = plan_topology((1, 1, 1), (7, 7, 7), least_stages=2)  # 8³, one halving
    convolutions = [(27 * 1 * 16, 512), (27 * 16 * 16, 512), (27 * 16 * 32, 64), (27 * 32 * 32, 64)]  # encoder
    convolutions += [(27 * 32 * 16, 512), (27 * 16 * 16, 512)]  # decoder
    upsampling = 32 * 16 * 8  # 2³ kernel; each of the 512 output voxels takes one tap
    assert family.parameters(topology, 1, 2) == sum(weights for weights, _ in convolutions) + upsampling + 16 * 2
    head = 16 * 16 * 512  # two classes are computed as sixteen
    assert family.step_flops(topology, 1, 2) == 6 * (sum(w * n for w, n in convolutions) + 32 * 16 * 512 + head)


def test_narrow_networks_are_computed_like_wider_ones():
    narrow, wide = (UNET.of_width(width).step_flops(CUBE, 1, 2) for width in (12, 16))
    assert narrow < wide < 1.35 * narrow


@pytest.mark.parametrize("family", [UNET, RESENC, VNET])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 1, 1), (1, 1)])
def test_weights_are_those_of_the_built_networks(family, spacing):
    torch = pytest.importorskip("torch")
    build = pytest.importorskip("autoseg3d.networks").build
    topology = plan_topology(spacing, (32, 96, 96)[-len(spacing) :], kernel=family.kernel)
    with torch.device("meta"):
        network = build(family.of_width(8).network(topology), 2, 4)
    weights = sum(module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d))
    assert family.of_width(8).parameters(topology, 2, 4) == weights


def test_the_stand_in_cost_counts_a_unet_as_the_family_does():
    topology = plan_topology((5, 1, 1), (32, 96, 96))
    cost = analytic_cost(UNET.network(topology), patch_size=lift(topology.patch), batch_size=1, in_channels=2, num_classes=4, device="cpu")
    assert UNET.parameters(topology, 2, 4) == cost.parameters


def test_receptive_fields():
    # Two convolutions of 3 at strides 1, 2, 4 before them; the strided one looks at the finer stage:
    # 1 + 2·(1 + 1) + 2·(1 + 2) + 2·(2 + 4) = 23.
    assert UNET.receptive_field(CUBE) == (23, 23, 23)
    # A kernel of 1 across slices adds nothing until it is 3 at the bottleneck.
    flat = plan_topology((100, 1, 1), (4, 16, 16))
    assert UNET.receptive_field(flat)[0] == 5
    assert RESENC.receptive_field(CUBE)[0] > UNET.receptive_field(CUBE)[0]


def test_slices_become_networks_of_depth_one():
    network = UNET.network(plan_topology((1, 1), (64, 64)))
    assert network.stages[0].kernel == (1, 3, 3)
    assert network.stages[1].stride == (1, 2, 2)
    assert network.total_stride == (1, 16, 16)
    assert lift((5, 6)) == (1, 5, 6)
    assert lift((4, 5, 6)) == (4, 5, 6)
