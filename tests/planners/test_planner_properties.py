"""The promises of `standard` over seeded random fingerprints; 2,000 of them in benchmarks/planner_properties.py."""

import numpy as np
import pytest
from analytic_cost import analytic_cost
from properties import budget_for, check_standard
from random_fingerprints import random_fingerprint

from planners.budget import Budget, PlanningError
from planners.nnunet import plan_nnunet, plan_resenc_l
from planners.residual import plan_residual
from planners.standard import plan_standard
from planners.vnet import plan_vnet

REFUSALS = {"memory_bytes", "shape_after_crop"}


@pytest.mark.parametrize("hundred", range(3))
def test_standard_keeps_its_promises_or_refuses_by_name(hundred):
    refused = []
    for seed in range(10_000 + 100 * hundred, 10_100 + 100 * hundred):
        fingerprint, budget = random_fingerprint(seed, most_cases=20), budget_for(seed)
        try:
            check_standard(plan_standard(fingerprint, budget, analytic_cost), fingerprint, budget)
        except PlanningError as error:
            refused.append(error.field)
    assert set(refused) <= REFUSALS
    assert len(refused) <= 5


@pytest.mark.parametrize("planner", [plan_residual, plan_vnet])
def test_its_kin_do_too(planner):
    refused = set()
    for seed in range(20_000, 20_040):
        fingerprint, budget = random_fingerprint(seed, most_cases=10), budget_for(seed)
        try:
            check_standard(planner(fingerprint, budget, analytic_cost), fingerprint, budget)
        except PlanningError as error:
            refused.add(error.field)
    assert refused <= REFUSALS


@pytest.mark.parametrize("planner", [plan_standard, plan_nnunet])
def test_the_order_of_the_cases_does_not_matter(planner):
    for seed in range(30_000, 30_030):
        fingerprint = random_fingerprint(seed)
        order = np.random.default_rng(seed).permutation(len(fingerprint.cases))
        permuted = fingerprint.model_copy(update={"cases": tuple(fingerprint.cases[i] for i in order)})
        answers = []
        for each in (fingerprint, permuted):
            try:
                answers.append(planner(each, Budget(), analytic_cost).model_dump(exclude={"fingerprint_hash"}))
            except PlanningError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]


def test_nnunet_neither_crashes_nor_hangs():
    refused = set()
    for seed in range(40_000, 40_100):
        for planner in (plan_nnunet, plan_resenc_l):
            try:
                plan = planner(random_fingerprint(seed, most_cases=20), Budget(), analytic_cost)
            except PlanningError as error:
                refused.add(error.field)
            else:
                assert all(c.batch_size >= 2 for c in plan.configurations.values())
    assert refused <= {"median_shape", "shape_after_crop"}
