"""Which precision a prediction computes in: bfloat16 only where the device is fast in it and the model was seen to bear it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from autoseg3d.devices import fast_bfloat16
from autoseg3d.networks.inference import optimise_for_inference
from autoseg3d.sliding_window import WindowOptions, predict_slabs
from planners.contract import Triple

Precision = Literal["auto", "fp32", "bf16"]

# Share of foreground voxels on which bfloat16 must agree with float32 before it is used unasked.
REQUIRED_AGREEMENT = 0.999

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ready(networks: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, ...]:
    """Copies of networks made ready to predict in `dtype` on `device`; the originals stay as they are."""
    channels_last = device.type == "cpu"
    return tuple(optimise_for_inference(network, dtype=dtype, channels_last=channels_last).to(device) for network in networks)


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
    patch: Triple,
    num_classes: int,
    regions: bool,
    device: torch.device,
) -> float | None:
    """Agreement of `reduced` networks with `networks` on the window in the middle of an image (C, Z, Y, X).

    None where neither finds any foreground there, so that nothing can be said.
    """
    starts = [max(0, (n - p) // 2) for n, p in zip(image.shape[1:], patch, strict=True)]
    z, y, x = (slice(s, s + p) for s, p in zip(starts, patch, strict=True))
    middle, options = image[:, z, y, x], WindowOptions(patch=patch, device=device)
    found = []
    for members in (networks, reduced):
        logits = torch.cat([slab.logits.clone() for slab in predict_slabs(middle, members, options, num_classes=num_classes)], dim=1)
        found.append(_labels(logits, regions=regions))
    return foreground_agreement(found[0], found[1])


def _labels(logits: Tensor, *, regions: bool) -> Tensor:
    """Winning channels; for regions one bit each, so that a change in any of them counts."""
    if not regions:
        return logits.argmax(dim=0)
    bits = 2 ** torch.arange(len(logits), device=logits.device)
    return ((logits > 0) * bits[:, None, None, None]).sum(dim=0)


def bears_bfloat16(recorded: float | None, device: torch.device) -> bool | None:
    """Whether to compute in bfloat16 by what is known beforehand; None where a self-test has to tell."""
    if not fast_bfloat16(device.type):
        return False
    return None if recorded is None else recorded >= REQUIRED_AGREEMENT
