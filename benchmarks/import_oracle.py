"""Every kind of nnU-Net model that can be imported, predicted by nnU-Net and by us, label by label.

    python benchmarks/import_oracle.py --nnunet PYTHON --work FOLDER [--only NAME …]

nnU-Net's own code builds each network, fits it for some steps and predicts one synthetic scan in its own environment; the
folder is then imported and predicted in float32 and at the default precision. What differs is printed per kind.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from peer_models import Spec, body, carry_out, job, numbered
from running import agreement, table

from autoseg3d.import_nnunet import import_nnunet
from autoseg3d.io import find_scans
from autoseg3d.prediction import PredictOptions, predict_scans

REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "top": 3}
FLAT = ((1, 1), (2, 2), (2, 2))
LOW = Spec(name="3d_lowres", spacing=(3.0, 3.0, 3.0), patch=(24, 24, 24))


@dataclass(frozen=True)
class Kind:
    """A model and the scan it is tried on.

    affine   rows of the scan's affine, which say how it is stored; spacing z, y, x otherwise
    zeros    air is 0, as in skull-stripped scans
    """

    specs: tuple[Spec, ...]
    spacing: tuple[float, float, float] = (2.0, 1.4, 1.4)
    shape: tuple[int, int, int] = (50, 72, 66)
    axes: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    zeros: bool = False
    scale: tuple[float, float] = (1.0, 0.0)


def flat(**changes: object) -> Spec:
    base = Spec(name="2d", patch=(48, 48), spacing=(1.5, 1.5), strides=FLAT, kernels=((3, 3),) * 3, mirror_axes=(0, 1))
    return replace(base, **changes)  # type: ignore[arg-type]


KINDS: dict[str, Kind] = {
    "plain 3d, two folds": Kind((Spec(folds=("fold_0", "fold_1")),)),
    "residual encoder 3d": Kind((Spec(kind="ResidualEncoderUNet", blocks=(1, 2, 3), decoder_blocks=(1, 1)),)),
    "plain 2d": Kind((flat(),)),
    "residual encoder 2d": Kind((flat(kind="ResidualEncoderUNet", blocks=(1, 2, 2), decoder_blocks=(1, 1)),)),
    "3d_lowres": Kind((LOW,)),
    "cascade": Kind((LOW, Spec(name="3d_cascade_fullres", previous_stage="3d_lowres"))),
    "regions": Kind((Spec(labels=REGIONS, regions_class_order=(1, 2, 3)),)),
    "fold_all": Kind((Spec(folds=("fold_all",)),)),
    "plans before 2.4, prefix module.": Kind((Spec(old=True, prefix="module."),)),
    "118 classes": Kind((Spec(labels=numbered(118), steps=200, features=(16, 32, 64)),)),
    "transposed axes, anisotropic": Kind(
        (
            Spec(
                transpose=(2, 0, 1),
                spacing=(5.0, 1.2, 1.2),
                patch=(8, 48, 48),
                strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)),
                kernels=((1, 3, 3), (1, 3, 3), (3, 3, 3)),
            ),
        ),
        spacing=(1.4, 1.4, 5.0),
        shape=(66, 72, 20),
    ),
    "anisotropic, logits not interpolated along z": Kind(
        (Spec(spacing=(6.0, 1.2, 1.2), patch=(8, 48, 48), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))),),
        spacing=(7.0, 1.4, 1.4),
        shape=(14, 72, 66),
    ),
    "scan stored as PIL": Kind((Spec(),), axes=((0, 0, -1), (-1, 0, 0), (0, -1, 0))),
    "reader that turns to RAS, scan stored as PIL": Kind(
        (Spec(reader="NibabelIOWithReorient"),), axes=((0, 0, -1), (-1, 0, 0), (0, -1, 0))
    ),
    "use_mask, z-score": Kind((Spec(channels=("MRI",), schemes=("ZScoreNormalization",), use_mask=True),), zeros=True),
    "two channels, z-score and none": Kind(
        (Spec(channels=("MRI", "map"), schemes=("ZScoreNormalization", "NoNormalization")),), scale=(0.01, 1.0)
    ),
    "rescale to 0..1": Kind((Spec(channels=("a",), schemes=("RescaleTo01Normalization",)),)),
    "RGB to 0..1": Kind((Spec(channels=("a",), schemes=("RGBTo01Normalization",)),), scale=(0.1, 120.0)),
    "ignore label": Kind((Spec(labels={**numbered(4), "ignore": 4}),)),
    "mirrored along one axis only": Kind((Spec(mirror_axes=(2,)),)),
    "random weights": Kind((Spec(steps=0),)),
}


def write_scan(kind: Kind, folder: Path) -> Path:
    """The scan of a kind, one file per channel, as stored in the order its axes say."""
    folder.mkdir(parents=True)
    first = kind.specs[0]
    image, _ = body(kind.shape, organs=3 if len(first.labels) < 100 else 117, seed=3)
    image = image * kind.scale[0] + kind.scale[1]
    if kind.zeros:
        image[image < -500] = 0
    if "RGBTo01Normalization" in first.schemes:
        image = np.clip(image, 0, 255).round()
    affine = np.eye(4)
    affine[:3, :3] = np.array(kind.axes, float) * np.array(kind.spacing[::-1])
    for i in range(len(first.channels)):
        stored = nibabel.Nifti1Image((image * (1 - 0.3 * i)).astype(np.float32).transpose(2, 1, 0), affine)
        nibabel.save(stored, folder / f"scan_{i:04d}.nii.gz")
    return folder


def jobs_of(number: int, kind: Kind, work: Path) -> list[dict[str, Any]]:
    """What nnU-Net's environment has to do for a kind."""
    folder, before, made = work / str(number), None, []
    write_scan(kind, folder / "scans")
    for i, spec in enumerate(kind.specs):
        others = kind.specs[:i] + kind.specs[i + 1 :]
        made.append(job(folder / "models", spec, *others) | {"scans": str(folder / "scans"), "before": before})
        before = made[-1]["out"] = str(folder / f"nnunet_{spec.name}")
    return made


