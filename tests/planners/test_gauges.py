"""Gauges of memory: nnU-Net's count, and bytes scaled from a trace."""

import pytest
from analytic_cost import analytic_cost

from planners.families import UNET
from planners.memory import FeatureMapGauge, TracedGauge, batch_cap
from planners.spacing import Grid
from planners.speed import Work
from planners.topology import plan_topology

CUBE = plan_topology((1, 1, 1), (64, 64, 64))


def test_the_count_scales_with_the_judged_batch():
    count = UNET.feature_voxels(CUBE, 3)
    assert FeatureMapGauge(count, 2, 2, 3).fits(UNET, CUBE)
    assert not FeatureMapGauge(count * 0.99, 2, 2, 3).fits(UNET, CUBE)
    assert FeatureMapGauge(count / 6, 12, 2, 3).fits(UNET, CUBE)
    assert not FeatureMapGauge(count / 6, 12, 12, 3).fits(UNET, CUBE)


def test_the_batch_is_rounded_half_to_even():
    count = UNET.feature_voxels(CUBE, 3)
    assert FeatureMapGauge(count * 1.25, 2, 2, 3).batch(UNET, CUBE) == 2
    assert FeatureMapGauge(count * 1.75, 2, 2, 3).batch(UNET, CUBE) == 4


def test_a_calibrated_gauge_forecasts_what_was_traced():
    trace = analytic_cost(UNET.network(CUBE), patch_size=(64, 64, 64), batch_size=3, in_channels=1, num_classes=3, device="cuda")
    gauge = TracedGauge(1e9, 1, 3).calibrated(UNET, CUBE, 3, trace)
    assert gauge.forecast(UNET, CUBE, 3) == pytest.approx(trace.training_bytes)
    assert gauge.work(UNET, CUBE, 3) == Work(flops=pytest.approx(trace.step_flops), moved_bytes=pytest.approx(trace.moved_bytes))


def test_the_batch_of_bytes_is_the_largest_that_fits():
    gauge = TracedGauge(2e9, 1, 3, bytes_per_voxel=10)
    batch = gauge.batch(UNET, CUBE)
    assert gauge.forecast(UNET, CUBE, batch) <= 2e9 < gauge.forecast(UNET, CUBE, batch + 1)
    assert TracedGauge(1.0, 1, 3).batch(UNET, CUBE) == 0


def test_five_percent_of_the_training_voxels():
    grid = Grid(spacing=(1.0,) * 3, median_shape=(64.0,) * 3, cases=100, dataset_voxels=100 * 64.0**3)
    assert batch_cap(grid, CUBE) == 5
    assert batch_cap(grid, CUBE, share=1.0) == 100
