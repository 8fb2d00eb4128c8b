"""What a plan will take: time, memory and disk, against sums by hand and against the plan's own steps."""

import math

import pytest
from analytic_cost import analytic_cost
from making import TWO_CORES, fingerprint, heart, hippocampus, liver

from planners.budget import GIB, Budget
from planners.fingerprint import LabelObservation
from planners.forecast import forecast
from planners.nnunet import plan_nnunet
from planners.readable import plan_markdown
from planners.schedule import LOOP_SHARE, compute_of
from planners.standard import plan_standard

SHORT = Budget(memory_bytes=6 * GIB, device="cpu", seconds=1200, speed=TWO_CORES)


def _windows(shape, patch):
    assert all(n >= p for n, p in zip(shape, patch, strict=True))
    return math.prod(1 if n == p else math.ceil(2 * (n - p) / p) + 1 for n, p in zip(shape, patch, strict=True))


def _forecasts(plan, dataset, budget, folds=5):
    return {f.configuration: f for f in forecast(plan, dataset, budget, cost=analytic_cost, windows=_windows, folds=folds)}


@pytest.mark.parametrize("make", [hippocampus, heart, liver])
@pytest.mark.parametrize("budget", [SHORT, Budget(memory_bytes=8 * GIB), Budget(memory_bytes=4 * GIB, device="cpu", speed=TWO_CORES)])
def test_every_configuration_is_forecast_and_agrees_with_the_planner(make, budget):
    plan = plan_standard(make(), budget, analytic_cost)
    found = _forecasts(plan, make(), budget)
    assert list(found) == list(plan.configurations)
    name, _ = plan.configuration()
    main = found[name]
    if budget.seconds is not None:
        assert main.limited
        assert main.run.seconds == budget.seconds
        assert main.run.steps == pytest.approx(compute_of(budget).steps(main.cost.work), rel=0.06)
    else:
        assert main.run.steps == plan.training.epochs * plan.training.iterations
    assert main.run.seconds == pytest.approx(main.run.steps / main.length.iterations * main.run.epoch_seconds, rel=0.05)
    assert main.fold_seconds == main.run.seconds + main.cases_seconds


def test_a_step_takes_what_the_speed_says():
    plan = plan_nnunet(hippocampus(), Budget(), analytic_cost)
    found = _forecasts(plan, hippocampus(), SHORT)["3d_fullres"]
    made = plan.configurations["3d_fullres"]
    cost = analytic_cost(made.network, patch_size=made.patch_size, batch_size=made.batch_size, in_channels=1, num_classes=3, device="cpu")
    assert found.step_seconds == pytest.approx(TWO_CORES.step_seconds(cost.work) / LOOP_SHARE)
    assert found.run.epoch_seconds == pytest.approx((250 + 50 / 3) * found.step_seconds)
    assert found.run.seconds == pytest.approx(1000 * found.run.epoch_seconds)
    assert not found.limited


def test_held_out_cases_take_windows_and_flips():
    dataset = fingerprint((40, 56, 40), cases=10)
    plan = plan_standard(dataset, SHORT, analytic_cost)
    full = _forecasts(plan, dataset, SHORT)["3d_fullres"]
    made = plan.configurations["3d_fullres"]
    assert made.patch_size == (40, 56, 40)  # one window a case; two cases a fold, eight flips
    assert full.cases_seconds == pytest.approx(2 * 8 * full.step_seconds / 3 / made.batch_size)


def test_the_cache_is_half_precision_images_labels_and_places():
    seen = [{"a": LabelObservation(voxels=8000, volume_ml=8), "b": LabelObservation(voxels=50_000, volume_ml=50)}] * 4
    dataset = fingerprint((100, 100, 100), cases=4, channels=("T1", "T2"), observed=seen)
    found = _forecasts(plan_standard(dataset, SHORT, analytic_cost), dataset, SHORT, folds=4)["3d_fullres"]
    assert found.cache_bytes == 4 * (10**6 * (2 * 2 + 1) + 12 * (8000 + 10_000))
    assert found.folds == 4


def test_people_can_read_it():
    plan = plan_standard(liver(), SHORT, analytic_cost)
    text = plan_markdown(plan, _forecasts(plan, liver(), SHORT).values())
    for name in plan.configurations:
        assert f"## {name}: what training will take" in text
    for word in ("a step", "an epoch", "a fold", "all 5 folds", "memory", "disk", "the plan's time ends it", "measured on this machine"):
        assert word in text
    assert "what training will take" not in plan_markdown(plan)
