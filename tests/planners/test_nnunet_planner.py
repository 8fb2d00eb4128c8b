"""nnU-Net's planners: parity with nnU-Net 2.8.1, golden cases, and what they refuse."""

import json
import time
from pathlib import Path

import pytest
from analytic_cost import analytic_cost
from make_golden import DATASETS, GOLDEN, PLANNERS, answers
from making import fingerprint, heart, hippocampus, liver, prostate
from nnunet_plans import differences, read_fingerprint

from planners.budget import GIB, Budget, PlanningError
from planners.explain import reasons_for, unexplained
from planners.nnunet import plan_nnunet, plan_resenc_l, plan_resenc_m, plan_resenc_xl
from planners.overrides import ConfigurationOverrides, Overrides

_ORACLE = {
    "default": (plan_nnunet, Budget()),
    "default_24gb": (plan_nnunet, Budget(memory_bytes=24 * GIB)),
    "resenc_m": (plan_resenc_m, Budget()),
    "resenc_l": (plan_resenc_l, Budget()),
    "resenc_xl": (plan_resenc_xl, Budget()),
}


def test_parity_with_every_plan_of_the_oracle(shared_oracle: Path):
    pairs = json.loads((shared_oracle / "plans.json").read_text())["pairs"]
    wrong, compared, slowest = [], 0, 0.0
    for number, pair in enumerate(pairs):
        for name, wanted in pair["plans"].items():
            plan_by, budget = _ORACLE[name]
            began = time.process_time()
            plan = plan_by(read_fingerprint(pair), budget, analytic_cost)
            slowest = max(slowest, time.process_time() - began)
            compared += 1
            wrong += [f"{number} {name}: {line}" for line in differences(plan, wanted)]
    assert wrong == []
    assert (len(pairs), compared) == (60, 124)
    assert slowest < 1.0


def test_golden_plans_have_not_changed():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(answers())) == golden
    assert set(golden) == set(DATASETS)
    assert all(set(plans) == set(PLANNERS) for plans in golden.values())


def _patch_and_batch(plan, name):
    configuration = plan.configurations[name]
    return configuration.patch_size, configuration.batch_size, len(configuration.network.stages)


def test_known_plans_of_nnunet():
    small = plan_nnunet(hippocampus(), Budget(), analytic_cost)
    assert _patch_and_batch(small, "3d_fullres") == ((40, 56, 40), 9, 4)
    # Axis 1 of 36 × 50 × 35 stays in place: all spacings are equal, so axis 0 counts as the coarsest.
    assert _patch_and_batch(small, "2d")[:2] == ((1, 56, 40), 366)
    large = plan_nnunet(liver(), Budget(), analytic_cost)
    assert _patch_and_batch(large, "3d_fullres")[:2] == ((128, 128, 128), 2)
    assert _patch_and_batch(large, "3d_lowres")[0] == (128, 128, 128)
    assert large.configurations["3d_lowres"].spacing_mm == pytest.approx((2.5001, 1.9176, 1.9176), abs=1e-4)
    assert large.configurations["3d_lowres"].median_shape == (193.0, 205.0, 205.0)
    assert _patch_and_batch(plan_nnunet(heart(), Budget(), analytic_cost), "3d_fullres")[:2] == ((10, 256, 224), 7)
    assert _patch_and_batch(plan_nnunet(prostate(), Budget(), analytic_cost), "3d_fullres") == ((20, 320, 256), 2, 7)


@pytest.mark.parametrize(
    ("planner", "batch_3d", "batch_2d"), [(plan_resenc_m, 58, 1618), (plan_resenc_l, 178, 4554), (plan_resenc_xl, 183, 6711)]
)
def test_presets_let_batches_of_small_data_explode(planner, batch_3d, batch_2d):
    plan = planner(hippocampus(), Budget(), analytic_cost)
    assert plan.configurations["3d_fullres"].batch_size == batch_3d
    assert plan.configurations["2d"].batch_size == batch_2d


