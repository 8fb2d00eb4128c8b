"""Time: steps that seconds buy, and the recipe for them."""

import math

import pytest

from planners.budget import Budget
from planners.explain import Ledger
from planners.plan import TrainingPlan
from planners.schedule import STEPPING_SHARE, compute_of, training
from planners.speed import Speed, Work

ARITHMETIC = 1e30  # bytes per second: nothing but operations takes time


def _speed(flops_per_second):
    return Speed(flops_per_second=flops_per_second, bytes_per_second=ARITHMETIC)


def _work(step_flops):
    return Work(flops=step_flops, moved_bytes=0.0)


def _recipe(budget, step_flops, **width):
    return training(compute_of(budget), _work(step_flops), Ledger(), **width)


def test_a_gpu_without_a_time_trains_nnunets_thousand_epochs():
    assert compute_of(Budget()).steps(_work(1e12)) == math.inf
    assert _recipe(Budget(), 1e12) == TrainingPlan(first_bias="frequencies")


def test_a_step_is_arithmetic_traffic_and_overhead():
    speed = Speed(flops_per_second=1e12, bytes_per_second=1e10, overhead_seconds=0.01)
    assert speed.step_seconds(Work(flops=5e11, moved_bytes=2e9)) == pytest.approx(0.5 + 0.2 + 0.01)


def test_steps_fill_what_validation_and_the_rest_leave_of_the_time():
    compute = compute_of(Budget(seconds=1000, speed=_speed(1e12)))
    assert compute.steps(_work(1e12)) == pytest.approx(1000 * STEPPING_SHARE)
    assert compute.step_seconds(_work(1e12)) == pytest.approx(1 / STEPPING_SHARE)


def test_the_largest_batch_that_a_step_has_time_for():
    compute = compute_of(Budget(speed=Speed(flops_per_second=1e12, bytes_per_second=1e10, overhead_seconds=1.0)))

    def work(batch):
        return Work(flops=batch * 5e11, moved_bytes=1e10 + batch * 5e9)  # 2 s, and 1 s per patch

    for seconds, most in ((2.5, 0), (3.5, 1), (7.1, 5)):
        assert compute.most_batch(seconds / STEPPING_SHARE, work) == most


def test_few_steps_make_a_short_recipe():
    recipe = _recipe(Budget(seconds=1200, speed=_speed(3.3e11), device="cpu"), 3 * 8.4e9 * 8)
    steps = STEPPING_SHARE * 1200 * 3.3e11 / 3 / (8.4e9 * 8)
    assert (recipe.optimizer, recipe.schedule, recipe.learning_rate, recipe.warmup) == ("adamw", "cosine", 1e-3, 0.05)
    assert recipe.seconds == 1200
    assert recipe.iterations == int(steps) // 40
    assert recipe.epochs * recipe.iterations == pytest.approx(10 * steps, rel=0.05)  # only an upper bound
    assert recipe.ema_decay == pytest.approx(1 - 25 / steps, abs=1e-4)


@pytest.mark.parametrize(("features", "rate"), [(64, 5e-4), (32, 1e-3), (20, 1.6e-3), (16, 2e-3), (8, 2e-3), (1, 2e-3)])
def test_narrow_networks_learn_faster_up_to_a_bound(features, rate):
    assert _recipe(Budget(seconds=1200, speed=_speed(1e11)), 1e12, features=features).learning_rate == pytest.approx(rate)


def test_many_steps_keep_sgd_within_the_seconds():
    recipe = _recipe(Budget(seconds=86400, speed=_speed(1e14)), 3e12)
    assert (recipe.optimizer, recipe.epochs, recipe.iterations, recipe.seconds) == ("sgd", 1000, 250, 86400)


def test_a_cpu_without_a_time_is_planned_for_a_day():
    day = Budget(device="cpu", speed=_speed(1e12))
    recipe = _recipe(day, 3e12)
    assert recipe.seconds is None
    assert recipe.epochs * recipe.iterations == pytest.approx(STEPPING_SHARE * 86400 / 3, rel=0.05)
    assert _recipe(day, 3e10) == TrainingPlan(first_bias="frequencies")
    between = _recipe(day, 6e11)
    assert (between.optimizer, between.epochs) == ("sgd", int(STEPPING_SHARE * 86400 / 0.6 / 250))


@pytest.mark.parametrize("seconds", [0.001, 1.0, 30.0])
def test_no_time_at_all_still_makes_a_recipe(seconds):
    recipe = _recipe(Budget(seconds=seconds, device="cpu"), 1e13)
    assert recipe.iterations >= 1
    assert 0.9 <= recipe.ema_decay <= 0.999


@pytest.mark.parametrize("device", ["cuda", "cpu", "mps"])
def test_unmeasured_speeds_are_said_to_be(device):
    ledger = Ledger()
    training(compute_of(Budget(device=device)), _work(1e12), ledger)
    assert any("not measured" in decision.reason for decision in ledger.decisions)
