"""Time of all metrics for one pair of label maps: ours, surface-distance and MONAI, one process, one thread.

    python benchmarks/metrics.py [--shape 300 512 512] [--labels 20] [--peer-labels 20]

Run it in an environment that holds the peers (`pip install surface-distance==0.1 monai`); those missing are left out.
The pair is synthetic: ellipsoids of the sizes of organs at a spacing of 1×0.8×0.8 mm, the prediction bent, shifted and
with loose islands. Peers get what their users give them: the boolean mask of each label on the whole grid (made outside
the clock); they compute HD95, average surface distance and NSD; ours does so too, and once more all that scores.csv holds.
Values are compared: equal to 1e-6 with surface-distance, different by definition with MONAI (border voxels, unweighted).
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoseg3d import metrics
from autoseg3d.evaluation import score_case
from planners.labels import label_table

SPACING = (1.0, 0.8, 0.8)
TOLERANCE_MM = 2.0
Values = tuple[float, float, float]
Peer = Callable[[np.ndarray, np.ndarray], Values]


def make_pair(shape: tuple[int, int, int], labels: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, reference): int16 label maps with organs of 1 to 900 mL."""
    rng = np.random.default_rng(seed)
    prediction, reference = np.zeros((2, *shape), dtype=np.int16)
    for value in range(1, labels + 1):
        volume_ml = np.exp(rng.uniform(np.log(1), np.log(900)))
        radii = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3) * np.exp(rng.normal(scale=0.25, size=3)) / SPACING
        centre = [rng.uniform(min(r + 8, n / 2), max(n - r - 8, n / 2)) for r, n in zip(radii, shape, strict=True)]
        for array, offset, waves in ((reference, 0.0, 0.0), (prediction, 1.5, 0.06)):
            _paint(array, value, np.asarray(centre) + offset, radii, waves)
        z, y, x = (int(c) for c in centre)
        prediction[z : z + 3, max(y - int(radii[1]) - 12, 0), x : x + 3] = value
    return prediction, reference


def _paint(array: np.ndarray, value: int, centre: np.ndarray, radii: np.ndarray, waves: float) -> None:
    start = np.maximum(np.floor(centre - 1.2 * radii).astype(int), 0)
    stop = np.minimum(np.ceil(centre + 1.2 * radii).astype(int) + 1, array.shape)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    z, y, x = ((axis - c) / r for axis, c, r in zip(axes, centre, radii, strict=True))
    bent = 1 + waves * np.sin(9 * z + 2 * y) + waves * np.cos(11 * x - 5 * y)
    array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))][z**2 + y**2 + x**2 < bent] = value


def surface_distance_values(prediction: np.ndarray, reference: np.ndarray) -> Values:
    """HD95, ASSD and NSD by DeepMind's library."""
    import surface_distance

    found = surface_distance.compute_surface_distances(reference, prediction, SPACING)
    areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
    means = surface_distance.compute_average_surface_distance(found)
    mean = sum(m * a for m, a in zip(means, areas, strict=True)) / sum(areas)
    hd95 = surface_distance.compute_robust_hausdorff(found, 95)
    return float(hd95), float(mean), float(surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM))


def monai_values(prediction: np.ndarray, reference: np.ndarray) -> Values:
    """HD95, ASSD and NSD by MONAI, which wants (batch, class, Z, Y, X)."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    p, r = (torch.from_numpy(mask[None, None]) for mask in (prediction, reference))
    hd95 = compute_hausdorff_distance(p, r, include_background=True, percentile=95, spacing=SPACING)
    mean = compute_average_surface_distance(p, r, include_background=True, symmetric=True, spacing=SPACING)
    nsd = compute_surface_dice(p, r, [TOLERANCE_MM], include_background=True, spacing=SPACING)
    return float(hd95), float(mean), float(nsd)


def our_values(prediction: np.ndarray, reference: np.ndarray) -> Values:
    """HD95, ASSD and NSD by ours, from whole masks as the peers get them."""
    distances = metrics.surface_distances(prediction, reference, spacing_mm=SPACING)
    return metrics.hd95(distances), metrics.assd(distances), metrics.nsd(distances, TOLERANCE_MM)


def main() -> None:
    """Measures and prints one line per library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--peer-labels", type=int, default=20, help="how many of the labels the peers are given, evenly spread")
    options = parser.parse_args()
    prediction, reference = make_pair(tuple(options.shape), options.labels)
    table = label_table({"background": 0, **{f"organ {v}": v for v in range(1, options.labels + 1)}})
    print(f"{tuple(options.shape)}, {options.labels} labels, {np.count_nonzero(reference) / reference.size:.1%} foreground")
    spent, walls = [], []
    for _ in range(3):
        begun, wall = time.process_time(), time.perf_counter()
        score_case(prediction, reference, spacing=SPACING, labels=table, tolerance_mm=TOLERANCE_MM)
        spent.append(time.process_time() - begun)
        walls.append(time.perf_counter() - wall)
    print(f"all metrics of all labels, one process: {_three(spent)} s CPU, {_three(walls)} s wall (median, least to most of 3)")
    values = np.linspace(1, options.labels, min(options.peer_labels, options.labels)).round().astype(int).tolist()
    for name, module, peer in (("surface-distance", "surface_distance", surface_distance_values), ("MONAI", "monai", monai_values)):
        if importlib.util.find_spec(module) is None:
            print(f"{name:17s} not installed")
            continue
        _compare(name, peer, values, prediction, reference)


def _compare(name: str, peer: Peer, labels: list[int], prediction: np.ndarray, reference: np.ndarray) -> None:
    """Ours and the peer's in turn, label by label."""
    ones = np.ones((2, 2, 2), dtype=bool)
    peer(ones, ones), our_values(ones, ones)  # imports stay outside the clock
    spent, gaps = np.zeros((2, len(labels))), np.zeros(3)
    for i, value in enumerate(labels):
        masks = prediction == value, reference == value
        found = []
        for j, measure in enumerate((our_values, peer)):
            begun = time.process_time()
            found.append(np.array(measure(*masks)))
            spent[j, i] = time.process_time() - begun
        gaps = np.maximum(gaps, np.abs(found[0] - found[1]))
    ours, theirs = spent.sum(axis=1)
    print(f"surface metrics of {len(labels)} labels: {name} {theirs:.2f} s CPU, ours {ours:.2f} s: {theirs / ours:.1f} times faster;")
    print(f"    by label {_three((spent[1] / spent[0]).tolist())} times")
    print(f"    largest gaps: HD95 {gaps[0]:.2g} mm, ASSD {gaps[1]:.2g} mm, NSD {gaps[2]:.2g}")


def _three(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
