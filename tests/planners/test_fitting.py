"""Fitting by traces: within the limit always, well filled where the data allow, and with few traces."""

from dataclasses import replace

import pytest
from analytic_cost import CALLS, analytic_cost

from planners.budget import GIB, NetworkCost
from planners.families import RESENC, UNET, VNET
from planners.fitting import Wish, calibrate, fit, outline, tracer
from planners.memory import TracedGauge
from planners.selection import start
from planners.spacing import Grid

LARGE = Grid(spacing=(1.0, 0.8, 0.8), median_shape=(400.0, 512.0, 512.0), cases=100, dataset_voxels=1e10)


def _trace(device="cuda"):
    return tracer(analytic_cost, in_channels=1, num_classes=3, device=device)


@pytest.mark.parametrize("family", [UNET, RESENC, VNET])
@pytest.mark.parametrize("gib", [1, 4, 8, 24, 80])
def test_memory_is_filled_and_never_exceeded(family, gib):
    wish = Wish(family, LARGE, start(family, LARGE, 256))
    CALLS.clear()
    fitted = fit(wish, TracedGauge(gib * GIB, 1, 3), _trace())
    assert fitted is not None
    assert 0.7 * gib * GIB <= fitted.cost.training_bytes <= gib * GIB
    assert fitted.batch >= 2
    assert len(CALLS) <= 4


def test_small_data_are_not_padded_with_memory():
    small = Grid(spacing=(1.0,) * 3, median_shape=(36.0, 50.0, 35.0), cases=260, dataset_voxels=260 * 36 * 50 * 35.0)
    fitted = fit(Wish(UNET, small, start(UNET, small, 256)), TracedGauge(80 * GIB, 1, 3), _trace())
    assert fitted is not None
    assert (fitted.topology.patch, fitted.batch) == ((40, 56, 40), 9)


def test_nothing_fits_nothing():
    assert fit(Wish(UNET, LARGE, start(UNET, LARGE, 256), least_voxels=32**3), TracedGauge(1e8, 1, 3), _trace()) is None


def test_fixed_values_are_kept_or_refused():
    wish = Wish(UNET, LARGE, start(UNET, LARGE, 64), fixed_patch=True, fixed_batch=5)
    fitted = fit(wish, TracedGauge(24 * GIB, 1, 3), _trace())
    assert fitted is not None
    assert (fitted.topology, fitted.batch) == (wish.whole, 5)
    assert fit(wish, TracedGauge(0.2 * GIB, 1, 3), _trace()) is None
    only_batch = fit(replace(wish, fixed_patch=False, whole=start(UNET, LARGE, 256), fixed_batch=16), TracedGauge(8 * GIB, 1, 3), _trace())
    assert only_batch is not None
    assert only_batch.batch == 16
    assert only_batch.cost.training_bytes <= 8 * GIB


def test_the_batch_stays_below_what_time_allows():
    small = Grid(spacing=(1.0,) * 3, median_shape=(36.0, 50.0, 35.0), cases=260, dataset_voxels=260 * 36 * 50 * 35.0)
    found = outline(Wish(UNET, small, start(UNET, small, 256), most_batch=3), TracedGauge(8 * GIB, 1, 3))
    assert found is not None
    assert found[1] == 3


def test_one_trace_calibrates():
    wish = Wish(UNET, LARGE, start(UNET, LARGE, 256))
    gauge = calibrate(wish, TracedGauge(8 * GIB, 1, 3), _trace())
    found = outline(wish, gauge)
    assert found is not None
    assert _trace()(UNET, *found).training_bytes == pytest.approx(gauge.forecast(UNET, *found), rel=0.1)


def test_a_cost_that_grows_faster_than_any_gauge_expects_is_still_met():
    def steep(network, *, patch_size, batch_size, in_channels, num_classes, device):
        voxels = batch_size * patch_size[0] * patch_size[1] * patch_size[2]
        counted = {"forward_flops": voxels, "step_flops": 3 * voxels, "kept_bytes": voxels, "moved_bytes": voxels}
        return NetworkCost(parameters=10, training_bytes=int(voxels**1.7), inference_bytes=1, **counted)

    fitted = fit(
        Wish(UNET, LARGE, start(UNET, LARGE, 256)), TracedGauge(1e10, 1, 3), tracer(steep, in_channels=1, num_classes=3, device="cpu")
    )
    assert fitted is not None
    assert fitted.cost.training_bytes <= 1e10


def test_a_network_is_traced_once():
    CALLS.clear()
    trace = _trace()
    topology = start(UNET, LARGE, 64)
    assert trace(UNET, topology, 2) == trace(UNET, topology, 2)
    assert len(CALLS) == 1
