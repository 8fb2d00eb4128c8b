"""Connected components of masks."""

from __future__ import annotations

import numpy as np


def count_components(mask: np.ndarray) -> int:
    """Number of 26-connected parts of a bool (Z, Y, X) mask."""
    return label_components(mask)[1]


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """A (Z, Y, X) int32 map that numbers the 26-connected parts of a bool mask from 1, and how many there are."""
    from scipy import ndimage  # kept out of the start-up of processes that count nothing

    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3), dtype=bool))
    return parts, int(count)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """A bool mask reduced to its largest 26-connected part; equally large ones all stay (nnU-Net's rule)."""
    parts, count = label_components(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    keep: np.ndarray = np.concatenate([[False], sizes == sizes.max()])
    return keep.take(parts)
