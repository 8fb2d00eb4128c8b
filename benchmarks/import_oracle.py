"""Every kind of nnU-Net model that can be imported, predicted by nnU-Net and by us, label by label.

    python benchmarks/import_oracle.py --nnunet PYTHON --work FOLDER [--only NAME …] [--results FILE]

nnU-Net's own code builds each network, fits it for some steps and predicts one synthetic scan in its own environment, with and
without mirrored copies; the folder is then imported and predicted in the same two ways at the default precision, and once in float32.
Rows are added to FILE, so that many kinds can be done in pieces; without --only those that are missing there are done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
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
DATASET = "Dataset901_Synthetic"
_COS, _SIN = math.cos(0.3), math.sin(0.3)
TILTED = ((_COS, -_SIN, 0.0), (_SIN, _COS, 0.0), (0.0, 0.0, 1.0))
LOW = Spec(name="3d_lowres", spacing=(3.0, 3.0, 3.0), patch=(24, 24, 24))


@dataclass(frozen=True)
class Kind:
    """A model and the scan it is tried on.

    affine   rows of the scan's affine, which say how it is stored; spacing z, y, x otherwise
    zeros    air is 0, as in skull-stripped scans
    """

    specs: tuple[Spec, ...]
    spacing: tuple[float, float, float] = (2.0, 1.4, 1.4)
    shape: tuple[int, int, int] = (36, 52, 48)
    axes: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
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
    "cascade of regions": Kind(
        tuple(
            replace(spec, labels=REGIONS, regions_class_order=(1, 2, 3))
            for spec in (LOW, Spec(name="3d_cascade_fullres", previous_stage="3d_lowres"))
        )
    ),
    "regions": Kind((Spec(labels=REGIONS, regions_class_order=(1, 2, 3)),)),
    "regions in another order, ignore label": Kind(
        (Spec(labels={"background": 0, "top": 3, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}, regions_class_order=(2, 1, 3)),)
    ),
    "labels listed in another order": Kind((Spec(labels={"background": 0, "c": 3, "a": 1, "b": 2}),)),
    "ignore label": Kind((Spec(labels={**numbered(4), "ignore": 4}),)),
    "fold_all": Kind((Spec(folds=("fold_all",)),)),
    "zip exported by nnU-Net, five folds": Kind((Spec(folds=tuple(f"fold_{k}" for k in range(5)), steps=30, zipped=True),)),
    "plans before 2.4, prefix module.": Kind((Spec(old=True, prefix="module."),)),
    "residual encoder before 2.4, prefix _orig_mod.": Kind(
        (Spec(old=True, kind="ResidualEncoderUNet", blocks=(1, 2, 2), decoder_blocks=(1, 1), prefix="_orig_mod."),)
    ),
    "2d before 2.4, prefix module._orig_mod.": Kind((flat(old=True, prefix="module._orig_mod."),)),
    "118 classes, never mirrored": Kind(
        (
            Spec(
                labels=numbered(118),
                steps=100,
                features=(16, 32, 64),
                old=True,
                trainer="nnUNetTrainerNoMirroring",
                mirror_axes=None,
            ),
        )
    ),
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
    "transposed axes, 2d": Kind((flat(transpose=(1, 0, 2)),), spacing=(1.4, 4.0, 1.4), shape=(66, 22, 72)),
    "anisotropic, logits not interpolated along z": Kind(
        (Spec(spacing=(6.0, 1.2, 1.2), patch=(8, 48, 48), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))),),
        spacing=(7.0, 1.4, 1.4),
        shape=(14, 72, 66),
    ),
    "anisotropic scan, isotropic model": Kind((Spec(),), spacing=(6.0, 1.4, 1.4), shape=(17, 72, 66)),
    "scan finer than the model": Kind((Spec(spacing=(3.0, 3.0, 3.0), patch=(16, 32, 32)),), spacing=(1.0, 0.9, 0.9), shape=(71, 95, 87)),
    "scan on the model's grid": Kind((Spec(),), spacing=(1.5, 1.5, 1.5)),
    "scan smaller than the patch, odd sizes": Kind((Spec(),), shape=(13, 21, 17)),
    "scan of three slices, 2d": Kind((flat(),), shape=(3, 72, 66)),
    "scan stored as PIL": Kind((Spec(),), axes=((0, 0, -1), (-1, 0, 0), (0, -1, 0))),
    "reader of nibabel, scan stored as RSP": Kind((Spec(reader="NibabelIO"),), axes=((1, 0, 0), (0, 0, -1), (0, 1, 0))),
    "oblique scan": Kind((Spec(),), axes=TILTED),
    "reader that turns to RAS, scan stored as PIL": Kind(
        (Spec(reader="NibabelIOWithReorient"),), axes=((0, 0, -1), (-1, 0, 0), (0, -1, 0))
    ),
    "SimpleITK reader that turns to RAS, scan stored as PIL": Kind(
        (Spec(reader="SimpleITKIOWithReorient"),), axes=((0, 0, -1), (-1, 0, 0), (0, -1, 0))
    ),
    "use_mask, z-score": Kind((Spec(channels=("MRI",), schemes=("ZScoreNormalization",), use_mask=True),), zeros=True),
    "use_mask, z-score, cascade": Kind(
        tuple(
            replace(spec, channels=("MRI",), schemes=("ZScoreNormalization",), use_mask=True)
            for spec in (LOW, Spec(name="3d_cascade_fullres", previous_stage="3d_lowres"))
        ),
        zeros=True,
    ),
    "five channels, every normalisation": Kind(
        (
            Spec(
                channels=("CT", "MRI", "map", "share", "colour"),
                schemes=(
                    "CTNormalization",
                    "ZScoreNormalization",
                    "NoNormalization",
                    "RescaleTo01Normalization",
                    "RGBTo01Normalization",
                ),
            ),
        ),
        scale=(0.05, 60.0),
    ),
    "two channels, z-score and none": Kind(
        (Spec(channels=("MRI", "map"), schemes=("ZScoreNormalization", "NoNormalization")),), scale=(0.01, 1.0)
    ),
    "rescale to 0..1": Kind((Spec(channels=("a",), schemes=("RescaleTo01Normalization",)),)),
    "RGB to 0..1": Kind((Spec(channels=("a",), schemes=("RGBTo01Normalization",)),), scale=(0.1, 120.0)),
    "mirrored along one axis only": Kind((Spec(mirror_axes=(2,)),)),
    "norms without scale, convolutions without bias, dropout": Kind(
        (
            Spec(
                layers={
                    "conv_bias": False,
                    "norm_op_kwargs": {"eps": 1e-5},
                    "dropout_op": "torch.nn.modules.dropout.Dropout3d",
                    "dropout_op_kwargs": {"p": 0.2},
                }
            ),
        )
    ),
    "postprocessing.json": Kind((Spec(steps=20, keep=([1, 2, 3], [2])),)),
    "random weights": Kind((Spec(steps=0),)),
    "random weights, residual encoder of five stages": Kind(
        (
            Spec(
                steps=0,
                kind="ResidualEncoderUNet",
                features=(16, 32, 64, 64, 64),
                strides=((1, 1, 1), *((2, 2, 2),) * 4),
                kernels=((3, 3, 3),) * 5,
                blocks=(1, 3, 4, 6, 6),
                decoder_blocks=(1, 1, 1, 1),
                folds=("fold_0", "fold_1"),
            ),
        )
    ),
}


def write_scan(kind: Kind, folder: Path) -> Path:
    """The scan of a kind, one file per channel, as stored in the order its axes say."""
    folder.mkdir(parents=True)
    first = kind.specs[0]
    image, _ = body(kind.shape, organs=3 if len(first.labels) < 100 else 117, seed=3)
    image = image * kind.scale[0] + kind.scale[1]
    if kind.zeros:
        image[image < -500] = 0
    affine = np.eye(4)
    affine[:3, :3] = np.array(kind.axes, float) * np.array(kind.spacing[::-1])
    for i, scheme in enumerate(first.schemes):
        channel = image * (1 - 0.1 * i)
        if scheme == "RGBTo01Normalization":
            channel = np.clip(channel, 0, 255).round()
        stored = nibabel.Nifti1Image(channel.astype(np.float32).transpose(2, 1, 0), affine)
        nibabel.save(stored, folder / f"scan_{i:04d}.nii.gz")
    return folder


def jobs_of(kind: Kind, folder: Path) -> list[dict[str, Any]]:
    """What nnU-Net's environment has to do for a kind."""
    before, made = None, []
    write_scan(kind, folder / "scans")
    for i, spec in enumerate(kind.specs):
        others = kind.specs[:i] + kind.specs[i + 1 :]
        made.append(job(folder / "results" / DATASET, spec, *others) | {"scans": str(folder / "scans"), "before": before})
        before = made[-1]["out"] = str(folder / f"nnunet_{spec.name}")
    return made


