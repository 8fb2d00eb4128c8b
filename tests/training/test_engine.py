"""The arithmetic of a step, against numbers worked out by hand or by torch's own optimisers."""

from pathlib import Path

import pytest
import torch
from spheres import Spheres, plan

from autoseg3d.errors import StoppedError, StorageError, UsageError
from autoseg3d.patches import PatchSource
from autoseg3d.training.curves import draw_curves
from autoseg3d.training.engine import Engine, pseudo_dice, shown_voxels
from autoseg3d.training.loading import Batch, Batches
from autoseg3d.training.memory import memory_errors
from autoseg3d.training.outlook import (
    Outlook,
    Trial,
    check_disk,
    check_time,
    count_windows,
    describe,
    look_ahead,
    try_step,
)
from planners.epochs import EpochLength
from planners.labels import label_table
from planners.plan import TrainingPlan

SGD = TrainingPlan(learning_rate=0.1, momentum=0.9, weight_decay=1e-3)
ADAMW = TrainingPlan(optimizer="adamw", learning_rate=1e-3, weight_decay=1e-2, ema_decay=0.99)


def engine(training: TrainingPlan, *, precision: str = "fp32") -> Engine:
    return Engine(plan(training), "3d_fullres", training, device=torch.device("cpu"), precision=precision, seed=3)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return PatchSource(Spheres(), ["case_0", "case_1"], plan(), "3d_fullres", augment=False, seed=0).batch(0, 0)


def parameters(of: Engine) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in of.network.parameters()]


