"""What `--crop body` buys and what it changes: windows, time and labels with and without it, for several margins.

    python benchmarks/body_crop.py --model MODEL --scans FOLDER [--reference LABELS] [--cases 4] [--only ID,...] [--air 0 40]
        [--margins 0 0.125 0.5]

`--air` puts every scan into a field of view so many voxels wider on each side in-plane, filled with its lowest value, as a
scanner's is; datasets are often cut to the body beforehand. Labels are compared with those of the whole field in float32, and
both with reference labels where there are any: mean Dice of all labels and scans.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from running import table

from autoseg3d.case import Case
from autoseg3d.geometry import Geometry
from autoseg3d.io import find_scans, load_case, read_volume
from autoseg3d.package import open_package
from autoseg3d.prediction import Predictor, body


def in_air(case: Case, air: int) -> Case:
    """The case in a field of view that is `air` voxels wider on each in-plane side."""
    widths = ((0, 0), (0, 0), (air, air), (air, air))
    image = np.pad(case.image, widths, constant_values=float(case.image.min()))
    # Where the scan lies in space does not matter here; how it is turned does.
    affine = np.vstack([np.array(case.geometry.affine), [0, 0, 0, 1]])
    return replace(case, image=image, geometry=Geometry.from_affine(image.shape[1:], affine))


def dice(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Dice of every label that either map has."""
    labels = [v for v in np.union1d(np.unique(a), np.unique(b)) if v]
    return [float(2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum())) for v in labels]


def reference(folder: Path, scan: str, air: int) -> np.ndarray:
    """The scan's reference labels on the field of view that is `air` wider."""
    return np.pad(read_volume(folder / f"{scan}.nii.gz", labels=True).array, ((0, 0), (air, air), (air, air)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--only", help="names of scans, separated by commas")
    parser.add_argument("--air", type=int, nargs="+", default=(0, 40))
    parser.add_argument("--margins", type=float, nargs="+", default=(0.0, 0.125, 0.5))
    chosen = parser.parse_args()
    package = open_package(chosen.model)
    scans = find_scans(chosen.scans, num_channels=1)
    if chosen.only:
        scans = tuple(scan for scan in scans if scan.id in chosen.only.split(","))
    picked = scans[:: max(1, len(scans) // chosen.cases)][: chosen.cases]
    whole, cropped = (Predictor.from_package(package, device="cpu", precision="fp32", crop=crop) for crop in ("none", "body"))  # type: ignore[arg-type]
    rows = []
    for air in chosen.air:
        found: dict[float, list[tuple[float, float, float, int]]] = {margin: [] for margin in chosen.margins}
        right: dict[float | None, list[float]] = {margin: [] for margin in (None, *chosen.margins)}
        for scan in picked:
            prepared = whole.prepare(in_air(load_case(scan, labels=None).case, air))
            begun = time.process_time()
            wanted = whole.run(prepared).labels
            base = time.process_time() - begun
            truth = reference(chosen.reference, scan.id, air) if chosen.reference else None
            right[None] += [] if truth is None else dice(wanted, truth)
            for margin in chosen.margins:
                body.MARGIN = margin
                begun = time.process_time()
                labels = cropped.run(prepared).labels
                seconds = time.process_time() - begun
                foreground = (labels != 0) | (wanted != 0)
                equal = float((labels == wanted)[foreground].mean()) if foreground.any() else 1.0
                found[margin].append((base / seconds, equal, min(dice(labels, wanted), default=1.0), int((labels != wanted).sum())))
                right[margin] += [] if truth is None else dice(labels, truth)
        for margin, values in found.items():
            gain, equal, lowest, differ = zip(*values, strict=True)
            scored = [f"{np.mean(right[key]):.4f}" if right[key] else "–" for key in (None, margin)]
            row = (
                air,
                margin,
                f"{np.median(gain):.2f}×",
                f"{min(equal):.4f}",
                f"{np.mean(equal):.4f}",
                f"{min(lowest):.4f}",
                sum(differ),
                *scored,
            )
            rows.append(row)
    columns = ("air, voxels", "margin, patches", "faster (median)", "foreground equal, worst", "mean", "lowest Dice of a label", "voxels")
    columns += ("Dice, whole field", "Dice, cropped")
    sys.stdout.write(f"{len(picked)} scans\n\n")
    table(columns, rows)


if __name__ == "__main__":
    main()
