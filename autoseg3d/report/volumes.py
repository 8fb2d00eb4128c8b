"""Small volumes: a scan and its label maps cropped to what matters and made coarse enough to be embedded in a page."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg3d.geometry import Geometry
from autoseg3d.io import nifti_bytes
from autoseg3d.pictures import grey_window, shown_box
from planners.contract import Triple

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class SmallVolume:
    """A scan and its label maps as gzipped NIfTI files, uint8 and uint16, in place in the patient.

    factors  voxels of the scan that one voxel of the image spans, (z, y, x)
    """

    image: bytes
    layers: tuple[bytes, ...]
    factors: Triple

    @property
    def reduced(self) -> bool:
        """Whether it is coarser than the scan."""
        return self.factors != (1, 1, 1)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.image) + sum(map(len, self.layers))


def small_volume(image: np.ndarray, layers: Sequence[np.ndarray], geometry: Geometry, *, max_voxels: int) -> SmallVolume:
    """Crops to all labels with a margin and averages blocks of voxels until at most `max_voxels` are left.

    Args:
        image: (Z, Y, X); its grey values become 0 to 255 between the darkest and the brightest tissue.
        layers: label maps (Z, Y, X) on the same grid; of each block the middle voxel is kept, and the affine says where
            it lies, so that no label moves.
        geometry: the grid.
        max_voxels: of the image.
    """
    first = layers[0] if layers else None
    second = layers[1] if len(layers) > 1 else None
    z, y, x = shown_box(first, second, image.shape, geometry.spacing_mm)
    box = (z, y, x)
    cut = image[box]
    factors = block_factors(cut.shape, geometry.spacing_mm, max_voxels)
    low, high = grey_window(cut)
    grey = np.clip((_block_means(cut, factors) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    start = [part.start for part in box]
    centre = [a + (f - 1) / 2 for a, f in zip(start, factors, strict=True)]
    packed = [_packed(grey, geometry, centre, factors)]
    for layer in layers:
        middle = tuple(
            slice(a + f // 2 if part.stop - a > f // 2 else a, part.stop, f) for a, f, part in zip(start, factors, box, strict=True)
        )
        kept = layer[middle].astype(np.uint8 if layer.max() < 256 else np.uint16)
        packed.append(_packed(kept, geometry, [part.start for part in middle], factors))
    return SmallVolume(packed[0], tuple(packed[1:]), factors)


def block_factors(shape: Sequence[int], spacing_mm: Sequence[float], max_voxels: int) -> Triple:
    """How many voxels to make one of along each axis: always along the finest axis first, so that voxels grow even."""
    factors = [1, 1, 1]
    while np.prod([-(-n // f) for n, f in zip(shape, factors, strict=True)]) > max_voxels:
        coarse = [s * f if -(-n // f) > 1 else np.inf for n, s, f in zip(shape, spacing_mm, factors, strict=True)]
        factors[int(np.argmin(coarse))] += 1
    z, y, x = factors
    return z, y, x


def _block_means(array: np.ndarray, factors: Triple) -> np.ndarray:
    """Means over blocks; those at the far edges are filled up with the last voxels."""
    missing = [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)]
    full = np.pad(array, missing, mode="edge").astype(np.float32)
    (z, y, x), (a, b, c) = full.shape, factors
    means: np.ndarray = full.reshape(z // a, a, y // b, b, x // c, c).mean(axis=(1, 3, 5))
    return means


def _packed(array: np.ndarray, geometry: Geometry, start: Sequence[float], factors: Triple) -> bytes:
    """A gzipped NIfTI file of an array whose first voxel lies at index `start` (z, y, x) of the grid."""
    place = np.diag([*map(float, reversed(factors)), 1.0])
    place[:3, 3] = list(reversed(start))
    z, y, x = array.shape
    return gzip.compress(nifti_bytes(array, Geometry.from_affine((z, y, x), geometry.matrix @ place)), 9, mtime=0)
