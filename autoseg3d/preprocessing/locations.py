"""Where foreground lies: voxels per class that training centres patches on."""

from __future__ import annotations

import math

import numpy as np

from autoseg3d.ops.components import value_boxes
from planners.labels import LabelTable

ANNOTATED = -1
_LEAST = 10_000
_SHARE = 0.01
_SEED = 1234


def class_locations(labels: np.ndarray, table: LabelTable) -> dict[int, np.ndarray]:
    """Voxels drawn from each foreground class, as (n, 3) int32 indices (z, y, x), sorted.

    `labels` (Z, Y, X) int16 holds value indices, -1 outside of the nonzero mask. Keys are the network's channels (labels
    from 1, regions from 0); an absent class has an empty array. Where the table has an ignore label, key -1 holds
    voxels of everything else. Of n voxels 10,000 are drawn, or all if fewer, or 1 % if that is more (nnU-Net's rule; the
    random numbers are our own, since its generator would need 8 bytes for each of the n).
    """
    rng = np.random.default_rng(_SEED)
    boxes = value_boxes(labels)
    first = 0 if table.has_regions else 1
    locations = {}
    for channel, members in enumerate(table.class_members, start=first):
        present = [i for i in members if i in boxes]
        if not present:
            locations[channel] = np.empty((0, 3), dtype=np.int32)
            continue
        box = tuple(
            slice(min(b.start for b in sides), max(b.stop for b in sides)) for sides in zip(*(boxes[i] for i in present), strict=True)
        )
        part = labels[box]
        mask = part == present[0] if len(present) == 1 else np.isin(part, present)
        locations[channel] = _draw(mask, rng) + np.array([side.start for side in box], dtype=np.int32)
    if table.ignore_index is not None:
        locations[ANNOTATED] = _draw(labels != table.ignore_index, rng)
    return locations


def _draw(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(k, 3) int32 voxels of a bool (Z, Y, X) mask, drawn without repetition, in the order in which they are stored."""
    counts = np.count_nonzero(mask, axis=(1, 2))
    total = int(counts.sum())
    if total <= _LEAST:
        return np.argwhere(mask).astype(np.int32)
    wanted = max(_LEAST, math.ceil(total * _SHARE))
    ranks = np.sort(rng.choice(total, wanted, replace=False, shuffle=False))
    ends = np.cumsum(counts)
    found = []
    for z in np.unique(np.searchsorted(ends, ranks, side="right")):
        before = ends[z] - counts[z]
        low, high = np.searchsorted(ranks, (before, ends[z]))
        flat = np.flatnonzero(mask[z])[ranks[low:high] - before]
        found.append(np.stack([np.full(len(flat), z), *np.divmod(flat, mask.shape[2])], axis=1))
    return np.concatenate(found).astype(np.int32)