def compare(kind: Kind, folder: Path) -> list[object]:
    """Label values that nnU-Net found, and for each way of predicting: lowest Dice, voxels that differ, gap of probabilities."""
    last = kind.specs[-1]
    source = folder / "results" / ("exported.zip" if last.zipped else DATASET)
    package = import_nnunet(source, folder / "model.a3d")
    cells: list[object] = []
    for way, precision in (("mirrored", "auto"), ("plain", "auto"), ("mirrored", "fp32")):
        out, theirs = folder / f"{way}_{precision}", folder / f"nnunet_{last.name}" / way
        scans = find_scans(folder / "scans", num_channels=len(last.channels))
        options = PredictOptions(
            precision=precision, mirror=way == "mirrored", configurations=(last.name,), device="cpu", save_probabilities=True
        )
        results = predict_scans(scans, package, out, options)
        if results[0].cause:
            raise RuntimeError(results[0].cause)
        _, lowest, differ = agreement(out, theirs)
        cells += [f"{lowest:.4f}", differ, gap(out / "scan.npz", theirs / "scan.npz")]
    values = len(np.unique(np.asarray(nibabel.load(folder / f"nnunet_{last.name}" / "mirrored" / "scan.nii.gz").dataobj)))
    used = json.loads((folder / "mirrored_auto" / "scan.json").read_text())["precision"]
    return [f"{values} of {len(last.labels)}", used, *cells]


