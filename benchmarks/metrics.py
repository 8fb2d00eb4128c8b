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
from autoseg3d.evaluation import ScoreRow, score_case
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


def main() -> None:
    """Measures and prints one line per library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512))
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--peer-labels", type=int, default=20, help="how many labels the peers are given (their time is scaled up)")
    options = parser.parse_args()
    prediction, reference = make_pair(tuple(options.shape), options.labels)
    table = label_table({"background": 0, **{f"organ {v}": v for v in range(1, options.labels + 1)}})
    begun, wall = time.process_time(), time.perf_counter()
    rows = score_case(prediction, reference, spacing=SPACING, labels=table, tolerance_mm=TOLERANCE_MM)
    spent = time.process_time() - begun
    print(f"{tuple(options.shape)}, {options.labels} labels, {np.count_nonzero(reference) / reference.size:.1%} foreground")
    print(f"autoseg3d         {spent:7.2f} s CPU, {time.perf_counter() - wall:7.2f} s wall (all metrics)")
    ours = _surface_seconds(prediction, reference, options.labels)
    print(f"{'':17s} {ours:7.2f} s CPU (surface metrics alone, from whole masks as the peers)")
    for name, module, peer in (("surface-distance", "surface_distance", surface_distance_values), ("MONAI", "monai", monai_values)):
        if importlib.util.find_spec(module) is None:
            print(f"{name:17s} not installed")
            continue
        _compare(name, peer, rows[: options.peer_labels], prediction, reference, ours, len(rows))


def _surface_seconds(prediction: np.ndarray, reference: np.ndarray, labels: int) -> float:
    spent = 0.0
    for value in range(1, labels + 1):
        masks = prediction == value, reference == value
        begun = time.process_time()
        distances = metrics.surface_distances(*masks, spacing_mm=SPACING)
        metrics.hd95(distances), metrics.assd(distances), metrics.nsd(distances, TOLERANCE_MM)
        spent += time.process_time() - begun
    return spent


def _compare(
    name: str, peer: Peer, rows: tuple[ScoreRow, ...], prediction: np.ndarray, reference: np.ndarray, ours: float, labels: int
) -> None:
    spent, gaps = 0.0, np.zeros(3)
    peer(np.ones((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=bool))  # imports stay outside the clock
    for row in rows:
        masks = prediction == row.label, reference == row.label
        begun = time.process_time()
        theirs = peer(*masks)
        spent += time.process_time() - begun
        gaps = np.maximum(gaps, np.abs(np.array(theirs) - (row.value("hd95_mm"), row.value("assd_mm"), row.value("nsd"))))
    spent *= labels / len(rows)
    print(f"{name:17s} {spent:7.2f} s CPU, {spent / ours:.1f} times ours (surface metrics)")
    print(f"{'':17s} largest gap: HD95 {gaps[0]:.2g} mm, ASSD {gaps[1]:.2g} mm, NSD {gaps[2]:.2g}")


if __name__ == "__main__":
    main()
