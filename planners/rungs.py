"""Rungs: network sizes from the best to the most frugal, and which of them a budget of memory and time affords."""

from __future__ import annotations

from dataclasses import dataclass

from planners.families import RESENC, UNET, Family
from planners.schedule import LONG_STEPS

STEPS_AT_FULL_WIDTH = 3200
# The narrowest networks are the end of the way down: a few hundred steps that see whole organs do better than a thousand on
# pieces too small to tell left from right.
STEPS_AT_LEAST_WIDTH = 400

# (edge of the starting patch in voxels, edge a memory cut may leave, share of the width). A patch beyond 128³ is the first luxury to
# go, then width down to a half, then context and width by turns.
_STEPS_DOWN = (
    (256, 64, 1.0),
    (160, 64, 1.0),
    (128, 64, 1.0),
    (128, 64, 0.75),
    (128, 64, 0.5),
    (96, 48, 0.5),
    (80, 48, 0.375),
    (64, 32, 0.25),
    (48, 32, 0.25),
    (32, 16, 0.25),
)
_LEAST_SHARE = 0.25


@dataclass(frozen=True)
class Rung:
    """A network size.

    edge          the patch starts from edge³ voxels ((8 × edge)² for slices), in physical proportions
    least_edge    memory may cut it to this, unless the images are smaller themselves
    least_steps   optimiser steps without which a smaller network does better
    least_batch   patches per step below which it is not cut to gain steps
    """

    family: Family
    edge: int
    least_edge: int
    least_steps: int
    least_batch: int


def ladder(family: Family, *, base: int | None = None) -> tuple[Rung, ...]:
    """The sizes of a family, largest first; with `base` features fixed only the patch gets smaller.

    The steps that a size needs grow with its width: in twenty minutes on two cores a U-Net of 16 features reached Dice
    0.868 on Hippocampus in 1747 steps, one of 32 features (nnU-Net's plan and recipe, same batch) 0.789 in 205.
    """
    return tuple(
        Rung(
            family=family.narrowed(share) if base is None else family.of_width(base),
            edge=edge,
            least_edge=least_edge,
            least_steps=round(STEPS_AT_FULL_WIDTH * share) if share > _LEAST_SHARE else STEPS_AT_LEAST_WIDTH,
            least_batch=4 if share > _LEAST_SHARE else 2,
        )
        for edge, least_edge, share in _STEPS_DOWN
    )


def standard_ladder(*, base: int | None = None) -> tuple[Rung, ...]:
    """A residual encoder where there is room and time for it, else the sizes of the plain U-Net.

    In Isensee et al. 2024 (arXiv 2404.09556, table 2) the residual encoder M scores above the plain U-Net on all six datasets,
    for 9.1 instead of 7.7 GB and 12 instead of 9 hours, at patches of about 128³ voxels and 250,000 steps. With less
    memory its depth would be paid for with context, with less time with steps.
    """
    family = RESENC if base is None else RESENC.of_width(base)
    first = Rung(family=family, edge=256, least_edge=128, least_steps=LONG_STEPS, least_batch=2)
    return (first, *ladder(UNET, base=base))
