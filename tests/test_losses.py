"""The loss against numbers worked out by hand and against a plain one-hot writing of nnU-Net's rules (A.5, A.6) in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autoseg3d.losses import (
    DeepSupervisionLoss,
    class_counts,
    dice_and_cross_entropy,
    downsample,
    ordered_sums,
    scattered_sums,
    supervision_weights,
)
from planners.labels import Label, LabelTable, label_table

PLAIN = label_table({"background": 0, "a": 1, "b": 2, "c": 3})
PLAIN_IGNORE = label_table({"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4})
REGIONS = label_table({"background": 0, "whole": (1, 2, 3), "core": (2, 3), "tip": 3}, [1, 2, 3])
REGIONS_IGNORE = label_table({"background": 0, "whole": (1, 2, 3), "core": (2, 3), "tip": 3, "ignore": 4}, [1, 2, 3])
TABLES = {"labels": PLAIN, "labels, ignore": PLAIN_IGNORE, "regions": REGIONS, "regions, ignore": REGIONS_IGNORE}


def reference(logits: Tensor, target: Tensor, labels: LabelTable, batch_dice: bool) -> Tensor:
    """Float64, one-hot, autograd: as the rules read."""
    z, target = logits.double(), target.long().clamp(min=0)
    known = torch.ones_like(target, dtype=torch.bool) if labels.ignore_index is None else target != labels.ignore_index
    mask = known[:, None].double()
    if labels.has_regions:
        hot = torch.stack([torch.isin(target, torch.tensor(members)) for members in labels.class_members], 1).double()
        p = z.sigmoid()
        entropy = -(hot * z.sigmoid().log() + (1 - hot) * (1 - z.sigmoid()).log())
        ce = entropy.mean() if labels.ignore_index is None else (entropy * mask).sum() / mask.sum().clamp(min=1e-8)
    else:
        hot = torch.nn.functional.one_hot(target * known, logits.shape[1]).movedim(-1, 1).double()
        p = z.softmax(1)
        entropy = -(hot * z.log_softmax(1)).sum(1)[known]
        ce = entropy.mean() if entropy.numel() else z.new_zeros(())
        p, hot = p[:, 1:], hot[:, 1:]
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    overlap, predicted, true = ((x * mask).sum(axes) for x in (p * hot, p, hot))
    dice = (2 * overlap + 1e-5) / (predicted + true + 1e-5).clamp(min=1e-8)
    return ce - dice.mean()


def example(labels: LabelTable, seed: int, *, shape: tuple[int, int, int] = (4, 5, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, labels.num_classes, *shape, generator=generator)
    top = 4 if labels.ignore_index is None else 5
    target = torch.randint(-1, top, (2, *shape), generator=generator).to(torch.int16)
    if seed % 3 == 0:
        target[target == 3] = 0  # a class absent from the target
    if seed % 3 == 1:
        target[0] = 0
    return logits, target


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_value_and_gradient_are_those_of_the_rules(name: str, batch_dice: bool, seed: int) -> None:
    logits, target = example(TABLES[name], seed)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = dice_and_cross_entropy(ours, target, TABLES[name], batch_dice=batch_dice)
    wanted = reference(theirs, target, TABLES[name], batch_dice)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), abs=1e-5)
    (3 * value).backward()  # type: ignore[no-untyped-call]
    (3 * wanted).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["labels, ignore", "regions, ignore"])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_nothing_annotated_gives_a_finite_loss_without_gradient(name: str, batch_dice: bool) -> None:
    logits, target = example(TABLES[name], 0)
    logits.requires_grad_()
    value = dice_and_cross_entropy(logits, torch.full_like(target, 4), TABLES[name], batch_dice=batch_dice)
    assert value.item() == pytest.approx(-1)  # no cross-entropy; a Dice of 1 where both are empty
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_shares_of_the_parts_of_a_batch_add_up_to_its_loss_and_gradient(name: str, batch_dice: bool) -> None:
    examples = [example(TABLES[name], seed) for seed in (0, 1)]
    logits, target = (torch.cat(tensors) for tensors in zip(*examples, strict=True))
    loss = DeepSupervisionLoss(TABLES[name], batch_dice=batch_dice, num_outputs=1)
    whole = logits.clone().requires_grad_()
    value = loss((whole,), target)
    value.backward()
    parts = [(slice(0, 1), []), (slice(1, 4), [])]  # uneven, as the last part of a batch may be
    for part, sums in parts:
        loss((logits[part],), target[part], lambda vector, sums=sums: sums.append(vector) or vector)  # type: ignore[func-returns-value]
    totals = [a + b for a, b in zip(parts[0][1], parts[1][1], strict=True)]
    given, shares = logits.clone().requires_grad_(), []
    for part, _ in parts:
        known = iter(totals)
        share = loss((given[part],), target[part], lambda vector, known=known: next(known))
        share.backward()
        shares.append(share)
    torch.testing.assert_close(sum(shares), value)
    torch.testing.assert_close(given.grad, whole.grad)


def test_labels_by_hand() -> None:
    # Two voxels, one foreground class; p(foreground) = 3/4 at a foreground voxel and 1/4 at a background voxel.
    table = label_table({"background": 0, "a": 1})
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]).reshape(1, 2, 1, 1, 2)
    target = torch.tensor([1, 0], dtype=torch.int16).reshape(1, 1, 1, 2)
    dice = (2 * 0.75 + 1e-5) / (0.75 + 0.25 + 1 + 1e-5)
    value = dice_and_cross_entropy(logits, target, table, batch_dice=False)
    assert value.item() == pytest.approx(-math.log(0.75) - dice, abs=1e-6)


def test_regions_by_hand() -> None:
    # One voxel of the inner label: both regions true, p = 3/4 and 1/4.
    table = LabelTable(labels=(Label(name="whole", values=(1, 2), paint=1), Label(name="core", values=(2,), paint=2)))
    logits = torch.tensor([math.log(3), -math.log(3)]).reshape(1, 2, 1, 1, 1)
    target = torch.tensor([2], dtype=torch.int16).reshape(1, 1, 1, 1)
    dice = ((1.5 + 1e-5) / (1.75 + 1e-5) + (0.5 + 1e-5) / (1.25 + 1e-5)) / 2
    value = dice_and_cross_entropy(logits, target, table, batch_dice=False)
    assert value.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2 - dice, abs=1e-6)


def test_a_batch_dice_sums_before_it_divides() -> None:
    # Sample 0 is all foreground and found, sample 1 has none and none is seen: apart 1 and 1, together also 1.
    table = label_table({"background": 0, "a": 1})
    logits = torch.zeros(2, 2, 1, 1, 4)
    logits[0, 1], logits[1, 0] = 30, 30
    target = torch.tensor([1, 0], dtype=torch.int16).reshape(2, 1, 1, 1).expand(2, 1, 1, 4)
    for batch_dice in (False, True):
        assert dice_and_cross_entropy(logits, target, table, batch_dice=batch_dice).item() == pytest.approx(-1, abs=1e-5)
    logits[1] = logits[1].flip(0)  # now sample 1 is all false positive: 0 apart, 2·4 / (8 + 4) together
    apart = dice_and_cross_entropy(logits, target, table, batch_dice=False).item()
    together = dice_and_cross_entropy(logits, target, table, batch_dice=True).item()
    assert apart - together == pytest.approx(2 / 3 - 1 / 2, abs=1e-4)


def test_outside_counts_as_background() -> None:
    logits, target = example(PLAIN, 2)
    inside = target.clamp(min=0)
    assert not torch.equal(inside, target)
    for table in (PLAIN, REGIONS):
        given = logits[:, : table.num_classes]
        a, b = (dice_and_cross_entropy(given, t, table, batch_dice=True) for t in (target, inside))
        assert torch.equal(a, b)


def test_channels_follow_the_order_of_the_labels() -> None:
    # Labels listed out of order: channel 1 is value 5 (value index 2), channel 2 is value 2 (value index 1).
    table = LabelTable(labels=(Label(name="b", values=(5,), paint=5), Label(name="a", values=(2,), paint=2)))
    logits = torch.zeros(1, 3, 1, 1, 2)
    logits[0, 1, 0, 0, 0] = logits[0, 2, 0, 0, 1] = 30
    target = torch.tensor([2, 1], dtype=torch.int16).reshape(1, 1, 1, 2)
    assert dice_and_cross_entropy(logits, target, table, batch_dice=False).item() == pytest.approx(-1, abs=1e-5)
    assert class_counts(logits, target, table).tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = example(PLAIN, 5)
    reduced, exact = logits.to(dtype).requires_grad_(), logits.to(dtype).float().requires_grad_()
    values = []
    for x in (reduced, exact):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values.append(dice_and_cross_entropy(x, target, PLAIN, batch_dice=False))
        (65536 * values[-1]).backward()  # type: ignore[no-untyped-call]
    assert values[0].item() == values[1].item()
    assert reduced.grad is not None
    assert exact.grad is not None
    assert reduced.grad.dtype == dtype
    torch.testing.assert_close(reduced.grad.float(), exact.grad, rtol=1e-2, atol=0)


def test_an_infinite_logit_is_no_surprise() -> None:
    logits = torch.zeros(1, 2, 1, 1, 2).requires_grad_()
    target = torch.tensor([1, 0], dtype=torch.int16).reshape(1, 1, 1, 2)
    value = dice_and_cross_entropy(
        1000 * (logits + torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1)), target, label_table({"a": 1}), batch_dice=False
    )
    assert value.item() == pytest.approx((2000 + 0) / 2, rel=1e-5)
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])],
)
def test_supervision_weights(count: int, wanted: list[float]) -> None:
    assert supervision_weights(count) == pytest.approx(wanted)


def test_deep_supervision_is_the_weighted_sum_and_skips_the_coarsest() -> None:
    target = example(PLAIN, 1, shape=(8, 8, 8))[1]
    outputs = tuple(torch.randn(2, 4, n, n, n, requires_grad=True) for n in (8, 4, 2))
    loss = DeepSupervisionLoss(PLAIN, batch_dice=True, num_outputs=3)
    value = loss(outputs, target)
    parts = [reference(y, downsample(target, y.shape[2:]), PLAIN, True).item() for y in outputs]
    assert value.item() == pytest.approx(2 / 3 * parts[0] + 1 / 3 * parts[1], abs=1e-5)
    value.backward()
    assert [y.grad is None for y in outputs] == [False, False, True]
    with torch.no_grad():
        assert loss(outputs[:1], target).item() == pytest.approx(parts[0], abs=1e-5)
    with pytest.raises(ValueError, match="made for 3 outputs, got 2"):
        loss(outputs[:2], target)


def test_downsampling_takes_the_voxel_at_half_a_step() -> None:
    target = torch.arange(6, dtype=torch.int16).reshape(1, 1, 1, 6)
    assert downsample(target, (1, 1, 3)).flatten().tolist() == [1, 3, 5]
    assert downsample(target, (1, 1, 2)).flatten().tolist() == [1, 4]
    assert downsample(target, (1, 1, 4)).flatten().tolist() == [0, 2, 3, 5]  # floor(0.75, 2.25, 3.75, 5.25)
    assert downsample(target, (1, 1, 6)).data_ptr() == target.data_ptr()


@pytest.mark.parametrize("shape", [(4, 8, 12), (2, 4, 3), (1, 8, 6), (3, 5, 7)])
def test_downsampling_is_torchs_nearest_exact(shape: tuple[int, int, int]) -> None:
    target = example(PLAIN, 4, shape=(4, 8, 12))[1]
    theirs = torch.nn.functional.interpolate(target[:, None].float(), shape, mode="nearest-exact")[:, 0]
    assert torch.equal(downsample(target, shape).float(), theirs)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("summing", [scattered_sums, ordered_sums])
def test_sums_per_class_are_the_same_on_every_device(masked: bool, summing: Callable[..., tuple[Tensor, Tensor]]) -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 4, (2, 50), generator=generator)
    mask = (torch.rand(2, 1, 50, generator=generator) > 0.3) if masked else None
    values = torch.rand(2, 50, generator=generator) * (1 if mask is None else mask[:, 0])
    sums, present = summing(values, index, mask, 4)
    for b in range(2):
        for k in range(4):
            where = (index[b] == k) if mask is None else (index[b] == k) & mask[b, 0]
            assert sums[b, k].item() == pytest.approx(values[b][where].sum().item(), rel=1e-6)
            assert present[b, k].item() == int(where.sum())


def test_counts_of_labels() -> None:
    predicted = torch.tensor([0, 1, 1, 2, 3, 3, 0, 2])
    logits = torch.nn.functional.one_hot(predicted, 4).T.reshape(1, 4, 1, 2, 4).float()
    target = torch.tensor([0, 1, 2, 2, 3, -1, 1, 4], dtype=torch.int16).reshape(1, 1, 2, 4)
    assert class_counts(logits, target, PLAIN_IGNORE).tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert class_counts(logits, target.clamp(max=3), PLAIN).tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 1]]


def test_counts_of_regions() -> None:
    # Columns are voxels of value index 0, 1, 2, 3 and ignore; rows the regions whole, core, tip.
    predicted = torch.tensor([[1, 1, 1, 0, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 0]])
    logits = (2.0 * predicted - 1).reshape(1, 3, 1, 1, 5)
    target = torch.tensor([0, 1, 2, 3, 4], dtype=torch.int16).reshape(1, 1, 1, 5)
    counts = class_counts(logits, target, REGIONS_IGNORE)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [[2, 1, 1], [2, 1, 0], [1, 0, 0]]


def test_it_keeps_no_more_than_one_gradient_in_the_logits_type() -> None:
    logits, target = example(PLAIN, 2, shape=(8, 8, 8))
    reduced = logits.bfloat16().requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel() * t.element_size()) or t, lambda t: t):
        dice_and_cross_entropy(reduced, target, PLAIN, batch_dice=True)
    assert sum(kept) == 2 * reduced.numel()
