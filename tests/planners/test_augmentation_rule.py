"""Rotations by the shape of the patch; how often anything is drawn, and flips, by how often a run shows a case."""

import math

import pytest
from analytic_cost import analytic_cost
from making import TWO_CORES, fingerprint, hippocampus, liver

from planners.augmentation import FEW_PASSES, FLIP_PASSES, FULL_PASSES, LEAST_SHARE, augmentation, data_passes, flips, variety
from planners.budget import Budget
from planners.explain import Choice, reasons_for
from planners.plan import AugmentationPlan
from planners.spacing import Grid
from planners.standard import plan_standard
from planners.topology import plan_topology

ALLOWED = Choice((0, 1), "sides", "labels have sides")


@pytest.mark.parametrize(
    ("patch", "slicewise", "flat", "degrees"),
    [
        ((128, 128, 128), False, False, (30.0, 30.0, 30.0)),
        ((64, 192, 128), False, False, (30.0, 30.0, 30.0)),
        ((60, 192, 128), False, True, (180.0, 0.0, 0.0)),
        ((1, 512, 512), True, True, (180.0, 0.0, 0.0)),
        ((1, 384, 256), True, True, (180.0, 0.0, 0.0)),
        ((1, 512, 320), True, True, (15.0, 0.0, 0.0)),
    ],
)
def test_rotation(patch, slicewise, flat, degrees):
    plan = augmentation(patch, slicewise=slicewise).value
    assert (plan.dummy_2d, plan.rotation_degrees) == (flat, degrees)


def test_passes_count_what_a_patch_shows_of_a_case():
    grid = Grid(spacing=(1.0, 1.0, 1.0), median_shape=(64.0, 64.0, 64.0), cases=10, dataset_voxels=10 * 64.0**3)
    whole, half, little = (plan_topology(grid.spacing, patch, least_stages=2) for patch in ((64, 64, 64), (64, 64, 32), (16, 16, 16)))
    # Eight of ten cases are trained on: 80 steps of 2 patches show each of them 20 times.
    assert data_passes(80, batch=2, topology=whole, grid=grid) == pytest.approx(20)
    assert data_passes(80, batch=2, topology=half, grid=grid) == pytest.approx(10)
    # A third of all patches are placed on foreground, however small they are.
    assert data_passes(80, batch=2, topology=little, grid=grid) == pytest.approx(20 * 0.33)
    assert data_passes(math.inf, batch=2, topology=little, grid=grid) == math.inf
    assert data_passes(80, batch=2, topology=plan_topology(grid.spacing, (96, 96, 96), least_stages=2), grid=grid) == pytest.approx(20)


def test_a_slice_shows_a_slice():
    grid = Grid(spacing=(1.0, 1.0), median_shape=(64.0, 64.0), cases=10, dataset_voxels=10 * 40 * 64.0**2)
    assert data_passes(80, batch=40, topology=plan_topology((1.0, 1.0), (64, 64), least_stages=2), grid=grid) == pytest.approx(10)


def test_variety_grows_with_the_passes():
    assert [variety(passes) for passes in (0.1, FEW_PASSES, FULL_PASSES, math.inf)] == [LEAST_SHARE, LEAST_SHARE, 1, 1]
    assert LEAST_SHARE < variety(2 * FEW_PASSES) < variety(4 * FEW_PASSES) < 1


def test_few_passes_draw_less_of_everything_and_leave_ranges_as_they_are():
    usual, weak = AugmentationPlan(), augmentation((64, 64, 64), slicewise=False, passes=1).value
    assert weak.gamma_probability == pytest.approx(LEAST_SHARE * usual.gamma_probability)
    assert weak.rotation_probability == pytest.approx(LEAST_SHARE * usual.rotation_probability)
    assert (weak.gamma, weak.rotation_degrees, weak.blur_channel_probability) == (usual.gamma, (30.0,) * 3, usual.blur_channel_probability)
    assert augmentation((64, 64, 64), slicewise=False).value == usual


def test_flips_are_for_runs_that_show_cases_often_and_for_arrays_of_unknown_orientation():
    assert flips(ALLOWED, passes=FLIP_PASSES, fingerprint=fingerprint()) == ALLOWED
    assert flips(ALLOWED, passes=FLIP_PASSES - 1, fingerprint=fingerprint()).value == ()
    assert flips(ALLOWED, passes=1, fingerprint=fingerprint(orientation=None)) == ALLOWED


def test_plans_say_how_often_a_case_is_shown():
    short = plan_standard(hippocampus(), Budget(device="cpu", seconds=1200, speed=TWO_CORES), analytic_cost)
    assert short.mirror_axes == ()
    assert "times" in reasons_for(short, "mirror_axes")[0].reason
    assert short.configurations["3d_fullres"].augmentation.scale_probability < AugmentationPlan().scale_probability
    for unlimited in (plan_standard(case, Budget(device="cuda"), analytic_cost) for case in (hippocampus(), liver())):
        assert unlimited.mirror_axes == (0, 1, 2)
        assert unlimited.configurations["3d_fullres"].augmentation.scale_probability == AugmentationPlan().scale_probability
