"""The default planner and its kin: memory, time, device, sides, overrides and refusals."""

import pytest
from analytic_cost import CALLS, analytic_cost
from making import TWO_CORES, fingerprint, heart, hippocampus, liver, prostate
from properties import check_standard

from planners.budget import GIB, Budget, PlanningError
from planners.drafting import room_of
from planners.explain import reasons_for
from planners.overrides import ConfigurationOverrides, Overrides
from planners.residual import plan_residual
from planners.standard import plan_standard
from planners.vnet import plan_vnet

GPU = Budget(memory_bytes=8 * GIB)
DATASETS = [hippocampus, liver, prostate, heart]


@pytest.mark.parametrize("planner", [plan_standard, plan_residual, plan_vnet])
@pytest.mark.parametrize("make", DATASETS)
@pytest.mark.parametrize("budget", [GPU, Budget(memory_bytes=4 * GIB, device="cpu", seconds=1200, speed=TWO_CORES)])
def test_promises_hold(planner, make, budget):
    CALLS.clear()
    plan = planner(make(), budget, analytic_cost)
    assert len(CALLS) <= 16
    check_standard(plan, make(), budget)


def test_plans_are_canonical_and_coarsest_axis_first():
    # Stored as LPS with the thick slices along x: array axes (z, y, x) lie along S, P, L.
    turned = fingerprint((256, 216, 12), (1.5, 1.5, 10.0), orientation="LPS")
    plan = plan_standard(turned, GPU, analytic_cost)
    assert (plan.orientation, plan.axis_order) == ("canonical", (2, 0, 1))
    assert plan.configurations["3d_fullres"].median_shape == (12.0, 256.0, 216.0)


def test_the_same_data_in_other_orientations_give_the_same_plan():
    upright = plan_standard(fingerprint((100, 120, 80), (2.0, 1.0, 1.5), orientation="RAS"), GPU, analytic_cost)
    # x, y, z along A, S, R: the array axes (z, y, x) lie along R, S, A.
    turned = plan_standard(fingerprint((80, 100, 120), (1.5, 2.0, 1.0), orientation="ASR"), GPU, analytic_cost)
    assert turned.model_dump(exclude={"fingerprint_hash"}) == upright.model_dump(exclude={"fingerprint_hash"})


def test_more_memory_means_a_larger_patch_or_network():
    work = []
    for gib in (2, 4, 8, 16, 24, 48):
        plan = plan_standard(liver(), Budget(memory_bytes=gib * GIB), analytic_cost)
        full = plan.configurations["3d_fullres"]
        traced = analytic_cost(full.network, patch_size=full.patch_size, batch_size=2, in_channels=1, num_classes=3, device="cuda")
        work.append(traced.training_bytes)
        assert 0.7 * gib * GIB <= traced.training_bytes <= 0.9 * gib * GIB
    assert work == sorted(work)


def test_a_cpu_plan_differs_from_a_gpu_plan():
    for make in (hippocampus, liver, heart):
        gpu = plan_standard(make(), GPU, analytic_cost)
        cpu = plan_standard(make(), GPU.model_copy(update={"device": "cpu"}), analytic_cost)
        assert (gpu.training.optimizer, cpu.training.optimizer) == ("sgd", "adamw")
        assert cpu.training.epochs * cpu.training.iterations < 250_000
        name, fast = gpu.configuration()
        slow = cpu.configurations[name]
        assert slow.network.stages[0].features <= fast.network.stages[0].features
        assert (slow.network, slow.patch_size, slow.batch_size) != (fast.network, fast.patch_size, fast.batch_size)


def test_time_shapes_network_batch_and_recipe():
    budget = Budget(memory_bytes=6 * GIB, device="cpu", seconds=1200, speed=TWO_CORES)
    plan = plan_standard(hippocampus(), budget, analytic_cost)
    full = plan.configurations["3d_fullres"]
    assert (full.patch_size, full.batch_size, full.network.stages[0].features) == ((40, 56, 40), 4, 16)
    assert (plan.training.optimizer, plan.training.schedule, plan.training.seconds) == ("adamw", "cosine", 1200)
    assert plan.training.ema_decay > 0.9
    # A step on slices takes no longer than on the patches that the schedule was made for.
    seconds = [
        TWO_CORES.step_seconds(
            analytic_cost(c.network, patch_size=c.patch_size, batch_size=c.batch_size, in_channels=1, num_classes=3, device="cpu").work
        )
        for c in (full, plan.configurations["2d"])
    ]
    assert seconds[1] <= 1.05 * seconds[0]


