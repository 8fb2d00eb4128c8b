"""Rungs: network sizes from the best to the most frugal, and which of them a budget of memory and time affords."""

from __future__ import annotations

from dataclasses import dataclass

from planners.families import RESENC, UNET, Family
from planners.schedule import LONG_STEPS

STEPS_AT_FULL_WIDTH = 3200
STEPS_AT_LEAST = 400

# (edge of the starting patch in voxels, edge a memory cut may leave, share of the width, steps needed, patches per step needed).
# A patch beyond 128³ is the first luxury to go, then width down to a half, where the steps needed fall with the width, then context.
# The end of the way down takes few steps: a few hundred that see whole organs do better than a thousand on pieces too
# small to tell left from right. Time never asks for less than half the width: below 16 channels a convolution hardly gets
# faster, since arithmetic units work on 16 at once, and it learns worse.
_STEPS_DOWN = (
    (256, 64, 1.0, STEPS_AT_FULL_WIDTH, 4),
    (160, 64, 1.0, STEPS_AT_FULL_WIDTH, 4),
    (128, 64, 1.0, STEPS_AT_FULL_WIDTH, 4),
    (128, 64, 0.75, round(0.75 * STEPS_AT_FULL_WIDTH), 4),
    (128, 64, 0.5, round(0.5 * STEPS_AT_FULL_WIDTH), 4),
    (96, 48, 0.5, round(0.5 * STEPS_AT_FULL_WIDTH), 4),
    (80, 48, 0.5, 2 * STEPS_AT_LEAST, 2),
    (64, 32, 0.5, STEPS_AT_LEAST, 2),
    (48, 32, 0.5, STEPS_AT_LEAST, 2),
)
# For memory in which none of these fits.
_LAST_RESORTS = (
    (64, 32, 0.25, STEPS_AT_LEAST, 2),
    (48, 16, 0.25, STEPS_AT_LEAST, 2),
)


@dataclass(frozen=True)
class Rung:
    """A network size.

    edge          the patch starts from edge³ voxels ((8 × edge)² for slices), in physical proportions
    least_edge    memory may cut it to this, unless the images are smaller themselves
    least_steps   optimiser steps without which a smaller network does better
    least_batch   patches per step below which it is not cut to gain steps
    last_resort   only for memory that no other rung fits
    """

    family: Family
    edge: int
    least_edge: int
    least_steps: int
    least_batch: int
    last_resort: bool = False


def ladder(family: Family, *, base: int | None = None) -> tuple[Rung, ...]:
    """The sizes of a family, largest first; with `base` features fixed only the patch gets smaller.

    The steps that a size needs grow with its width: in twenty minutes on two cores a U-Net of 16 features reached Dice
    0.868 on Hippocampus in 1747 steps, one of 32 features (nnU-Net's plan and recipe, same batch) 0.789 in 205.
    """
    rows = [(row, False) for row in _STEPS_DOWN] + [(row, True) for row in _LAST_RESORTS]
    return tuple(
        Rung(
            family=family.narrowed(share) if base is None else family.of_width(base),
            edge=edge,
            least_edge=least_edge,
            least_steps=steps,
            least_batch=batch,
            last_resort=last_resort,
        )
        for (edge, least_edge, share, steps, batch), last_resort in rows
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
