"""Time: steps that seconds buy, and the recipe for them."""

import math

import pytest

from planners.budget import Budget
from planners.explain import Ledger
from planners.plan import TrainingPlan
from planners.schedule import compute_of, training


def _recipe(budget, step_flops):
    return training(compute_of(budget), step_flops, Ledger())


def test_a_gpu_without_a_time_trains_nnunets_thousand_epochs():
    assert compute_of(Budget()).steps(1e12) == math.inf
    assert _recipe(Budget(), 1e12) == TrainingPlan()


def test_steps_are_counted_as_three_passes_in_85_percent_of_the_time():
    compute = compute_of(Budget(seconds=1000, flops_per_second=3e12))
    assert compute.steps(1e12) == pytest.approx(850)
    assert compute.step_seconds(1e12) == pytest.approx(1000 / 850)


def test_few_steps_make_a_short_recipe():
    recipe = _recipe(Budget(seconds=1200, flops_per_second=3.3e11, device="cpu"), 8.4e9 * 8)
    steps = 0.85 * 1200 * 3.3e11 / 3 / (8.4e9 * 8)
    assert (recipe.optimizer, recipe.schedule, recipe.learning_rate, recipe.warmup) == ("adamw", "cosine", 1e-3, 0.05)
    assert recipe.seconds == 1200
    assert recipe.iterations == int(steps) // 40
    assert recipe.epochs * recipe.iterations == pytest.approx(10 * steps, rel=0.05)  # only an upper bound
    assert recipe.ema_decay == pytest.approx(1 - 25 / steps, abs=1e-4)


def test_many_steps_keep_sgd_within_the_seconds():
    recipe = _recipe(Budget(seconds=86400, flops_per_second=1e14), 1e12)
    assert (recipe.optimizer, recipe.epochs, recipe.iterations, recipe.seconds) == ("sgd", 1000, 250, 86400)


def test_a_cpu_without_a_time_is_planned_for_a_day():
    recipe = _recipe(Budget(device="cpu", flops_per_second=1e12), 1e12)
    assert recipe.seconds is None
    assert recipe.epochs * recipe.iterations == pytest.approx(0.85 * 86400 / 3, rel=0.05)
    assert _recipe(Budget(device="cpu", flops_per_second=1e12), 1e10) == TrainingPlan()
    between = _recipe(Budget(device="cpu", flops_per_second=1e12), 2e11)
    assert (between.optimizer, between.epochs) == ("sgd", int(0.85 * 86400 / 0.6 / 250))


@pytest.mark.parametrize("seconds", [0.001, 1.0, 30.0])
def test_no_time_at_all_still_makes_a_recipe(seconds):
    recipe = _recipe(Budget(seconds=seconds, device="cpu"), 1e13)
    assert recipe.iterations >= 1
    assert 0.9 <= recipe.ema_decay <= 0.999


def test_unmeasured_rates_are_said_to_be():
    ledger = Ledger()
    training(compute_of(Budget(device="cpu")), 1e12, ledger)
    assert any("not measured" in decision.reason for decision in ledger.decisions)


def test_narrow_networks_reach_a_lower_rate() -> None:
    compute = compute_of(Budget(device="cpu", seconds=1000, flops_per_second=1e12))
    assert compute.at_width(32).rate == pytest.approx(1e12)
    assert compute.at_width(8).rate == pytest.approx(0.38e12, rel=0.01)
    assert compute.at_width(8).rate < compute.at_width(16).rate < compute.at_width(32).rate < compute.at_width(64).rate
