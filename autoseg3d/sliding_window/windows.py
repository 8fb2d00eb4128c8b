"""Where windows lie, what they hold, and how their voxels are weighted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from planners.contract import Triple

PEAK_WEIGHT = 10.0


@dataclass(frozen=True)
class WindowOptions:
    """How windows are laid out and computed.

    patch          size of a window, (z, y, x) in network axes
    step           distance of neighbouring windows as a share of the patch, in (0, 1]
    mirror_axes    axes (0, 1, 2) of which every combination of flips is averaged
    device         where the networks are, and compute
    batch_size     windows per forward pass
    accumulate_on  where the slab is held; `device` where None
    half_weights   weigh windows in half precision, as nnU-Net does; see HalfPrecisionMean. Not where features are averaged
    """

    patch: Triple
    step: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 1
    accumulate_on: torch.device | None = None
    half_weights: bool = False


@dataclass(frozen=True)
class OneHot:
    """Labels of an earlier stage, given to the networks as extra channels, one per entry of `members`.

    labels   (Z, Y, X) integers on the grid of the image: value indices, see LabelTable.value_indices
    members  for each channel the indices that are 1 in it (LabelTable.value_members)
    """

    labels: Tensor
    members: tuple[tuple[int, ...], ...]

    def channels(self, box: tuple[slice, slice, slice]) -> Tensor:
        """(len(members), *box) float32 channels of a part of the image."""
        part = self.labels[box].long()
        return torch.stack([torch.isin(part, torch.tensor(values)).float() for values in self.members])


def axis_starts(size: int, patch: int, step: float = 0.5) -> tuple[int, ...]:
    """First voxels of the windows along one axis: ceil((size - patch) / (patch·step)) + 1 of them, evenly spread.

    Where windows would be less than a voxel apart (a patch of one slice), each place is taken once.

    Raises ValueError where the axis is shorter than the patch or step is not in (0, 1].
    """
    if size < patch or not 0 < step <= 1:
        raise ValueError(f"windows need size >= patch and 0 < step <= 1, got size {size}, patch {patch}, step {step}")
    count = math.ceil((size - patch) / (patch * step)) + 1
    distance = (size - patch) / max(count - 1, 1)
    return tuple(sorted({round(distance * i) for i in range(count)}))


def window_starts(shape: Triple, patch: Triple, step: float = 0.5) -> list[Triple]:
    """First voxels (z, y, x) of all windows over a volume not smaller than the patch; z slowest, x fastest."""
    z, y, x = (axis_starts(n, p, step) for n, p in zip(shape, patch, strict=True))
    return [(i, j, k) for i in z for j in y for k in x]


def mirror_combinations(axes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """All combinations of flips along `axes`: none, singles, pairs, all three."""
    return tuple(flips for count in range(len(axes) + 1) for flips in combinations(sorted(axes), count))


def window_of(image: Tensor, start: Triple, low: Triple, patch: Triple, previous: OneHot | None) -> Tensor:
    """(C, *patch) of the padded image, from the image itself: padding is made only where a window reaches into it."""
    shape = image.shape[1:]
    begin = [s - pad for s, pad in zip(start, low, strict=True)]
    z, y, x = (slice(max(b, 0), min(b + p, n)) for b, p, n in zip(begin, patch, shape, strict=True))
    part = image[:, z, y, x]
    if previous is not None:
        part = torch.cat([part, previous.channels((z, y, x))])
    if part.shape[1:] == patch:
        return part
    window = part.new_zeros((part.shape[0], *patch))
    inside = [slice(s.start - b, s.stop - b) for s, b in zip((z, y, x), begin, strict=True)]
    window[:, inside[0], inside[1], inside[2]] = part
    return window


def gaussian_weights(patch: Triple) -> Tensor:
    """Weight of each voxel of a window, (z, y, x) float32: Gaussian of sigma patch / 8 about patch // 2, 10 at its peak."""
    z, y, x = (gaussian(p) for p in patch)
    return torch.from_numpy((PEAK_WEIGHT * z[:, None, None] * y[:, None] * x).astype(np.float32))


def half_precision_weights(patch: Triple) -> Tensor:
    """`gaussian_weights` as float16 holds them, its zeros replaced by the least of the others, in float32 for computing."""
    weights = gaussian_weights(patch).half()
    weights[weights == 0] = weights[weights != 0].min()
    return weights.float()


def gaussian(size: int) -> np.ndarray:
    """One axis of the Gaussian, float64 with peak 1. Four sigma are half a patch, so no voxel is cut off."""
    distance = np.arange(size) - size // 2
    return np.exp(-0.5 * (distance / (size / 8)) ** 2)
