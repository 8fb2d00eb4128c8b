"""Which precision a prediction computes in: bfloat16 only where the device is fast in it and the model was seen to bear it.

What counts is the answer, not one pass of a network: mirrored copies and folds are averaged, and so are the roundings of
bfloat16. The self-test therefore compares labels as they would be written, with all copies and folds. Training makes it on
held-out cases and records it in the model; for other models it is made on the first scan of a batch and recorded with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from autoseg3d.networks.inference import optimise_for_inference
from autoseg3d.sliding_window import OneHot, WindowOptions, predict_slabs

Precision = Literal["auto", "fp32", "bf16"]

# Share of foreground voxels on which bfloat16 must agree with float32 before it is used unasked.
REQUIRED_AGREEMENT = 0.999
# Of labels with fewer voxels, counted in both maps, a single voxel would decide; they are judged together.
_FEWEST_ALONE = 2000

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ready(networks: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, ...]:
    """Copies of networks made ready to predict in `dtype` on `device`; the originals stay as they are."""
    # On a CPU weights lie as the images do, or every convolution would turn them first.
    order = torch.channels_last_3d if device.type == "cpu" else torch.preserve_format
    prepared = (optimise_for_inference(network, dtype=dtype).to(device) for network in networks)
    return tuple(network.to(memory_format=order) for network in prepared)  # type: ignore[call-overload]


def expected_agreement(alone: float, copies: int) -> float:
    """What averaging over `copies` mirrored copies will make of the agreement without any, estimated on the safe side.

    Roundings of different copies are independent, so that the share of labels they change falls with the square root of the
    copies (0.9983 alone became 0.9994 with eight). Only half of the copies are counted on.
    """
    return 1 - (1 - alone) * min(1.0, math.sqrt(2 / copies))


def foreground_agreement(labels: Tensor, others: Tensor) -> float | None:
    """Share of voxels with equal labels among those that are foreground (not 0) in either; None where none is."""
    foreground = (labels != 0) | (others != 0)
    count = int(foreground.sum())
    return float(((labels == others) & foreground).sum()) / count if count else None


def measure_agreement(
    image: Tensor,
    networks: Sequence[nn.Module],
    reduced: Sequence[nn.Module],
    *,
    options: WindowOptions,
    num_classes: int,
    regions: bool,
    previous: OneHot | None = None,
) -> float | None:
    """Agreement of `reduced` networks with `networks` on an image (C, Z, Y, X), computed as `options` say; see `lowest_agreement`.

    None where neither finds any foreground there, so that nothing can be said.
    """
    exact, other = (
        labels_by(members, image, options=options, num_classes=num_classes, regions=regions, previous=previous)
        for members in (networks, reduced)
    )
    return lowest_agreement(exact, other, regions=regions)


def labels_by(
    networks: Sequence[nn.Module],
    image: Tensor,
    *,
    options: WindowOptions,
    num_classes: int,
    regions: bool = False,
    previous: OneHot | None = None,
) -> Tensor:
    """(Z, Y, X) winning channels of an image (C, Z, Y, X); for regions one bit each, so that a change in any of them counts."""
    slabs = predict_slabs(image, networks, options, num_classes=num_classes, previous=previous)
    logits = torch.cat([slab.logits.clone() for slab in slabs], dim=1)
    if not regions:
        return logits.argmax(dim=0)
    bits = 2 ** torch.arange(len(logits), device=logits.device)
    return ((logits > 0) * bits[:, None, None, None]).sum(dim=0)


def lowest_agreement(labels: Tensor, others: Tensor, *, regions: bool = False) -> float | None:
    """The agreement on all foreground, or the Dice of a label where that is lower: a large label must not cover for a small one.

    `labels` and `others` are winning channels; with `regions` one bit per region. None where there is no foreground.
    """
    whole = foreground_agreement(labels, others)
    if whole is None:
        return None
    sizes, shared = _overlaps(labels, others, regions=regions)
    small = sizes < _FEWEST_ALONE
    alone: list[float] = [2 * common / size for size, common in zip(sizes[~small].tolist(), shared[~small].tolist(), strict=True)]
    together = [2 * int(shared[small].sum()) / int(sizes[small].sum())] if bool(sizes[small].sum() >= _FEWEST_ALONE) else []
    return min([whole, *alone, *together])


def _overlaps(labels: Tensor, others: Tensor, *, regions: bool) -> tuple[Tensor, Tensor]:
    """For every label or region its voxels in both maps together, and those that both give it."""
    if regions:
        bits = range(int(torch.maximum(labels.max(), others.max())).bit_length())
        masks = [((labels >> bit) & 1 == 1, (others >> bit) & 1 == 1) for bit in bits]
        return torch.tensor([int(a.sum() + b.sum()) for a, b in masks]), torch.tensor([int((a & b).sum()) for a, b in masks])
    count = int(torch.maximum(labels.max(), others.max())) + 1
    one, other, both = (torch.bincount(x.flatten(), minlength=count)[1:] for x in (labels, others, labels[labels == others]))
    return one + other, both


@dataclass(frozen=True)
class Choice:
    """The precision that was chosen, and the agreement it was chosen by; None where none was needed, or none could be measured."""

    precision: str
    agreement: float | None = None

    @classmethod
    def by(cls, agreement: float | None) -> Choice:
        """bfloat16 where the agreement is known and high enough."""
        return cls("bf16" if agreement is not None and agreement >= REQUIRED_AGREEMENT else "fp32", agreement)
