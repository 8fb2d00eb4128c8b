"""How uncertain a model is of every voxel, as an image on the scan's own grid."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoseg3d import files
from autoseg3d.case import Placement
from autoseg3d.geometry import Geometry
from autoseg3d.io import write_image
from autoseg3d.prediction.probabilities import StreamedMap, on_own_grid, temporary_array


def entropy(probabilities: Tensor, *, regions: bool) -> Tensor:
    """(…) float32 from probabilities (K, …): Shannon's entropy as a share of its largest value, so 0 certain and 1 undecided.

    Classes that exclude each other have one entropy; of regions, each either there or not, the largest is taken.
    """
    if not regions:
        return -_plogp(probabilities).sum(dim=0) / math.log(len(probabilities))
    each = -(_plogp(probabilities) + _plogp(1 - probabilities)) / math.log(2)
    return each.amax(dim=0)


def _plogp(probabilities: Tensor) -> Tensor:
    return torch.xlogy(probabilities, probabilities)


class EntropyMap:
    """Entropies of a case, filled row by row from probabilities."""

    def __init__(self, target: StreamedMap, *, regions: bool) -> None:
        self._target, self._regions = target, regions

    def write(self, row: int, part: slice, probabilities: Tensor) -> None:
        """The entropy of row `row` of axis 0 and part of axis 1 of the cropped scan, from its probabilities (K, Y', X')."""
        self._target.write(row, part, entropy(probabilities, regions=self._regions)[None])


@contextlib.contextmanager
def entropy_file(path: Path, placement: Placement, native: Geometry, *, regions: bool) -> Iterator[EntropyMap]:
    """An EntropyMap that becomes `path` (.nii.gz, float32, on `native`) when the block ends well; streamed by way of a file.

    Where `native` is another grid than was computed on, its voxels take what the nearest ones have, as their labels do.
    """
    with files.storage_errors(path), temporary_array(path.parent) as name:
        target = StreamedMap(name, placement, 1)
        yield EntropyMap(target, regions=regions)
        with on_own_grid(target, native, (0.0,)) as own:
            write_image(path, np.load(own, mmap_mode="r")[0], native)
