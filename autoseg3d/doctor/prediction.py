"""The golden scan predicted with the golden model, stored in several orientations, on a device and in its precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoseg3d.devices import choose_device, fast_bfloat16
from autoseg3d.doctor.findings import Finding, Verdict
from autoseg3d.doctor.golden import LABELS, ORIENTATIONS, Orientation, golden_case, write_golden_package
from autoseg3d.errors import Autoseg3dError
from autoseg3d.io import find_scans, read_volume, write_image
from autoseg3d.prediction import PredictOptions, predict_scans
from autoseg3d.prediction.precision import Precision

# Voxels of each label in float32, the same in every orientation, and the share of them that may change: neighbouring
# floating-point results differ in voxels on the border of two labels only.
EXPECTED_VOXELS = (2613, 2609)
TOLERANCE = 0.01
# The edges of the organs are hidden by their own gradient; what is inside must be found.
LEAST_DICE = 0.8

_REINSTALL = "Do not use this installation for patients. Install autoseg3d and torch anew, and report this if it stays"


def examine_prediction(folder: Path, device: str = "auto") -> list[Finding]:
    """Predicts the golden scan in an empty `folder`, in float32 and where it is fast in bfloat16; one finding for each.

    Raises UsageError where the device is not there.
    """
    chosen = choose_device(device)
    write_golden_package(folder / "model")
    for orientation in ORIENTATIONS:
        image, _, geometry = golden_case(orientation)
        write_image(folder / "scans" / f"{_case(orientation)}.nii.gz", image, geometry)
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if fast_bfloat16(chosen.type) else ("fp32",)
    return [_examine(folder, str(chosen), precision) for precision in precisions]


def _examine(folder: Path, device: str, precision: Precision) -> Finding:
    what = f"golden scan, {device}, {precision}"
    out = folder / f"labels_{precision}"
    options = PredictOptions(device=device, precision=precision)
    try:
        results = predict_scans(find_scans(folder / "scans", num_channels=1), folder / "model", out, options)
    except Autoseg3dError as error:
        return Finding(what, "fault", f"the prediction failed: {error}", _REINSTALL)
    failed = [reason for result in results for reason in result.reasons]
    if failed:
        return Finding(what, "fault", f"the prediction failed: {failed[0]}", _REINSTALL)
    troubles = [trouble for orientation in ORIENTATIONS for trouble in _troubles(out, orientation)]
    verdict: Verdict = "fault" if troubles else "fine"
    right = f"the right labels at the right place in {len(ORIENTATIONS)} orientations"
    return Finding(what, verdict, "; ".join(troubles) or right, _REINSTALL if troubles else "")


def _troubles(out: Path, orientation: Orientation) -> list[str]:
    _, truth, geometry = golden_case(orientation)
    volume = read_volume(out / f"{_case(orientation)}.nii.gz", labels=True)
    if not volume.geometry.same_grid(geometry):
        return [f"{orientation.name}: the labels lie on another grid than the scan"]
    return [f"{orientation.name}: {trouble}" for trouble in compare(np.asarray(volume.array), truth)]


def compare(found: np.ndarray, truth: np.ndarray) -> list[str]:
    """What is wrong with the labels that were found: (Z, Y, X) arrays of the golden scan in one orientation."""
    troubles = []
    for label, expected in zip(LABELS.labels, EXPECTED_VOXELS, strict=True):
        here, there = found == label.paint, truth == label.paint
        other = (truth != label.paint) & (truth != 0)
        if (here & other).sum() > (here & there).sum():
            troubles.append(f"'{label.name}' stands on the other side: left and right are swapped")
        elif 2 * (here & there).sum() < LEAST_DICE * (here.sum() + there.sum()):
            troubles.append(f"'{label.name}' is not where it should be")
        elif abs(int(here.sum()) - expected) > TOLERANCE * expected:
            troubles.append(f"'{label.name}' has {here.sum()} voxels instead of {expected}: this machine computes something else")
    return troubles


def _case(orientation: Orientation) -> str:
    return orientation.name.replace(",", "").replace(" ", "_")
