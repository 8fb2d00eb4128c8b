"""Changing plans by assignments, and comparing them."""

import pytest
from analytic_cost import analytic_cost
from making import hippocampus, liver

from planners.budget import GIB, Budget, PlanningError
from planners.edit import Change, compare, parse_change, parse_memory, replan
from planners.explain import reasons_for
from planners.nnunet import plan_nnunet
from planners.overrides import ConfigurationOverrides, Overrides
from planners.standard import plan_standard

GPU = Budget(memory_bytes=8 * GIB)


def _replanned(*assignments, planner=plan_standard, data=liver):
    return replan(planner, data(), analytic_cost, parse_change(assignments, GPU))


def test_assignments_are_sorted_into_budget_constraints_and_values():
    change = parse_change(
        [
            "memory=24GB",
            "minutes=20",
            "device=cpu",
            "spacing=1,1,1",
            "3d_fullres.patch_size=96,160,160",
            "training.seed=7",
            "planner=nnunet",
        ],
        GPU,
    )
    assert change == Change(
        budget=Budget(memory_bytes=24 * GIB, seconds=1200, device="cpu"),
        overrides=Overrides(spacing_mm=(1, 1, 1), configurations={"3d_fullres": ConfigurationOverrides(patch_size=(96, 160, 160))}),
        values={"training.seed": 7},
        planner="nnunet",
    )


@pytest.mark.parametrize(("text", "gib"), [("8GB", 8), ("8 GiB", 8), ("8g", 8), ("8", 8), ("512MB", 0.5), ("0.5gb", 0.5), ("1024 mib", 1)])
def test_memory(text, gib):
    assert parse_memory(text) == gib * GIB


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "nan", "infGB"])
def test_no_memory(text):
    with pytest.raises(PlanningError, match="memory"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        ("patch", "patch"),
        ("=3", "=3"),
        ("spacing=0,1,1", "spacing_mm.0"),
        ("spacing=a,b,c", "spacing_mm"),
        ("3d_fullres.patch_size=96,160", "configurations.3d_fullres.patch_size"),
        ("2d.batch_size=0", "configurations.2d.batch_size"),
        ("hours=soon", "hours"),
        ("hours=-1", "seconds"),
        ("device=tpu", "device"),
    ],
)
def test_wrong_assignments_name_their_field(assignment, field):
    with pytest.raises(PlanningError) as caught:
        parse_change([assignment], GPU)
    assert caught.value.field.startswith(field)
    assert caught.value.remedy


def test_constraints_are_honoured_and_the_rest_is_derived():
    plan = _replanned("3d_fullres.patch_size=96,160,160", "3d_fullres.batch_size=2")
    full = plan.configurations["3d_fullres"]
    assert (full.patch_size, full.batch_size) == ((96, 160, 160), 2)
    assert full.network.total_stride == (16, 32, 32)
    assert plan == plan_standard(
        liver(),
        GPU,
        analytic_cost,
        overrides=Overrides(configurations={"3d_fullres": ConfigurationOverrides(patch_size=(96, 160, 160), batch_size=2)}),
    )


def test_plain_values_are_set_with_a_reason():
    plan = _replanned("training.epochs=300", "mirror_axes=1,2", "3d_fullres.batch_dice=false", "3d_fullres.augmentation.gamma=0.8,1.2")
    assert plan.training.epochs == 300
    assert plan.mirror_axes == (1, 2)
    full = plan.configurations["3d_fullres"]
    assert (full.batch_dice, full.augmentation.gamma) == (False, (0.8, 1.2))
    assert reasons_for(plan, "training.epochs")[-1].rule == "set by the user"
    said = [d for d in plan.decisions if d.field == "configurations.3d_fullres.batch_dice"]
    assert [d.rule for d in said] == ["set by the user"]


def test_values_of_single_stages():
    plan = _replanned("3d_fullres.network.stages.0.blocks=1")
    assert plan.configurations["3d_fullres"].network.stages[0].blocks == 1


@pytest.mark.parametrize(
    ("assignment", "field", "hint"),
    [
        ("training.epoch=3", "training.epoch", "training.epochs"),
        ("3d_fulres.batch_dice=true", "3d_fulres", "3d_fullres.batch_dice"),
        ("training.epochs=many", "training.epochs", ""),
        ("mirror_axes=1,1", "mirror_axes", ""),
        ("2d.median_shape=0,1,1", "configurations.2d.median_shape", ""),
        ("3d_fullres.network.stages.9.blocks=1", "configurations.3d_fullres.network.stages.9", ""),
        ("training.epochs.0=1", "training.epochs.0", ""),
    ],
)
def test_impossible_values_name_their_field(assignment, field, hint):
    with pytest.raises(PlanningError) as caught:
        _replanned(assignment)
    assert caught.value.field == field
    assert hint in caught.value.remedy


def test_networks_changed_by_hand_are_checked_against_the_memory():
    with pytest.raises(PlanningError, match=r"3d_fullres.network.*GiB of 8.00 GiB"):
        _replanned("3d_fullres.network.stages.0.blocks=9")


def test_budgets_change_what_the_planner_may_spend():
    assert _replanned("memory=24GB").configurations["3d_fullres"].patch_size > _replanned().configurations["3d_fullres"].patch_size
    assert _replanned("memory=24GB", planner=plan_nnunet) == plan_nnunet(liver(), Budget(memory_bytes=24 * GIB), analytic_cost)


def test_third_party_planners_take_budgets_and_values_but_no_constraints():
    def simple(fingerprint, budget, cost):
        return plan_nnunet(fingerprint, budget, cost)

    assert _replanned("training.epochs=5", planner=simple, data=hippocampus).training.epochs == 5
    with pytest.raises(PlanningError, match="this planner takes no constraints"):
        _replanned("spacing=1,1,1", planner=simple)


def test_plans_side_by_side():
    plans = [_replanned(), _replanned("spacing=2,2,2"), _replanned(data=hippocampus)]
    rows = {row.field: row for row in compare(plans)}
    assert rows["planner"].values == ("standard",) * 3
    assert not rows["planner"].differs
    assert rows["3d_fullres.spacing_mm"].values == ("1 × 0.767 × 0.767", "2 × 2 × 2", "1 × 1 × 1")
    assert rows["3d_fullres.spacing_mm"].differs
    assert rows["3d_lowres.patch_size"].values[2] == "–"
    assert next(iter(rows)) == "planner"
