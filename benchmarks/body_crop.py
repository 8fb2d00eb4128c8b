"""What `--crop body` buys and what it changes: windows, time and labels with and without it, for several margins.

    python benchmarks/body_crop.py --model MODEL --scans FOLDER [--cases 4] [--air 0 40] [--margins 0 0.125 0.5]

`--air` puts every scan into a field of view so many voxels wider on each side in-plane, filled with its lowest value, as a
scanner's is; datasets are often cut to the body beforehand. Labels are compared with those of the whole field in float32.
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
from autoseg3d.io import find_scans, load_case
from autoseg3d.package import open_package
from autoseg3d.prediction import Predictor, body


def in_air(case: Case, air: int) -> Case:
    """The case in a field of view that is `air` voxels wider on each in-plane side."""
    widths = ((0, 0), (0, 0), (air, air), (air, air))
    image = np.pad(case.image, widths, constant_values=float(case.image.min()))
    # Where the scan lies in space does not matter here; how it is turned does.
    affine = np.vstack([np.array(case.geometry.affine), [0, 0, 0, 1]])
    return replace(case, image=image, geometry=Geometry.from_affine(image.shape[1:], affine))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Lowest Dice of any label between two maps."""
    labels = [v for v in np.union1d(np.unique(a), np.unique(b)) if v]
    return min((2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum()) for v in labels), default=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--air", type=int, nargs="+", default=(0, 40))
    parser.add_argument("--margins", type=float, nargs="+", default=(0.0, 0.125, 0.5))
    chosen = parser.parse_args()
    package = open_package(chosen.model)
    scans = find_scans(chosen.scans, num_channels=1)
    picked = scans[:: max(1, len(scans) // chosen.cases)][: chosen.cases]
    whole, cropped = (Predictor.from_package(package, device="cpu", precision="fp32", crop=crop) for crop in ("none", "body"))  # type: ignore[arg-type]
    rows = []
    for air in chosen.air:
        found: dict[float, list[tuple[float, float, float, int]]] = {margin: [] for margin in chosen.margins}
        for scan in picked:
            prepared = whole.prepare(in_air(load_case(scan, labels=None).case, air))
            begun = time.process_time()
            wanted = whole.run(prepared).labels
            base = time.process_time() - begun
            for margin in chosen.margins:
                body.MARGIN = margin
                begun = time.process_time()
                labels = cropped.run(prepared).labels
                seconds = time.process_time() - begun
                foreground = (labels != 0) | (wanted != 0)
                equal = float((labels == wanted)[foreground].mean()) if foreground.any() else 1.0
                found[margin].append((base / seconds, equal, dice(labels, wanted), int((labels != wanted).sum())))
        for margin, values in found.items():
            gain, equal, lowest, differ = zip(*values, strict=True)
            row = (air, margin, f"{np.median(gain):.2f}×", f"{min(equal):.4f}", f"{np.mean(equal):.4f}", f"{min(lowest):.4f}", sum(differ))
            rows.append(row)
    columns = ("air, voxels", "margin, patches", "faster (median)", "foreground equal, worst", "mean", "lowest Dice of a label", "voxels")
    sys.stdout.write(f"{len(picked)} scans\n\n")
    table(columns, rows)


if __name__ == "__main__":
    main()
