"""Target spacing, axis order and median shape: nnU-Net's rules 1 to 3 (Isensee et al. 2021, Nature Methods 18:203).

Arrays of shapes and spacings are (cases, 3); triples are plain tuples of floats. `round` is half to even everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planners.contract import Triple
from planners.explain import Choice, triple_text

Spacing = tuple[float, ...]
Shape = tuple[float, ...]
Shapes = npt.NDArray[np.int64]
Spacings = npt.NDArray[np.float64]

ANISOTROPIC = 3.0


@dataclass(frozen=True)
class Grid:
    """The resampled data as a network sees it, in network-axis order; two numbers each for slices.

    median_shape     per-axis median over the cases, an integer or half of one
    cases            training cases
    dataset_voxels   voxels of the whole training set at this spacing, as nnU-Net counts them: median case × cases
    """

    spacing: Spacing
    median_shape: Shape
    cases: int
    dataset_voxels: float

    @property
    def median_voxels(self) -> float:
        """Voxels of a case of the median shape."""
        return float(np.prod(self.median_shape))

    def slices(self) -> Grid:
        """The grid of a slicewise network: axes 1 and 2; the dataset keeps its voxels."""
        return replace(self, spacing=self.spacing[1:], median_shape=self.median_shape[1:])


def target_spacing(shapes: Shapes, spacings: Spacings) -> Choice[Spacing]:
    """The spacing in mm that all cases are resampled to, in the axes of the inputs.

    The median over the cases along each axis. Where the coarsest axis is more than three times coarser than the others
    and has less than a third of their voxels, the median would blur away what the finer cases hold, so that axis takes
    the 10th percentile, but stays the coarsest.
    """
    target = np.median(spacings, axis=0)
    sizes = np.median(shapes, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest = triple_text(target)
    coarse = target[worst] > ANISOTROPIC * max(target[others])
    if not (coarse and sizes[worst] * ANISOTROPIC < min(sizes[others])):
        return Choice(_floats(target), "median spacing", f"the median of {len(spacings)} cases is {finest} mm")
    tenth = float(np.percentile(spacings[:, worst], 10))
    target[worst] = tenth if tenth >= max(target[others]) else max(target[others]) + 1e-5
    reason = (
        f"the median is {finest} mm: axis {worst} is more than {ANISOTROPIC:g} times coarser than the others with less than a third of "
        f"their voxels, so it takes the 10th percentile of its spacings ({tenth:.4g} mm), not finer than the other axes"
    )
    return Choice(_floats(target), "10th percentile on the anisotropic axis", reason)


def coarsest_first(spacing: Spacing) -> Choice[Triple]:
    """The order of axes that puts the coarsest first and keeps the others as they are."""
    worst = spacing.index(max(spacing))
    first, second, third = (worst, *(axis for axis in range(3) if axis != worst))
    reason = f"axis {worst} has the largest target spacing, {spacing[worst]:.4g} mm; networks pool and slice along axis 0 last"
    return Choice((first, second, third), "coarsest axis first", reason)


def resampled_shapes(shapes: Shapes, spacings: Spacings, target: Spacing) -> Shapes:
    """Shape of every case at the target spacing: round(spacing / target × shape), half to even."""
    sizes: Shapes = np.rint(spacings / np.array(target) * shapes).astype(np.int64)
    return sizes


def plan_grid(shapes: Shapes, spacings: Spacings, target: Spacing, *, order: Triple, num_training: int) -> Grid:
    """The Grid of a dataset resampled to `target`; inputs in array axes, the result in network axes (`order`)."""
    axes = list(order)
    spacing = tuple(target[axis] for axis in order)
    median = np.median(resampled_shapes(shapes[:, axes], spacings[:, axes], spacing), axis=0)
    voxels = float(np.prod(median)) * num_training
    return Grid(spacing=spacing, median_shape=_floats(median), cases=num_training, dataset_voxels=voxels)


def _floats(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
