"""Cascade: faults put into the previous stage's one-hot masks, so that the next network does not trust them blindly.

As in nnU-Net: masks are dilated, eroded, closed or opened, and connected components vanish. The probabilities are its
own. A ball of radius r is the set of voxels within distance r here, for any r; its library rounds the ball to a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage

from planners.contract import Contract

Kind = Literal["dilate", "erode", "close", "open"]
_KINDS: tuple[Kind, ...] = ("dilate", "erode", "close", "open")

MORPHOLOGY_PROBABILITY = 0.4
MORPHOLOGY_MASK_PROBABILITY = 0.5
MORPHOLOGY_RADIUS = (1.0, 8.0)
REMOVAL_PROBABILITY = 0.2
REMOVAL_MASK_PROBABILITY = 0.5
# Components of this share of the patch or more are never removed.
REMOVAL_LARGEST_SHARE = 0.15
_FAR = 4096


class Morphology(Contract):
    """One operation on one mask with a ball of `radius` voxels."""

    mask: int = Field(ge=0)
    kind: Kind
    radius: float = Field(gt=0)


class Removal(Contract):
    """One component of one mask vanishes: of n candidates that with index floor(`choice`·n)."""

    mask: int = Field(ge=0)
    choice: float = Field(ge=0, lt=1)


class CascadeDrawn(Contract):
    """What happens to the masks of one patch, in this order."""

    morphology: tuple[Morphology, ...] = ()
    removals: tuple[Removal, ...] = ()


def draw_cascade(rng: np.random.Generator, *, masks: int) -> CascadeDrawn:
    """Draws the faults of one sample with that many masks."""
    morphology: list[Morphology] = []
    if rng.random() < MORPHOLOGY_PROBABILITY:
        for mask in rng.permutation(masks):
            if rng.random() < MORPHOLOGY_MASK_PROBABILITY:
                kind = _KINDS[int(rng.integers(len(_KINDS)))]
                morphology.append(Morphology(mask=int(mask), kind=kind, radius=float(rng.uniform(*MORPHOLOGY_RADIUS))))
    removals: list[Removal] = []
    if rng.random() < REMOVAL_PROBABILITY:
        for mask in rng.permutation(masks):
            if rng.random() < REMOVAL_MASK_PROBABILITY:
                removals.append(Removal(mask=int(mask), choice=float(rng.random())))
    return CascadeDrawn(morphology=tuple(morphology), removals=tuple(removals))


def apply_cascade(masks: torch.Tensor, drawn: CascadeDrawn) -> None:
    """Carries the faults out in place on masks (K, Z, Y, X) of zeros and ones.

    Voxels that a mask wins leave all other masks. The face of the patch counts as neither inside nor outside: nothing
    is eroded from it.
    """
    for operation in drawn.morphology:
        _change_shape(masks, operation)
    for removal in drawn.removals:
        _remove_component(masks[removal.mask], removal.choice)


def _change_shape(masks: torch.Tensor, operation: Morphology) -> None:
    box = _box_around(masks[operation.mask], margin=2 * math.ceil(operation.radius) + 1)
    if box is None:
        return
    old = masks[operation.mask][box] > 0
    new = _OPERATIONS[operation.kind](old, operation.radius)
    for i, mask in enumerate(masks):
        if i == operation.mask:
            mask[box] = new.to(mask.dtype)
        else:
            mask[box].masked_fill_(new & ~old, 0)


def _box_around(mask: torch.Tensor, *, margin: int) -> tuple[slice, slice, slice] | None:
    """The mask's bounding box, wider by `margin` voxels on every side as far as there are any; None for an empty mask."""
    slices = []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        taken = mask.amax(others).nonzero()
        if not len(taken):
            return None
        slices.append(slice(max(0, int(taken[0]) - margin), int(taken[-1]) + margin + 1))
    return (slices[0], slices[1], slices[2])


def dilate(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """The voxels within `radius` of a bool mask (Z, Y, X): squared distances, axis by axis, exact up to the radius."""
    distance = torch.where(mask, 0, _FAR).to(torch.int16)
    for axis in range(3):
        source, n = distance.clone(), distance.shape[axis]
        for step in range(1, min(math.floor(radius), n - 1) + 1):
            farther = source + step * step
            for to, of in ((0, step), (step, 0)):
                nearest = distance.narrow(axis, to, n - step)
                torch.minimum(nearest, farther.narrow(axis, of, n - step), out=nearest)
    return distance <= math.floor(radius * radius)


def erode(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """The voxels of a bool mask that are farther than `radius` from every voxel outside of it."""
    return ~dilate(~mask, radius)


_OPERATIONS: dict[Kind, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "dilate": dilate,
    "erode": erode,
    "close": lambda mask, radius: erode(dilate(mask, radius), radius),
    "open": lambda mask, radius: dilate(erode(mask, radius), radius),
}


def _remove_component(mask: torch.Tensor, choice: float) -> None:
    components, count = ndimage.label(mask.cpu().numpy() > 0, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    candidates = 1 + np.flatnonzero(sizes < REMOVAL_LARGEST_SHARE * mask.numel())
    if len(candidates):
        victim = candidates[int(choice * len(candidates))]
        mask.masked_fill_(torch.from_numpy(components == victim).to(mask.device), 0)
