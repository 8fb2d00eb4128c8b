"""How many patches of a batch a training step works on at once; the gradients of such parts add up to the batch's."""

from __future__ import annotations

import math

from planners.contract import Triple

# Below this many voxels at once convolutions of deep layers have too little to do: measured on U-Nets of several widths,
# (docs/decisions/batches-in-parts.md). From there on parts were as fast as the whole batch or faster, but for single samples,
# for which torch has slower kernels: on two cores a step took 1.26 times as long.
PART_VOXELS = 500_000
LEAST_SAMPLES = 2


def patches_at_once(batch_size: int, patch_size: Triple, *, device: str, coupled: bool) -> int:
    """The size of the parts that a batch is worked on in, as even as they can be; the last may be smaller.

    What a step keeps for its backward pass grows with the part, not with the batch. A processor gains nothing from more at once;
    other devices do, and work on the whole batch.

    Args:
        batch_size: patches of the batch, or of a process's share of it.
        patch_size: (Z, Y, X) voxels.
        device: "cpu", "cuda" or "mps".
        coupled: whether the loss joins samples (Dice over the batch, voxels to ignore): parts then cost a forward pass more.
    """
    if device != "cpu" or coupled:
        return batch_size
    parts = max(1, min(batch_size // LEAST_SAMPLES, batch_size * math.prod(patch_size) // PART_VOXELS))
    return math.ceil(batch_size / parts)