def test_cascades_take_the_labels_of_the_low_resolution():
    plan = plan_nnunet(liver(), Budget(), analytic_cost)
    full, cascade = plan.configurations["3d_fullres"], plan.configurations["3d_cascade_fullres"]
    assert cascade == full.model_copy(update={"previous_stage": "3d_lowres"})
    assert (full.batch_dice, plan.configurations["3d_lowres"].batch_dice, plan.configurations["2d"].batch_dice) == (True, False, True)


def test_the_recipe_is_nnunets():
    plan = plan_nnunet(liver(), Budget(seconds=600), analytic_cost)
    assert (plan.training.epochs, plan.training.iterations, plan.training.optimizer, plan.training.learning_rate) == (
        1000,
        250,
        "sgd",
        0.01,
    )
    assert plan.training.seconds == 600
    assert (plan.orientation, plan.mirror_axes) == ("as-stored", (0, 1, 2))


def test_presets_bring_their_own_memory_unless_the_user_grants_another():
    own = plan_resenc_l(liver(), Budget(), analytic_cost)
    assert own == plan_resenc_l(liver(), Budget(memory_bytes=24 * GIB), analytic_cost)
    assert own == plan_resenc_l(liver(), Budget(free_bytes=4 * GIB), analytic_cost)
    less = plan_resenc_l(liver(), Budget(memory_bytes=12 * GIB), analytic_cost)
    assert less.configurations["3d_fullres"].patch_size < own.configurations["3d_fullres"].patch_size


def test_single_slices_are_planned_in_2d_only():
    plan = plan_nnunet(fingerprint((1, 300, 400), (999.0, 1.0, 1.0)), Budget(), analytic_cost)
    assert list(plan.configurations) == ["2d"]


def test_sides_are_flipped_as_nnunet_does_but_with_a_warning():
    plan = plan_nnunet(fingerprint(labels={"background": 0, "left lung": 1, "right lung": 2}), Budget(), analytic_cost)
    assert plan.mirror_axes == (0, 1, 2)
    assert "WARNING" in reasons_for(plan, "mirror_axes")[0].reason


@pytest.mark.parametrize("planner", PLANNERS.values())
def test_every_value_has_a_reason(planner):
    assert unexplained(planner(liver(), Budget(), analytic_cost)) == ()


def test_what_cannot_be_planned_is_refused_by_name():
    with pytest.raises(PlanningError, match="memory_bytes = 10 MiB"):
        plan_nnunet(liver(), Budget(memory_bytes=10_000_000), analytic_cost)
    with pytest.raises(PlanningError, match="median_shape = 5 × 5 × 5"):
        plan_nnunet(fingerprint((5, 5, 5)), Budget(), analytic_cost)
    with pytest.raises(PlanningError, match="more than one voxel"):
        plan_nnunet(fingerprint((1, 1, 1)), Budget(), analytic_cost)
    with pytest.raises(PlanningError, match=r"architecture = resenc: .*standard"):
        plan_nnunet(liver(), Budget(), analytic_cost, overrides=Overrides(architecture="resenc"))


def test_overrides_are_honoured_and_the_rest_derived():
    fixed = Overrides(
        spacing_mm=(2.0, 1.5, 1.5), configurations={"3d_fullres": ConfigurationOverrides(patch_size=(96, 160, 160), batch_size=3)}
    )
    plan = plan_nnunet(liver(), Budget(), analytic_cost, overrides=fixed)
    full = plan.configurations["3d_fullres"]
    assert (full.spacing_mm, full.patch_size, full.batch_size) == ((2.0, 1.5, 1.5), (96, 160, 160), 3)
    assert full.median_shape == (241.0, 262.0, 262.0)
    assert full.network.total_stride == (16, 32, 32)
    assert reasons_for(plan, "configurations.3d_fullres.patch_size")[0].rule == "set by the user"


def test_extremes_are_planned_without_overflow_or_delay():
    vast = fingerprint((2000, 2000, 2000), (0.01, 0.01, 0.01), cases=10_000, channels=[f"C{i}" for i in range(12)])
    began = time.process_time()
    plan = plan_nnunet(vast, Budget(), analytic_cost)
    assert time.process_time() - began < 2.0
    assert plan.configurations["3d_fullres"].batch_size == 2
    assert plan_nnunet(fingerprint(cases=1), Budget(), analytic_cost).configurations["3d_fullres"].batch_size == 2