def test_free_memory_counts_where_none_is_granted():
    assert room_of(Budget(free_bytes=10 * GIB)).limit == pytest.approx(9 * GIB)
    assert room_of(Budget(free_bytes=10 * GIB, device="cpu")).limit == pytest.approx(6 * GIB)
    assert room_of(Budget(free_bytes=10 * GIB, memory_bytes=4 * GIB)).limit == pytest.approx(3.6 * GIB)
    assert room_of(Budget()).limit == pytest.approx(7.2 * GIB)


def test_five_percent_of_the_data_at_most():
    plan = plan_standard(hippocampus(), Budget(memory_bytes=80 * GIB), analytic_cost)
    assert plan.configurations["3d_fullres"].batch_size == 9
    assert plan.configurations["2d"].batch_size == 366


def test_receptive_field_and_reasons_are_reported():
    plan = plan_standard(liver(), GPU, analytic_cost)
    reasons = [d.reason for d in reasons_for(plan, "configurations.3d_fullres.network.stages")]
    assert any("voxel of the deepest stage sees" in reason for reason in reasons)
    patch = reasons_for(plan, "configurations.3d_fullres.patch_size")[0].reason
    assert "GiB" in patch
    assert "90% of 8.00 GiB granted" in patch


def test_left_and_right_are_not_flipped():
    sided = fingerprint((64, 200, 200), (3.0, 1.0, 1.0), labels={"background": 0, "Left": 1, "Right": 2})
    assert plan_standard(sided, GPU, analytic_cost).mirror_axes == (0, 1)
    sideways = fingerprint((200, 200, 64), (1.0, 1.0, 3.0), labels={"background": 0, "Left": 1, "Right": 2})
    plan = plan_standard(sideways, GPU, analytic_cost)
    assert (plan.axis_order, plan.mirror_axes) == ((2, 0, 1), (1, 2))


def test_overrides_are_constraints():
    fixed = Overrides(base_features=16, configurations={"3d_fullres": ConfigurationOverrides(patch_size=(96, 160, 160), batch_size=4)})
    full = plan_standard(liver(), GPU, analytic_cost, overrides=fixed).configurations["3d_fullres"]
    assert (full.patch_size, full.batch_size, full.network.stages[0].features) == ((96, 160, 160), 4, 16)
    assert full.network.total_stride == (16, 32, 32)
    cascade = plan_standard(liver(), GPU, analytic_cost, overrides=fixed).configurations["3d_cascade_fullres"]
    assert cascade.patch_size == (96, 160, 160)


def test_a_fixed_batch_makes_the_patch_smaller():
    free = plan_standard(liver(), GPU, analytic_cost).configurations["3d_fullres"]
    fixed = Overrides(configurations={"3d_fullres": ConfigurationOverrides(batch_size=6)})
    full = plan_standard(liver(), GPU, analytic_cost, overrides=fixed).configurations["3d_fullres"]
    assert full.batch_size == 6
    assert full.patch_size < free.patch_size


def test_fixed_spacings():
    everywhere = plan_standard(liver(), GPU, analytic_cost, overrides=Overrides(spacing_mm=(1.0, 1.0, 2.0)))
    assert everywhere.axis_order == (2, 0, 1)
    assert everywhere.configurations["3d_fullres"].spacing_mm == (2.0, 1.0, 1.0)
    assert everywhere.configurations["2d"].spacing_mm == (1.0, 1.0, 1.0)
    slices_only = Overrides(configurations={"2d": ConfigurationOverrides(spacing_mm=(1.0, 2.0, 2.0))})
    plan = plan_standard(liver(), GPU, analytic_cost, overrides=slices_only)
    assert plan.configurations["2d"].spacing_mm == (1.0, 2.0, 2.0)
    assert plan.configurations["2d"].median_shape == (1.0, 196.0, 196.0)
    assert plan.configurations["3d_fullres"].spacing_mm == (1.0, 0.767, 0.767)
    low = Overrides(configurations={"3d_lowres": ConfigurationOverrides(spacing_mm=(3.0, 3.0, 3.0))})
    assert plan_standard(liver(), GPU, analytic_cost, overrides=low).configurations["3d_lowres"].spacing_mm == (3.0, 3.0, 3.0)


