"""Prediction killed without warning: 10 scans, SIGKILL at random moments, then the same command once more.

    python benchmarks/predict_kills.py [--kills 50] [--scans 10]

After every kill: no half-written file under a final name; the rerun completes; its files are, byte for byte, those of a run
that was never killed; nothing that was finished (its record was on disk) is computed again; no temporary file is left.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoseg3d.geometry import Geometry
from autoseg3d.io import find_scans, write_image
from autoseg3d.networks import build
from autoseg3d.package import add_fold, create_package
from autoseg3d.prediction import PredictOptions, predict_scans
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics
from planners.labels import Label, LabelTable
from planners.plan import Configuration, NetworkPlan, Plan, Stage

SHAPE = (28, 40, 32)
OPTIONS = PredictOptions(device="cpu", precision="fp32", save_probabilities=True, uncertainty=True, mirror=False)


def make(folder: Path, scans: int) -> None:
    """A two-fold model with random weights, and scans."""
    statistics = IntensityStatistics(mean=0, median=0, std=1, min=-5, max=5, percentile_00_5=-4, percentile_99_5=4)
    stages = tuple(Stage(features=f, kernel=(3, 3, 3), stride=(s, s, s), blocks=1) for f, s in ((4, 1), (8, 2)))
    configuration = Configuration(
        spacing_mm=(1.2, 1.2, 1.2),
        median_shape=(40.0, 50.0, 40.0),
        patch_size=(16, 24, 24),
        batch_size=2,
        network=NetworkPlan(architecture="unet", stages=stages, decoder_blocks=(1,)),
        normalization=("zscore",),
        use_mask_for_norm=(False,),
    )
    labels = LabelTable(labels=tuple(Label(name=f"label {k}", values=(k,), paint=k) for k in (1, 2, 3)))
    plan = Plan(
        planner="benchmark",
        dataset_name="Kills",
        orientation="canonical",
        axis_order=(0, 1, 2),
        mirror_axes=(0, 1, 2),
        channel_names=("MR",),
        labels=labels,
        intensities=(statistics,),
        configurations={"3d_fullres": configuration},
    )
    known = CaseFingerprint(
        id="a", shape=SHAPE, shape_after_crop=SHAPE, spacing_mm=(1.0, 1.0, 1.0), orientation="RAS", relative_size_after_crop=1
    )
    fingerprint = Fingerprint(
        dataset_name="Kills",
        channel_names=("MR",),
        labels=labels,
        num_training=1,
        cases=(known,),
        intensities=(statistics,),
        median_relative_size_after_crop=1,
    )
    create_package(folder / "model", plan, fingerprint)
    for fold in ("0", "1"):
        network = build(configuration.network, 1, labels.num_classes, seed=int(fold))
        generator = torch.Generator().manual_seed(int(fold))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        add_fold(folder / "model", configuration="3d_fullres", fold=fold, weights=network.state_dict(), scores={})
    for i in range(scans):
        coarse = torch.randn((1, 1, 7, 10, 8), generator=torch.Generator().manual_seed(i))
        image = nn.functional.interpolate(coarse, size=SHAPE, mode="trilinear")[0, 0].numpy()
        write_image(folder / "scans" / f"scan_{i}.nii.gz", image, Geometry.from_affine(SHAPE, np.eye(4)))


def outputs(out: Path) -> dict[str, str]:
    """SHA-256 of every label map, probability and entropy file under its final name."""
    files = [path for path in sorted(out.glob("*")) if path.name.endswith((".nii.gz", ".npz")) and not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def started(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "child", str(folder), str(out)])


def child(folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    predict_scans(find_scans(folder / "scans", num_channels=1), folder / "model", out, OPTIONS)


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--scans", type=int, default=10)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    torch.set_num_threads(1)
    faults: list[str] = []
    kept = begun_scans = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, chosen.scans)
        begun = time.perf_counter()
        if started(folder, folder / "clean").wait():
            raise SystemExit("the run that nobody killed failed")
        whole = time.perf_counter() - begun
        expected = outputs(folder / "clean")
        moments = rng.uniform(0.25 * whole, whole, chosen.kills)
        for number, moment in enumerate(moments):
            out = folder / f"out_{number}"
            process = started(folder, out)
            time.sleep(float(moment))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            recorded = {path.stem for path in out.glob("scan_*.json")}
            begun_scans += bool(recorded) and len(recorded) < chosen.scans
            faults += [f"kill {number}: {name} is not whole" for name, digest in outputs(out).items() if expected[name] != digest]
            results = predict_scans(find_scans(folder / "scans", num_channels=1), folder / "model", out, OPTIONS)
            reused = {result.case for result in results if result.reused}
            kept += len(reused)
            faults += [f"kill {number}: {case} was finished and computed again" for case in sorted(recorded - reused)]
            faults += [f"kill {number}: {result.case} {result.cause}" for result in results if result.status == "failed"]
            if outputs(out) != expected:
                faults.append(f"kill {number}: other bytes than without a kill")
            if any(out.glob(".tmp-*")):
                faults.append(f"kill {number}: a temporary file is left")
    between = f"between {moments.min():.1f} and {moments.max():.1f} s of a run of {whole:.1f} s"
    halfway = f"{begun_scans} of them with some scans finished and some not"
    sys.stdout.write(f"{chosen.kills} kills {between}, {halfway}; {kept} finished scans kept; {len(faults)} faults\n")
    for fault in faults:
        sys.stdout.write(f"{fault}\n")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