def test_a_step_of_sgd_is_nesterovs(batch: Batch) -> None:
    ours = engine(SGD)
    before = parameters(ours)
    ours.gradients(*batch)
    norm = torch.nn.utils.clip_grad_norm_(ours.network.parameters(), SGD.gradient_clip)
    gradients = [None if p.grad is None else p.grad + SGD.weight_decay * p.detach() for p in ours.network.parameters()]
    result = ours.step(*batch, rate=0.05, steps=0)
    assert result.gradient_norm == pytest.approx(float(norm), rel=1e-5)
    # First step: the momentum is the gradient, so Nesterov's step is (1 + momentum) times it.
    for was, now, gradient in zip(before, parameters(ours), gradients, strict=True):
        expected = was if gradient is None else was - 0.05 * (1 + 0.9) * gradient
        torch.testing.assert_close(now, expected, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_clipped_and_its_norm_told_unclipped(batch: Batch) -> None:
    tight = SGD.model_copy(update={"gradient_clip": 1e-3, "weight_decay": 0.0, "momentum": 0.0})
    ours = engine(tight)
    before = parameters(ours)
    result = ours.step(*batch, rate=1.0, steps=0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, parameters(ours), strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)
    assert result.gradient_norm is not None
    assert result.gradient_norm > 0.1


def test_a_step_that_is_not_finite_changes_nothing(batch: Batch) -> None:
    ours = engine(ADAMW)
    ours.step(*batch, rate=1e-3, steps=0)
    before = {name: tensor.clone() for name, tensor in ours.tensors().items()}
    result = ours.step(batch[0] * float("nan"), batch[1], rate=1e-3, steps=1)
    assert result.skipped
    assert all(torch.equal(tensor, ours.tensors()[name]) for name, tensor in before.items())


def test_averaged_weights_follow_fast_first_and_slowly_later(batch: Batch) -> None:
    ours = engine(ADAMW)
    assert ours.average is not None
    start = parameters(ours)[0]
    ours.step(*batch, rate=1e-3, steps=0)
    new = parameters(ours)[0]
    average = next(ours.average.parameters())
    torch.testing.assert_close(average, 0.1 * start + 0.9 * new)  # decay (1 + 0) / (10 + 0)
    ours.step(*batch, rate=1e-3, steps=10_000)
    torch.testing.assert_close(next(ours.average.parameters()), 0.99 * (0.1 * start + 0.9 * new) + 0.01 * parameters(ours)[0])
    assert ours.evaluated is ours.average
    assert engine(SGD).average is None


@pytest.mark.parametrize("training", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_an_engine_taken_up_goes_on_bit_for_bit(batch: Batch, training: TrainingPlan) -> None:
    ours = engine(training)
    ours.step(*batch, rate=1e-3, steps=0)
    ours.remember_best()
    other = engine(training)
    other.restore({name: tensor.clone() for name, tensor in ours.tensors().items()})
    for one in (ours, other):
        one.step(*batch, rate=1e-3, steps=1)
    mine, theirs = ours.tensors(), other.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_evaluation_leaves_no_trace_and_counts_voxels(batch: Batch) -> None:
    ours = engine(ADAMW)
    before = {name: tensor.clone() for name, tensor in ours.tensors().items()}
    loss, counts = ours.evaluate(*batch)
    assert loss == ours.evaluate(*batch)[0]
    assert counts.shape == (2, 3)
    assert int((counts[:, 0] + counts[:, 2]).sum()) == int((batch[1] > 0).sum())
    assert all(torch.equal(tensor, ours.tensors()[name]) for name, tensor in before.items())


def test_bfloat16_learns_like_float32(batch: Batch) -> None:
    exact, reduced = engine(ADAMW), engine(ADAMW, precision="bf16")
    losses = [[one.step(*batch, rate=3e-3, steps=n).loss for n in range(12)] for one in (exact, reduced)]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert losses[1][-1] == pytest.approx(losses[0][-1], abs=0.1)
    assert losses[0][-1] < losses[0][0] - 0.3  # type: ignore[operator]
    assert all(parameter.dtype == torch.float32 for parameter in reduced.network.parameters())


def test_pseudo_dice_by_hand() -> None:
    labels = label_table({"background": 0, "a": 1, "b": 2, "c": 3, "only predicted": 4})
    counts = torch.tensor([[6, 2, 2], [0, 0, 5], [0, 0, 0], [0, 9, 0]])
    assert pseudo_dice(counts, labels) == {"a": 0.75, "b": 0.0, "c": None, "only predicted": None}
    assert shown_voxels(counts, labels) == {"a": 8, "b": 5, "c": 0, "only predicted": 0}


def test_a_trial_step_leaves_no_trace(batch: Batch) -> None:
    ours = engine(SGD)
    before, generators = {name: tensor.clone() for name, tensor in ours.tensors().items()}, torch.get_rng_state()
    trial = try_step(ours, batch, batch)
    assert trial.step_seconds > trial.validation_seconds > 0
    assert all(torch.equal(tensor, ours.tensors()[name]) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), generators)
    assert all(parameter.grad is None for parameter in ours.network.parameters())
    outlook = look_ahead(ours, SGD, trial, EpochLength(250, 50), windows=64)
    assert outlook.steps == 250_000
    per_epoch = 250 * trial.step_seconds + 50 * trial.validation_seconds
    assert outlook.loop_seconds == pytest.approx(1000 * per_epoch)
    timed = look_ahead(ours, SGD.model_copy(update={"seconds": 60.0}), trial, EpochLength(10, 1), windows=0)
    assert timed.loop_seconds == 60
    assert outlook.cases_seconds == pytest.approx(32 * trial.validation_seconds)
    assert "then" not in timed.sentence()


def test_windows_and_flips_are_counted() -> None:
    made = plan()
    # 20 voxels by windows of 16 in steps of 8 make two per axis; three mirrored axes make eight flips.
    assert count_windows(Spheres(), ["case_0", "case_1"], made.configurations["3d_fullres"], made.mirror_axes) == 2 * 8 * 8


def _told_of(steps: int, **recipe: object) -> str | None:
    outlook = Outlook(60, steps, EpochLength(5, 1), Trial(30.0, 10.0, 25.0, 0), 0, 4.0, 4.0)
    return check_time(SGD.model_copy(update={"seconds": 60.0, **recipe}), outlook)


def test_too_little_time_is_told() -> None:
    with pytest.raises(UsageError, match="too little time"):
        _told_of(1)
    assert "Only 50 steps" in (_told_of(50) or "")
    assert "chosen for 50,000 or more" in (_told_of(5000) or "")
    assert _told_of(50_000) is None
    assert _told_of(50, seconds=None) is None  # no time to keep to


def test_a_recipe_for_few_steps_is_not_blamed_for_having_few() -> None:
    assert _told_of(5000, optimizer="adamw") is None
    assert "will be poor" in (_told_of(50, optimizer="adamw") or "")


def test_validation_in_float32_is_foretold_where_it_would_matter() -> None:
    trial, length = Trial(1.0, 0.5, 1.5, 0), EpochLength(5, 1)
    ours, timed = engine(SGD, precision="bf16"), SGD.model_copy(update={"seconds": 60.0})
    short = look_ahead(ours, timed, trial, length, windows=100)
    assert (short.cases_seconds, short.exact_cases_seconds) == (25.0, 75.0)
    assert "then 25 s to validate whole cases (75 s if the network turns out to need float32)" in short.sentence()
    few = look_ahead(ours, timed, trial, length, windows=4)
    assert "float32" not in few.sentence()


def test_the_trial_leaves_precision_weights_and_gradients_as_they_were(batch: Batch) -> None:
    ours = engine(SGD, precision="bf16")
    before = parameters(ours)
    trial = try_step(ours, batch, batch)
    assert trial.exact_seconds >= trial.validation_seconds > 0
    assert ours.lowered is torch.bfloat16
    assert all(torch.equal(old, new) for old, new in zip(before, parameters(ours), strict=True))
    assert all(parameter.grad is None for parameter in ours.network.parameters())


def test_room_on_the_disk_and_in_memory(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(StorageError, match="E_DISK_FULL"):
        check_disk(tmp_path, 2**60)
    with pytest.raises(StoppedError, match="smaller --memory"), memory_errors():
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="else"), memory_errors():
        raise RuntimeError("something else")


def test_a_thread_that_loads_leaves_the_network_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Batches(PatchSource(Spheres(), ["case_0"], plan(), "3d_fullres", augment=True, seed=0), per_epoch=5) as batches:
            batches.next()
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_durations_in_words() -> None:
    assert [describe(seconds) for seconds in (12, 100, 6000)] == ["12 s", "2 min", "1.7 h"]


def test_curves_are_drawn_with_gaps(tmp_path: Path) -> None:
    records = [
        {"loss": loss, "validation_loss": loss, "dice": {"a": dice, "b": 0.1}, "ema_dice": dice, "learning_rate": 0.1}
        | {"timing": {"samples_per_second": speed}}
        for loss, dice, speed in ((None, None, None), (0.4, 0.2, 3.0))
    ]
    draw_curves(records, tmp_path / "curves.png", title="a title")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
