"""Rungs and their selection: what gives way first, and why."""

import pytest
from analytic_cost import analytic_cost
from making import TWO_CORES

from planners.budget import GIB, Budget
from planners.families import UNET, VNET
from planners.fitting import tracer
from planners.memory import TracedGauge
from planners.overrides import ConfigurationOverrides
from planners.rungs import ladder, standard_ladder
from planners.schedule import compute_of
from planners.selection import select, why_selected
from planners.spacing import Grid

SMALL = Grid(spacing=(1.0,) * 3, median_shape=(36.0, 50.0, 35.0), cases=260, dataset_voxels=260 * 36 * 50 * 35.0)
LARGE = Grid(spacing=(1.0, 0.8, 0.8), median_shape=(400.0, 512.0, 512.0), cases=100, dataset_voxels=1e10)


def _select(grid, budget, *, gib=8.0, rungs=None, fixed=None):
    trace = tracer(analytic_cost, in_channels=1, num_classes=3, device=budget.device)
    gauge = TracedGauge(gib * GIB, 1, 3)
    fixed = fixed or ConfigurationOverrides()
    return select(rungs or standard_ladder(), grid, fixed, gauge=gauge, trace=trace, compute=compute_of(budget))


def test_ladders_go_down():
    for rungs in (ladder(UNET), ladder(VNET)):
        usual = [rung for rung in rungs if not rung.last_resort]
        for part in (usual, [rung for rung in rungs if rung.last_resort]):
            assert [r.family.base for r in part] == sorted((r.family.base for r in part), reverse=True)
            assert [r.edge for r in part] == sorted((r.edge for r in part), reverse=True)
        assert min(rung.family.base for rung in usual) == rungs[0].family.base // 2
    assert {rung.family.base for rung in ladder(UNET, base=20)} == {20}


def test_plenty_of_memory_and_time_takes_the_residual_encoder():
    chosen = _select(LARGE, Budget(), gib=24)
    assert chosen is not None
    assert (chosen.rung.family.architecture, chosen.rung.family.base) == ("resenc", 32)


def test_less_memory_takes_the_plain_unet():
    chosen = _select(LARGE, Budget(), gib=8)
    assert chosen is not None
    assert (chosen.rung.family.architecture, chosen.rung.family.base) == ("unet", 32)
    assert "resenc of 32 features" in why_selected(chosen, 8 * GIB)


def test_little_memory_takes_a_narrow_one():
    chosen = _select(LARGE, Budget(), gib=0.9)
    assert chosen is not None
    assert chosen.rung.family.base < 32
    assert chosen.fitted.topology.voxels >= 64**3


def test_twenty_minutes_on_two_cores_take_the_half_width_that_was_measured():
    chosen = _select(SMALL, Budget(device="cpu", seconds=1200, speed=TWO_CORES))
    assert chosen is not None
    assert (chosen.rung.family.architecture, chosen.rung.family.base, chosen.fitted.batch) == ("unet", 16, 4)
    assert chosen.steps >= 1600


@pytest.mark.parametrize("grid", [SMALL, LARGE])
def test_more_time_never_makes_a_smaller_network(grid):
    widths, work = [], []
    for seconds in (60, 300, 1200, 3600, 6 * 3600, 86400, 10 * 86400, 100 * 86400):
        chosen = _select(grid, Budget(device="cpu", seconds=seconds, speed=TWO_CORES))
        assert chosen is not None
        widths.append(chosen.rung.family.base)
        work.append(chosen.fitted.cost.forward_flops)
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_too_little_time_is_planned_with_a_warning():
    chosen = _select(LARGE, Budget(device="cpu", seconds=10, speed=TWO_CORES))
    assert chosen is not None
    assert chosen.starved
    assert (chosen.rung.family.base, chosen.fitted.batch) == (16, 2)
    assert "WARNING" in why_selected(chosen, 8 * GIB)


def test_nothing_fits():
    assert _select(LARGE, Budget(), gib=0.05) is None


def test_a_fixed_patch_makes_the_network_narrower_rather_than_the_patch():
    chosen = _select(LARGE, Budget(), gib=4, fixed=ConfigurationOverrides(patch_size=(128, 192, 192)))
    assert chosen is not None
    assert chosen.fitted.topology.patch == (128, 192, 192)
    assert chosen.rung.family.base < 32
