"""Target spacing, axis order and median shape, with numbers to check by hand."""

import numpy as np
import pytest

from planners.spacing import coarsest_first, plan_grid, resampled_shapes, target_spacing


def _cases(*rows):
    return np.array(rows)


def test_the_target_is_the_median_per_axis():
    spacings = _cases([1.0, 1.0, 1.0], [2.0, 1.5, 1.0], [3.0, 0.5, 1.0])
    choice = target_spacing(_cases(*[[100, 100, 100]] * 3), spacings)
    assert choice.value == (2.0, 1.0, 1.0)
    assert choice.rule == "median spacing"


def test_thick_slices_take_the_tenth_percentile():
    # Medians 8, 1, 1 mm over 20, 200, 200 voxels: over 3 times coarser, under a third of the voxels.
    spacings = _cases(*[[mm, 1.0, 1.0] for mm in (4.0, 6.0, 8.0, 9.0, 10.0)])
    choice = target_spacing(_cases(*[[20, 200, 200]] * 5), spacings)
    assert choice.value == pytest.approx((4.8, 1.0, 1.0))  # 10 % of the way through 4 steps: 4 + 0.4 × 2
    assert "10th percentile" in choice.rule


def test_the_percentile_stays_the_coarsest_axis():
    spacings = _cases(*[[mm, 1.0, 1.0] for mm in (0.5, 0.5, 8.0, 9.0, 10.0)])
    assert target_spacing(_cases(*[[20, 200, 200]] * 5), spacings).value == pytest.approx((1.00001, 1.0, 1.0))


def test_thick_slices_with_many_voxels_keep_the_median():
    spacings = _cases(*[[mm, 1.0, 1.0] for mm in (4.0, 8.0, 9.0)])
    assert target_spacing(_cases(*[[100, 200, 200]] * 3), spacings).value == (8.0, 1.0, 1.0)


def test_the_coarsest_axis_comes_first_and_the_others_keep_their_order():
    assert coarsest_first((1.0, 1.0, 3.0)).value == (2, 0, 1)
    assert coarsest_first((1.0, 3.0, 1.0)).value == (1, 0, 2)
    assert coarsest_first((2.0, 2.0, 1.0)).value == (0, 1, 2)


def test_resampled_shapes_round_half_to_even():
    shapes = resampled_shapes(_cases([5, 7, 10]), _cases([0.5, 0.5, 0.5]), (1.0, 1.0, 1.0))
    assert shapes.tolist() == [[2, 4, 5]]  # 2.5 -> 2, 3.5 -> 4


def test_the_grid_is_in_network_axes_and_its_median_is_not_rounded():
    shapes, spacings = _cases([100, 50, 20], [101, 50, 20]), _cases([1.0, 2.0, 4.0], [1.0, 2.0, 4.0])
    grid = plan_grid(shapes, spacings, (1.0, 2.0, 4.0), order=(2, 0, 1), num_training=10)
    assert grid.spacing == (4.0, 1.0, 2.0)
    assert grid.median_shape == (20.0, 100.5, 50.0)
    assert grid.dataset_voxels == 20 * 100.5 * 50 * 10
    assert (grid.slices().spacing, grid.slices().median_shape) == ((1.0, 2.0), (100.5, 50.0))
    assert grid.slices().dataset_voxels == grid.dataset_voxels


def test_huge_volumes_do_not_overflow():
    grid = plan_grid(_cases([2000, 2000, 2000]), _cases([100.0, 100.0, 100.0]), (0.01, 0.01, 0.01), order=(0, 1, 2), num_training=10_000)
    assert grid.median_voxels == 2e7**3
    assert grid.dataset_voxels == 2e7**3 * 10_000