def gap(ours: Path, theirs: Path) -> str:
    """Largest gap of probabilities in all but one of 10,000 voxels, and the share of voxels in which one is above 0.005.

    "turned" where they cannot be compared voxel by voxel.
    """
    a, b = (np.load(path)["probabilities"] for path in (ours, theirs))
    if a.shape != b.shape:
        return "turned"  # readers that turn scans write nnU-Net's probabilities as turned
    difference = np.abs(a - b).max(axis=0)
    return f"{np.quantile(difference, 0.9999):.4f}, {(difference > 5e-3).mean():.2%}"


def one(name: str, folder: Path) -> list[object]:
    """The row of a kind; what went wrong where something did."""
    try:
        return [name, *compare(KINDS[name], folder)]
    except Exception as error:
        return [name, "failed", " ".join(str(error).split())[-600:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS))
    parser.add_argument("--results", type=Path, help="file of rows, one JSON list per line")
    chosen = parser.parse_args()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(chosen.work)
    results = chosen.results or chosen.work / "results.jsonl"
    chosen.work.mkdir(parents=True, exist_ok=True)
    rows = {row[0]: row for row in map(json.loads, results.read_text().splitlines())} if results.exists() else {}
    todo = {name: chosen.work / str(number) for number, name in enumerate(KINDS) if name in (chosen.only or KINDS.keys() - rows.keys())}
    for folder in todo.values():
        shutil.rmtree(folder, ignore_errors=True)
    jobs = [each for name, folder in todo.items() for each in jobs_of(KINDS[name], folder)]
    said = carry_out(chosen.nnunet, jobs, chosen.work / f"jobs_{os.getpid()}.json", "go on")
    sys.stderr.write("".join(f"{line}\n" for line in said.splitlines() if "rror" in line))
    for name, folder in todo.items():
        rows[name] = one(name, folder)
        sys.stderr.write(f"{rows[name]}\n")
        with open(results, "a") as file:
            file.write(f"{json.dumps(rows[name])}\n")
    ways = [f"{way}: {what}" for way in ("default", "no mirrors", "fp32") for what in ("lowest Dice", "voxels", "probabilities")]
    table(("kind", "values found", "precision", *ways), list(rows.values()))


if __name__ == "__main__":
    main()
