"""Leaving out the air around a body: only the windows of a box around it are computed, everything outside is background.

A choice for CT, where half of a scan may be air and table. Networks see less air around the body than in training, so labels
may change a little: benchmarks/body_crop.py measures how far they agree, and how much faster it is, for a model and its scans.
Where a label reaches a face of the box that is not a face of the scan, the case is noted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autoseg3d.ops.components import largest_component
from autoseg3d.ops.labelling import winners
from autoseg3d.sliding_window import Slab
from planners.contract import Triple

Range = tuple[int, int]
Crop = Literal["none", "body"]

# Around the body, as a share of the patch; benchmarks/body_crop.py tries others.
MARGIN = 0.125
# The body is looked for on every so many voxels per axis.
_STRIDE = 3
_SURELY_NOT = -1e4


@dataclass
class BodyBox:
    """A box (z, y, x) in an image of `shape`: [first, last) per axis. `touched` is set once a label reaches a face inside the image."""

    ranges: tuple[Range, Range, Range]
    shape: Triple
    touched: bool = field(default=False)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(*r) for r in self.ranges)
        return z, y, x

    def fill(
        self, slabs: Callable[[Range], Iterator[Slab]], band: Range, *, num_classes: int, regions: bool, apart: bool = False
    ) -> Iterator[Slab]:
        """Slabs of rows `band` of axis 1 of the whole image from those of the box; background wherever the box is not.

        Args:
            slabs: given rows of axis 1 *of the box*, its slabs.
            band: rows of axis 1 of the image.
            num_classes, regions: of the logits.
            apart: whether slabs tell what each network says.
        """
        (z0, z1), (y0, y1), (x0, x1) = self.ranges
        first, last = max(band[0], y0), min(band[1], y1)
        empty = torch.full((num_classes, 1, band[1] - band[0], self.shape[2]), _SURELY_NOT)
        if not regions:
            empty[0] = 0
        if first >= last:
            yield from _rows_of(empty, 0, self.shape[0], apart)
            return

        def whole(part: Tensor) -> Tensor:
            filled = empty.expand(-1, part.shape[1], -1, -1).to(part.device).clone()
            filled[:, :, first - band[0] : last - band[0], x0:x1] = part
            return filled

        yield from _rows_of(empty, 0, z0, apart)
        for slab in slabs((first - y0, last - y0)):
            self._look_at_faces(slab, (first, last), regions=regions)
            yield Slab(z0 + slab.start, whole(slab.logits), None if slab.of_network is None else _after(slab.of_network, whole))
        yield from _rows_of(empty, z1, self.shape[0], apart)

    def _look_at_faces(self, slab: Slab, rows: Range, *, regions: bool) -> None:
        (z0, z1), (y0, y1), (x0, x1) = self.ranges
        depth, height, width = self.shape
        inside = {
            (1, 0): slab.start == 0 and z0 > 0,
            (1, -1): z0 + slab.start + slab.logits.shape[1] == z1 < depth,
            (2, 0): rows[0] == y0 > 0,
            (2, -1): rows[1] == y1 < height,
            (3, 0): x0 > 0,
            (3, -1): x1 < width,
        }
        faces = [slab.logits.select(axis, end) for (axis, end), wanted in inside.items() if wanted]
        self.touched = self.touched or any(bool((winners(face, regions=regions) != 0).any()) for face in faces)


def _rows_of(empty: Tensor, first: int, last: int, apart: bool) -> Iterator[Slab]:
    for row in range(first, last):
        yield Slab(row, empty.clone(), (lambda network: empty.clone()) if apart else None)


def _after(first: Callable[[int], Tensor], then: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
    return lambda network: then(first(network))


def find_body(image: np.ndarray, patch: Triple, *, step: float) -> BodyBox:
    """The box of the largest bright part of the first channel of an image (C, Z, Y, X), with a margin.

    Bright is above the threshold of Otsu (IEEE Trans. SMC 9, 1979). The box is never smaller than the patch where the image is
    not, and as large as the windows that it needs anyway.
    """
    seen = image[0, ::_STRIDE, ::_STRIDE, ::_STRIDE]
    mask = largest_component(seen > otsu(seen))
    shape: Triple = (image.shape[1], image.shape[2], image.shape[3])
    ranges = []
    for axis, (size, length) in enumerate(zip(shape, patch, strict=True)):
        others = tuple(i for i in range(3) if i != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        low, high = (0, size) if not len(occupied) else (int(occupied[0]) * _STRIDE, (int(occupied[-1]) + 1) * _STRIDE)
        ranges.append(_grown(max(0, low - math.ceil(MARGIN * length)), min(size, high + math.ceil(MARGIN * length)), size, length, step))
    return BodyBox((ranges[0], ranges[1], ranges[2]), shape)


def _grown(low: int, high: int, size: int, patch: int, step: float) -> Range:
    """[low, high) made as long as its windows reach without another one, within [0, size)."""
    windows = max(0, math.ceil((high - low - patch) / (patch * step)))
    length = min(size, max(high - low, patch + math.floor(windows * patch * step)))
    low = min(max(0, (low + high - length) // 2), size - length)
    return low, low + length


def otsu(values: np.ndarray, *, bins: int = 256) -> float:
    """The threshold that best parts values into two classes by the variance between them; their maximum where all are equal."""
    counts, edges = np.histogram(values, bins=bins)
    middles = (edges[:-1] + edges[1:]) / 2
    weight = np.cumsum(counts)[:-1].astype(float)
    total, first = float(counts.sum()), np.cumsum(counts * middles)[:-1]
    rest = total - weight
    means = first / np.maximum(weight, 1), (float((counts * middles).sum()) - first) / np.maximum(rest, 1)
    between = weight * rest * (means[0] - means[1]) ** 2
    # Between two far-off classes many thresholds are equally good: the middle one leaves most room for noise.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1:-1][best[len(best) // 2]]) if between.max() > 0 else float(values.max())
