"""Which precision a prediction computes in: bfloat16 only where the device is fast in it and the model was seen to bear it.

What counts is the answer, not one pass of a network: mirrored copies and folds are averaged, and so are the roundings of
bfloat16. The self-test therefore compares labels as they would be written, with all copies and folds. Training makes it on
held-out cases and records it in the model; for other models it is made on the first scan of a batch and recorded with it.
"""

from __future__ import annotations

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

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ready(networks: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, ...]:
    """Copies of networks made ready to predict in `dtype` on `device`; the originals stay as they are.

    On a CPU tensors stay contiguous: with freed memory kept, channels-last ones took 6 to 17 % longer (docs/benchmarks.md).
    """
    channels_last = device.type == "cuda"
    return tuple(optimise_for_inference(network, dtype=dtype, channels_last=channels_last).to(device) for network in networks)


def expected_agreement(alone: float, copies: int) -> float:
    """What averaging over `copies` mirrored copies will make of the agreement without any, estimated on the safe side.

    Roundings of different copies are independent, so that the share of labels they change falls with the square root of the
    copies (0.9983 alone became 0.9994 with eight). Half of that gain is left out of account.
    """
    return 1 - (1 - alone) * min(1.0, (2 / copies) ** 0.5)


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
    """Agreement of `reduced` networks with `networks` on an image (C, Z, Y, X), computed as `options` say.

    None where neither finds any foreground there, so that nothing can be said.
    """
    found = []
    for members in (networks, reduced):
        slabs = predict_slabs(image, members, options, num_classes=num_classes, previous=previous)
        found.append(_labels(torch.cat([slab.logits.clone() for slab in slabs], dim=1), regions=regions))
    return foreground_agreement(found[0], found[1])


def _labels(logits: Tensor, *, regions: bool) -> Tensor:
    """Winning channels; for regions one bit each, so that a change in any of them counts."""
    if not regions:
        return logits.argmax(dim=0)
    bits = 2 ** torch.arange(len(logits), device=logits.device)
    return ((logits > 0) * bits[:, None, None, None]).sum(dim=0)


@dataclass(frozen=True)
class Choice:
    """The precision that was chosen, and the agreement it was chosen by; None where none was needed, or none could be measured."""

    precision: str
    agreement: float | None = None

    @classmethod
    def by(cls, agreement: float | None) -> Choice:
        """bfloat16 where the agreement is known and high enough."""
        return cls("bf16" if agreement is not None and agreement >= REQUIRED_AGREEMENT else "fp32", agreement)
