"""Prediction as a textbook would do it: everything at once, in float64, all classes on the scan's own grid."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from autoseg3d.case import Case, Placement
from autoseg3d.ops.resampling import separate_axis
from autoseg3d.preprocessing import preprocess
from autoseg3d.sliding_window import mirror_combinations, window_starts
from planners.labels import LabelTable
from planners.plan import Plan


def textbook(scan: Case, plan: Plan, networks: list[nn.Module], *, mirror: bool = True, name: str = "3d_fullres") -> np.ndarray:
    """Labels: windows, mirrors, folds; all classes resized; argmax or regions; pasted back."""
    logits, placement = resized_logits(scan, plan, networks, mirror=mirror, name=name)
    return placement.restore(choose(logits, plan.labels, threshold=0.0))


def fused(scan: Case, members: list[tuple[Plan, list[nn.Module], str]], *, mirror: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(labels, mean probabilities) on the scan's own grid of several members, each (plan, networks, configuration)."""
    labels, total = members[0][0].labels, 0.0
    for plan, networks, name in members:
        logits, placement = resized_logits(scan, plan, networks, mirror=mirror, name=name)
        whole = torch.from_numpy(logits)
        values = (torch.sigmoid(whole) if labels.has_regions else torch.softmax(whole, dim=0)).numpy()
        restored = placement.restore(values)
        if not labels.has_regions:
            restored[0] += 1 - restored.sum(axis=0)  # outside of the crop
        total = total + restored / len(members)
    return choose(np.asarray(total), labels, threshold=0.5), np.asarray(total)


def resized_logits(
    scan: Case, plan: Plan, networks: list[nn.Module], *, mirror: bool = True, name: str = "3d_fullres"
) -> tuple[np.ndarray, Placement]:
    """(K, *cropped shape) mean logits on the cropped scan's grid, and where they lie."""
    chosen, working = plan.configurations[name], preprocess(scan, plan, name)
    image = torch.from_numpy(working.image)
    shape = image.shape[1:]
    padded = tuple(max(n, p) for n, p in zip(shape, chosen.patch_size, strict=True))
    low = [(m - n) // 2 for m, n in zip(padded, shape, strict=True)]
    room = torch.zeros((1, 1, *padded))
    inner = tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))
    room[(0, 0, *inner)] = image[0]
    axes = [a for a in plan.mirror_axes if not (chosen.slicewise and a == 0)] if mirror else []
    distance = [np.arange(p) - p // 2 for p in chosen.patch_size]
    z, y, x = (np.exp(-0.5 * (d / (p / 8)) ** 2) for d, p in zip(distance, chosen.patch_size, strict=True))
    weights = torch.from_numpy(z[:, None, None] * y[:, None] * x)
    total = torch.zeros((plan.labels.num_classes, *padded), dtype=torch.float64)
    norm = torch.zeros(padded, dtype=torch.float64)
    with torch.no_grad():
        for start in window_starts(padded, chosen.patch_size):  # type: ignore[arg-type]
            box = tuple(slice(s, s + p) for s, p in zip(start, chosen.patch_size, strict=True))
            for flips in mirror_combinations(axes):
                dims = [a + 2 for a in flips]
                for network in networks:
                    total[(slice(None), *box)] += network(room[(slice(None), slice(None), *box)].flip(dims))[0].flip(dims)[0] * weights
                    norm[box] += weights
    logits = (total / norm)[(slice(None), *inner)].numpy()
    spacing = chosen.spacing_mm if not chosen.slicewise else working.placement.spacing_mm
    return _resized(logits, working.placement, spacing), working.placement


def _resized(logits: np.ndarray, placement: Placement, spacing: tuple[float, float, float]) -> np.ndarray:
    target = placement.cropped_shape
    separate = separate_axis(spacing, placement.spacing_mm)
    where = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(logits.shape[1:], target, strict=True)]
    if separate is not None:
        where[separate] = np.floor(where[separate] + 0.5)
    grid = np.meshgrid(*where, indexing="ij")
    return np.stack([map_coordinates(c, grid, order=1, mode="nearest") for c in logits])


def choose(values: np.ndarray, labels: LabelTable, *, threshold: float) -> np.ndarray:
    """Label values of logits or probabilities (K, …); regions count above `threshold`."""
    if not labels.has_regions:
        return np.array(labels.class_paint, np.uint8)[values.argmax(axis=0)]
    painted = np.zeros(values.shape[1:], np.uint8)
    for paint, value in zip(labels.class_paint, values, strict=True):
        painted[value > threshold] = paint
    return painted
