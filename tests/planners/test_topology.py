"""Strides and kernels, with topologies to check by hand."""

import pytest

from planners.topology import plan_topology


def test_an_isotropic_patch_is_halved_to_an_edge_of_four():
    topology = plan_topology((1, 1, 1), (128, 128, 128))
    assert topology.strides == ((1, 1, 1),) + ((2, 2, 2),) * 5
    assert topology.kernels == ((3, 3, 3),) * 6
    assert (topology.divisor, topology.patch, topology.stages) == ((32, 32, 32), (128, 128, 128), 6)
    assert topology.stage_voxels() == [2**21 // 8**stage for stage in range(6)]


def test_thick_slices_wait_until_the_others_have_caught_up():
    # 4 mm against 1 mm: two halvings in the plane bring 1 mm to 4 mm; kernels widen once the ratio is below two.
    topology = plan_topology((4, 1, 1), (16, 128, 128))
    assert topology.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert topology.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_the_patch_is_padded_from_its_unpooled_size():
    assert plan_topology((1, 1, 1), (36, 50, 35)).patch == (40, 56, 40)
    assert plan_topology((1, 1, 1), (36, 50, 35)).divisor == (8, 8, 8)
    assert plan_topology((1, 1, 1), (40.5, 50, 35)).patch == (48, 56, 40)


def test_a_last_axis_alone_needs_twelve_voxels():
    assert plan_topology((1, 1), (11, 4)).stages == 1
    assert plan_topology((1, 1), (12, 4)).strides == ((1, 1), (2, 1))


def test_the_bottleneck_has_full_kernels_whatever_the_spacing():
    topology = plan_topology((100, 1, 1), (4, 16, 16))
    assert topology.kernels[-1] == (3, 3, 3)
    assert all(kernel == (1, 3, 3) for kernel in topology.kernels[:-1])


def test_other_kernels_keep_their_ones():
    assert plan_topology((4, 1, 1), (16, 128, 128), kernel=5).kernels[0] == (1, 5, 5)


def test_an_exact_patch_is_kept_and_halved_as_often_as_it_divides():
    topology = plan_topology((1, 1, 1), (100, 128, 96), exact=True)
    assert topology.patch == (100, 128, 96)
    assert topology.divisor == (4, 16, 16)  # 100 = 4 × 25; 128 is left alone with 8 voxels, too few for one axis
    odd = plan_topology((1, 1, 1), (33, 65, 17), exact=True, least_stages=2)
    assert (odd.patch, odd.strides) == ((33, 65, 17), ((1, 1, 1), (1, 1, 1)))


@pytest.mark.parametrize(("patch", "second"), [((7, 7, 7), (2, 2, 2)), ((4, 1, 1), (2, 1, 1)), ((3, 3, 3), (1, 1, 1)), ((1, 2), (1, 1))])
def test_tiny_patches_get_a_second_stage_on_demand(patch, second):
    spacing = (1.0,) * len(patch)
    assert plan_topology(spacing, patch).stages == 1
    topology = plan_topology(spacing, patch, least_stages=2)
    assert topology.strides[1] == second
    assert all(size % step == 0 for size, step in zip(topology.patch, topology.divisor, strict=True))