def compare(name: str, kind: Kind, folder: Path) -> tuple[object, ...]:
    """One row: how far our labels are from nnU-Net's."""
    last = kind.specs[-1]
    theirs, source = folder / f"nnunet_{last.name}", folder / "models"
    package = import_nnunet(source if len(kind.specs) > 1 else source / last.folder, folder / "model.a3d")
    cells: list[object] = []
    for precision in ("fp32", "auto"):
        scans = find_scans(folder / "scans", num_channels=len(last.channels))
        options = PredictOptions(precision=precision, configurations=(last.name,), device="cpu")
        results = predict_scans(scans, package, folder / precision, options)
        if results[0].cause:
            return (name, "failed", results[0].cause)
        cells += [f"{value:.6f}" for value in agreement(folder / precision, theirs)[:2]] + [agreement(folder / precision, theirs)[2]]
    values = len(np.unique(np.asarray(nibabel.load(theirs / "scan.nii.gz").dataobj)))
    return (name, f"{values} of {len(last.labels)}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=tuple(KINDS))
    chosen = parser.parse_args()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(chosen.work)
    kinds = {name: KINDS[name] for name in chosen.only}
    jobs = [one for number, kind in enumerate(kinds.values()) for one in jobs_of(number, kind, chosen.work)]
    sys.stderr.write(carry_out(chosen.nnunet, jobs, chosen.work / "jobs.json", "go on"))
    rows = []
    for number, (name, kind) in enumerate(kinds.items()):
        try:
            rows.append(compare(name, kind, chosen.work / str(number)))
        except Exception as error:
            rows.append((name, "failed", " ".join(str(error).split())[-400:]))
        sys.stderr.write(f"{rows[-1]}\n")
    columns = ("kind", "values found", "equal, fp32", "lowest Dice", "differ", "equal, auto", "lowest Dice", "differ")
    table(columns, rows)


if __name__ == "__main__":
    main()