def test_the_choice_among_three_networks_is_explained():
    for budget in (GPU, Budget(memory_bytes=4 * GIB, device="cpu", seconds=1200, speed=TWO_CORES)):
        plan = plan_standard(liver(), budget, analytic_cost)
        said = " ".join(d.reason for d in reasons_for(plan, "configurations.3d_fullres.network.architecture"))
        assert all(name in said for name in ("unet", "resenc", "V-Net"))


def test_architectures():
    for name in ("unet", "resenc", "vnet"):
        plan = plan_standard(liver(), GPU, analytic_cost, overrides=Overrides(architecture=name))
        assert {c.network.architecture for c in plan.configurations.values()} == {name}
    vnet = plan_vnet(liver(), GPU, analytic_cost).configurations["3d_fullres"].network
    assert [stage.features for stage in vnet.stages][:3] == [16, 32, 64]
    assert vnet.stages[0].kernel == (5, 5, 5)
    assert [stage.blocks for stage in vnet.stages][:4] == [1, 2, 3, 3]
    assert vnet.decoder_blocks[:3] == (1, 2, 3)


def _refused(fingerprint_, budget=GPU, planner=plan_standard, **fixed):
    with pytest.raises(PlanningError) as caught:
        planner(fingerprint_, budget, analytic_cost, **fixed)
    assert caught.value.remedy
    return caught.value


def test_what_cannot_be_planned_is_refused_by_name():
    assert _refused(liver(), Budget(memory_bytes=10_000_000)).field == "memory_bytes"
    many = fingerprint((300, 300, 300), labels={f"l{i}": i for i in range(1, 301)})
    assert _refused(many, Budget(memory_bytes=100 * 1024**2)).field == "memory_bytes"
    assert _refused(fingerprint((1, 1, 1))).field == "shape_after_crop"
    patch = Overrides(configurations={"3d_fullres": ConfigurationOverrides(patch_size=(512, 512, 512))})
    assert _refused(liver(), overrides=patch).field == "3d_fullres.patch_size"
    batch = Overrides(configurations={"2d": ConfigurationOverrides(batch_size=10**6)})
    assert _refused(liver(), overrides=batch).field == "2d.batch_size"
    assert _refused(liver(), overrides=Overrides(architecture="os.system")).field == "architecture"
    assert _refused(liver(), planner=plan_vnet, overrides=Overrides(architecture="unet")).field == "architecture"
    unknown = Overrides(configurations={"4d": ConfigurationOverrides(batch_size=2)})
    assert _refused(liver(), overrides=unknown).field == "4d"
    cascade = Overrides(configurations={"3d_cascade_fullres": ConfigurationOverrides(spacing_mm=(1.0, 1.0, 1.0))})
    assert _refused(liver(), overrides=cascade).field == "3d_cascade_fullres.spacing_mm"


def test_many_classes_and_channels_are_planned_where_there_is_room():
    labels = {f"l{i}": i for i in range(1, 301)}
    wide = fingerprint((200, 200, 200), channels=[f"C{i}" for i in range(12)], labels=labels)
    check_standard(plan_standard(wide, Budget(memory_bytes=24 * GIB), analytic_cost), wide, Budget(memory_bytes=24 * GIB))


def test_single_slices_and_single_cases():
    flat = fingerprint((1, 300, 400), (5.0, 1.0, 1.0))
    plan = plan_standard(flat, GPU, analytic_cost)
    assert list(plan.configurations) == ["2d"]
    check_standard(plan, flat, GPU)
    alone = fingerprint((30, 40, 50), cases=1)
    check_standard(plan_standard(alone, GPU, analytic_cost), alone, GPU)
