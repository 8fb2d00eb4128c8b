"""The training loss: soft Dice plus cross-entropy under deep supervision, exactly nnU-Net's, and counts for a pseudo-Dice.

Isensee et al. 2021; soft Dice after Milletari et al. 2016 and Drozdzal et al. 2016. Targets are value indices (see
`LabelTable.value_indices`): 0 background, one index per label value, `ignore_index` where a voxel is not annotated, and
negative outside the body, which counts as background.

Value and gradient are worked out together: what both need, the class probabilities, is made once and turned into the
gradient in place, so neither a one-hot target nor a second copy of the probabilities is ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from planners.labels import LabelTable

SMOOTH = 1e-5
FLOOR = 1e-8

# Turns sums over the samples at hand, a vector, into those over the whole batch that they are a part of.
Combine = Callable[[Tensor], Tensor]


class DeepSupervisionLoss(nn.Module):
    """Mean over resolutions of cross-entropy minus mean soft Dice, weighted 1, 1/2, 1/4, … and 0 for the coarsest.

    Labels that exclude each other: softmax, cross-entropy as a mean over annotated voxels, Dice of the foreground classes.
    Regions: sigmoid, binary cross-entropy, Dice of every region. The Dice of a class sums over space, with `batch_dice` also
    over the batch, before the ratio (2 Σpg + 1e-5) / max(Σp + Σg + 1e-5, 1e-8) is taken. All arithmetic is float32.

    Args:
        labels: what the value indices and the network's channels mean.
        batch_dice: whether the samples of a batch form one Dice.
        num_outputs: logits the network gives in training mode.
    """

    def __init__(self, labels: LabelTable, *, batch_dice: bool, num_outputs: int) -> None:
        super().__init__()
        self.weights = supervision_weights(num_outputs)
        self.labels = labels
        self.batch_dice = batch_dice

    @property
    def sums_over_batch(self) -> bool:
        """Whether the loss of a sample depends on the others: by one Dice for all, or by the number of annotated voxels."""
        return self.batch_dice or self.labels.ignore is not None

    def forward(self, outputs: tuple[Tensor, ...], target: Tensor, combine: Combine | None = None) -> Tensor:
        """The loss, a float32 scalar; of a part of a batch, its share: the shares of all parts add up to the batch's loss.

        The gradients of the shares add up to the batch's gradient as well, so a batch may be worked on in parts, one after
        the other or on several machines.

        Args:
            outputs: logits (B, classes, Z_i, Y_i, X_i) of any floating type, finest first; `num_outputs` of them, or the
                finest alone, as a network in evaluation mode gives.
            target: (B, Z, Y, X) value indices, an integer type, at the finest resolution.
            combine: where these samples are a part of a batch: gives the sums over the whole of it. It is called with float32
                vectors, the same number of times in the same order for every part.

        Raises:
            ValueError: for another number of outputs.
        """
        weights = self.weights if len(outputs) > 1 else (1.0,)
        if len(outputs) != len(weights):
            raise ValueError(f"the loss was made for {len(self.weights)} outputs, got {len(outputs)}")
        losses = [
            weight
            * dice_and_cross_entropy(logits, downsample(target, logits.shape[2:]), self.labels, batch_dice=self.batch_dice, combine=combine)
            for weight, logits in zip(weights, outputs, strict=True)
            if weight > 0
        ]
        return torch.stack(losses).sum()


def supervision_weights(num_outputs: int) -> tuple[float, ...]:
    """Weights of the outputs, finest first, summing to one: halved at each step, 0 for the coarsest of several.

    nnU-Net's rule divides 0 by 0 where there is one output only; here that one has weight 1.
    """
    if num_outputs < 1:
        raise ValueError(f"a network has at least one output, got {num_outputs}")
    raw = [0.5**i for i in range(num_outputs)]
    if num_outputs > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


def downsample(target: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, Z, Y, X) at a coarser spatial `shape`, by nearest-exact: index floor((i + 1/2) · in / out). A view where it can be."""
    for axis, size in enumerate(shape, start=1):
        have = target.shape[axis]
        if have % size == 0:
            step = have // size
            target = target[(slice(None),) * axis + (slice(step // 2, None, step),)]
        else:
            index = (2 * torch.arange(size, device=target.device) + 1) * have // (2 * size)
            target = target.index_select(axis, index)
    return target


def dice_and_cross_entropy(
    logits: Tensor, target: Tensor, labels: LabelTable, *, batch_dice: bool, combine: Combine | None = None
) -> Tensor:
    """Cross-entropy minus mean soft Dice at one resolution, a float32 scalar.

    Args:
        logits: (B, classes, Z, Y, X), any floating type.
        target: (B, Z, Y, X) value indices, any integer type.
        labels: their meaning.
        batch_dice: whether the samples of a batch form one Dice.
        combine: as in `DeepSupervisionLoss.forward`.
    """
    compute = _regions if labels.has_regions else _classes
    return cast(Tensor, _WithGradient.apply(logits, compute, target, labels, _Reduction(batch_dice, combine)))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Reduction:
    """How sums over voxels become the loss: one Dice per sample or per batch, of samples that may be a part of a batch."""

    batch_dice: bool
    combine: Combine | None

    def annotated(self, count: Tensor, samples: int) -> tuple[Tensor, Tensor | float]:
        """Annotated voxels of the whole batch, from those here, and the share of its samples that are here."""
        if self.combine is None:
            return count, 1.0
        whole = self.combine(torch.stack((count, torch.full_like(count, samples))))
        return whole[0], samples / whole[1]

    def dice(self, overlap: Tensor, predicted: Tensor, true: Tensor, share: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Mean soft Dice of sums (B, K), and its gradient with respect to p at a voxel: slope · g + offset, each (B, K).

        Where the denominator is clamped at its floor, it has no gradient.
        """
        batch, sums = overlap.shape[0], torch.stack((overlap, predicted, true))
        per_value: Tensor | float = share
        if self.batch_dice:
            sums, per_value = sums.sum(1, keepdim=True), 1.0  # all samples bear on the one Dice, but its value is counted once
            if self.combine is not None:
                sums = self.combine(sums.flatten()).view_as(sums)
        overlap, predicted, true = sums
        numerator = 2 * overlap + SMOOTH
        total = predicted + true + SMOOTH
        denominator = total.clamp(min=FLOOR)
        dice = numerator / denominator
        slope = -2 / denominator / dice.numel() * per_value
        offset = torch.where(total >= FLOOR, dice / denominator, 0.0) / dice.numel() * per_value
        return dice.mean() * share, slope.expand(batch, -1), offset.expand(batch, -1)


class _WithGradient(torch.autograd.Function):
    """A scalar function that returns its own gradient; `compute(logits, target, labels, reduction, wanted)`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, compute: Callable[..., Any], target: Tensor, labels: LabelTable, reduction: _Reduction) -> Tensor:
        value, gradient = compute(logits, target, labels, reduction, ctx.needs_input_grad[0])
        if gradient is not None:
            # bfloat16 has float32's range; float16 has not, and its gradients are only scaled later, by grad_output.
            ctx.save_for_backward(gradient.to(torch.float32 if logits.dtype == torch.float16 else logits.dtype))
        ctx.dtype = logits.dtype
        return cast(Tensor, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.dtype), None, None, None, None


def _classes(logits: Tensor, target: Tensor, labels: LabelTable, reduction: _Reduction, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Softmax over (B, K, ...): the loss, and its gradient (B, K, ...) where wanted."""
    batch, count = logits.shape[:2]
    channels, mask = _channels(target, labels)
    index = channels.reshape(batch, 1, -1)
    log_p = functional.log_softmax(logits, 1, dtype=torch.float32).reshape(batch, count, -1)
    at_target = log_p.gather(1, index)
    p = log_p.exp_()
    p_target = at_target.exp()
    annotated = torch.tensor(float(index.numel()), device=logits.device)
    if mask is not None:
        mask = mask.reshape(batch, 1, -1)
        annotated = mask.sum(dtype=torch.float32)
        p, p_target, at_target = p.mul_(mask), p_target.mul_(mask), at_target.mul_(mask)
    annotated, share = reduction.annotated(annotated, batch)
    annotated = annotated.clamp(min=1)  # with no annotated voxel the cross-entropy is 0
    cross_entropy = -at_target.sum() / annotated
    overlap, present = class_sums(p_target[:, 0], index[:, 0], mask, count)
    dice, slope, offset = reduction.dice(overlap[:, 1:], p[:, 1:].sum(2), present[:, 1:], share)
    if not wanted:
        return cross_entropy - dice, None
    slope, offset = functional.pad(slope, (1, 0)), functional.pad(offset, (1, 0))  # the background has no Dice
    common = slope.gather(1, index[:, 0]) * p_target[:, 0]
    each = torch.full_like(p_target, 1.0) if mask is None else mask.to(torch.float32)
    shift = common - 1 / annotated
    for k in range(1, count):  # not a matrix product: autocast would lower it
        shift.addcmul_(p[:, k], offset[:, k, None])
    for k in range(count):
        p[:, k].mul_(offset[:, k, None] - shift)
    p.scatter_add_(1, index, common[:, None].sub_(each / annotated))
    return cross_entropy - dice, p.reshape(logits.shape)


def _regions(logits: Tensor, target: Tensor, labels: LabelTable, reduction: _Reduction, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Sigmoid over (B, R, ...), region by region: the loss, and its gradient (B, R, ...) where wanted."""
    batch, count = logits.shape[:2]
    index = target.reshape(batch, -1).long().clamp_(min=0)
    ignore = labels.ignore_index
    mask = None if ignore is None else (index != ignore).to(torch.float32)
    # nnU-Net averages over regions too, but where voxels are ignored it divides by annotated voxels alone.
    divisor = torch.tensor(float(index.numel() * count), device=logits.device) if mask is None else mask.sum()
    divisor, share = reduction.annotated(divisor, batch)
    divisor = divisor.clamp(min=FLOOR)
    gradient = torch.empty(batch, count, index.shape[1], device=logits.device) if wanted else None
    value = torch.zeros((), device=logits.device)
    for region, members in enumerate(labels.class_members):
        z = logits[:, region].reshape(batch, -1).float()
        g = _lookup(members, labels, z)[index]
        p = torch.sigmoid(z)
        surprise = functional.binary_cross_entropy_with_logits(z, g, reduction="none", weight=mask).sum() / divisor
        seen = p if mask is None else p * mask
        true = g if mask is None else g * mask
        dice, slope, offset = reduction.dice((seen * g).sum(1)[:, None], seen.sum(1)[:, None], true.sum(1)[:, None], share)
        value += surprise - dice / count
        if gradient is not None:
            from_dice = (g * slope + offset) * p * (1 - p) / count
            combined = from_dice + (p - g) / divisor
            gradient[:, region] = combined if mask is None else combined * mask
    return value, None if gradient is None else gradient.reshape(logits.shape)


def _lookup(members: tuple[int, ...], labels: LabelTable, like: Tensor) -> Tensor:
    """float32 table over value indices (ignore included): 1 for those that belong to a region."""
    table = torch.zeros(len(labels.values) + 2)
    table[list(members)] = 1
    return table.to(like.device)


def _channels(target: Tensor, labels: LabelTable) -> tuple[Tensor, Tensor | None]:
    """Softmax channels (int64) of value indices, 0 where ignored, and the mask of annotated voxels where there are ignored ones."""
    index = target.long().clamp_(min=0)
    mask = None
    if labels.ignore_index is not None:
        mask = index != labels.ignore_index
        index.mul_(mask)
    channel_of = {members[0]: channel for channel, members in enumerate(labels.class_members, start=1)}
    order = [channel_of.get(value, 0) for value in range(len(labels.values) + 1)]
    if order != list(range(len(order))):
        index = torch.tensor(order, device=index.device)[index]
    return index, mask


def class_sums(values: Tensor, index: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Per sample and class, the sum of `values` and the number of voxels, both (B, count) float32.

    Args:
        values: (B, N) float32, 0 where masked.
        index: (B, N) int64, the class of each voxel.
        mask: (B, 1, N) of annotated voxels, or None.
        count: number of classes.
    """
    # A GPU scatters in no fixed order, and its results would differ from run to run.
    summing = ordered_sums if values.device.type in ("cuda", "mps") else scattered_sums
    return summing(values, index, mask, count)


def scattered_sums(values: Tensor, index: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """`class_sums` in one pass over the voxels, added up in float64."""
    empty = torch.zeros(len(values), count, dtype=torch.float64, device=values.device)
    ones = torch.ones_like(values) if mask is None else mask[:, 0]
    sums = empty.scatter_add(1, index, values.double())
    return sums.float(), empty.scatter_add(1, index, ones.double()).float()


def ordered_sums(values: Tensor, index: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """`class_sums` in one pass per class."""
    chosen = [index == k if mask is None else (index == k) & mask[:, 0] for k in range(count)]
    sums = torch.stack([torch.where(where, values, 0.0).sum(1) for where in chosen], 1)
    return sums, torch.stack([where.sum(1) for where in chosen], 1).float()


def class_counts(logits: Tensor, target: Tensor, labels: LabelTable) -> Tensor:
    """True positives, false positives and false negatives of hard predictions per foreground class, (classes, 3) int64.

    Ignored voxels are left out; pseudo-Dice is 2 TP / (2 TP + FP + FN) of sums over many batches.

    Args:
        logits: (B, classes, Z, Y, X), the finest output.
        target: (B, Z, Y, X) value indices.
        labels: their meaning.
    """
    if labels.has_regions:
        return _region_counts(logits, target, labels)
    index, mask = _channels(target, labels)
    count = logits.shape[1]
    pairs = (index * count + logits.argmax(1)).reshape(-1)
    pairs = pairs if mask is None else pairs[mask.reshape(-1)]
    table = torch.bincount(pairs, minlength=count * count).reshape(count, count)
    hits = table.diagonal()
    return torch.stack((hits, table.sum(0) - hits, table.sum(1) - hits), 1)[1:]


def _region_counts(logits: Tensor, target: Tensor, labels: LabelTable) -> Tensor:
    index = target.long().clamp_(min=0)
    known = torch.ones_like(index, dtype=torch.bool) if labels.ignore_index is None else index != labels.ignore_index
    rows = []
    for region, members in enumerate(labels.class_members):
        predicted = (logits[:, region] > 0) & known
        true = _lookup(members, labels, logits)[index].bool() & known
        rows.append(torch.stack(((predicted & true).sum(), (predicted & ~true).sum(), (~predicted & true).sum())))
    return torch.stack(rows)
