"""One case and one configuration's networks, set up to be computed in one way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from autoseg3d.case import Placement
from autoseg3d.ops.labelling import GridMap
from autoseg3d.prediction.body import BodyBox
from autoseg3d.sliding_window import OneHot, Slab, WindowOptions, predict_slabs, slab_bytes
from planners.labels import LabelTable

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Computation:
    """What it takes to stream a case's logits.

    image             (C, Z, Y, X) float32 on the working grid
    grid              from the working grid to the cropped scan
    previous          labels of a cascade's first stage
    precision         "fp32" or "bf16"
    agreement         the agreement of bfloat16 that the precision was chosen by, None where none was looked at
    slab_limit_bytes  bound of the slab that is held at a time
    apart             whether the networks' own answers are wanted beside their mean
    body              the box outside of which all is background; None where the whole scan is computed
    """

    image: Tensor
    networks: Sequence[nn.Module]
    options: WindowOptions
    labels: LabelTable
    grid: GridMap
    placement: Placement
    precision: str
    slab_limit_bytes: int
    previous: OneHot | None = None
    agreement: float | None = None
    apart: bool = False
    body: BodyBox | None = None

    @property
    def working_voxel_ml(self) -> float:
        """Volume of a voxel of the working grid in mL."""
        spacing, before, after = self.placement.spacing_mm, self.placement.cropped_shape, self.placement.working_shape
        return math.prod(s * b / a for s, b, a in zip(spacing, before, after, strict=True)) / 1000

    def bands(self, *, sharing: int = 1) -> int:
        """Into how many parts of axis 1 the scan is cut so that the slab stays within its share of the bound."""
        shape = self.placement.working_shape
        needed = slab_bytes(
            shape,
            self.options.patch,
            self.networks,
            self.labels.num_classes,
            apart=self.apart,
            half_weights=self.options.half_weights,
        )
        return min(self.grid.shape[1], shape[1], math.ceil(needed * sharing / self.slab_limit_bytes))

    def band(self, start: int, stop: int, progress: Progress | None = None) -> tuple[GridMap, int, Iterator[Slab]]:
        """Rows [start, stop) of axis 1 of the scan: their map, the first working row they need, and the slabs."""
        part, rows = self.grid.band(start, stop)
        if self.body is None:
            return part, rows[0], self._slabs(self.image, self.previous, rows, progress)
        z, y, x = self.body.slices
        image = self.image[:, z, y, x]
        previous = None if self.previous is None else replace(self.previous, labels=self.previous.labels[z, y, x])

        def slabs(band: tuple[int, int]) -> Iterator[Slab]:
            return self._slabs(image, previous, band, progress)

        filled = self.body.fill(slabs, rows, num_classes=self.labels.num_classes, regions=self.labels.has_regions, apart=self.apart)
        return part, rows[0], filled

    def _slabs(self, image: Tensor, previous: OneHot | None, rows: tuple[int, int], progress: Progress | None) -> Iterator[Slab]:
        return predict_slabs(
            image,
            self.networks,
            self.options,
            num_classes=self.labels.num_classes,
            band=rows,
            previous=previous,
            apart=self.apart,
            progress=progress,
        )
