"""Prediction killed without warning: 10 scans, SIGKILL at random moments, then the same command once more.

    python benchmarks/predict_kills.py [--kills 50] [--scans 10] [--seed 0]

After every kill: no half-written file under a final name; the rerun completes; its files are, byte for byte, those of a run
that was never killed; nothing that was finished (its record was on disk) is computed again; no temporary file is left.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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


def started(folder: Path, out: Path) -> tuple[Any, Any]:
    """A process that predicts, forked so that nothing is loaded anew, and the end of a pipe that gets its results."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(folder, out, theirs))
    process.start()
    theirs.close()
    return process, ours


def child(folder: Path, out: Path, pipe: Any) -> None:
    """Predicts all scans and tells of each what became of it."""
    results = predict_scans(find_scans(folder / "scans", num_channels=1), folder / "model", out, OPTIONS)
    pipe.send([(result.case, result.status, result.reused, result.cause) for result in results])


def finish(folder: Path, out: Path) -> list[tuple[str, str, bool, str | None]]:
    """The results of a run that nobody kills. Raises RuntimeError where it fails."""
    process, pipe = started(folder, out)
    results: list[tuple[str, str, bool, str | None]] = pipe.recv()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a run that nobody killed ended with {process.exitcode}")
    return results


def one_kill(folder: Path, out: Path, moment: float, expected: dict[str, str]) -> tuple[set[str], set[str], list[str]]:
    """The scans recorded at the kill, those that the second run kept, and what was wrong."""
    process, _ = started(folder, out)
    time.sleep(moment)
    process.kill()
    process.join()
    recorded = {path.stem for path in out.glob("scan_*.json")}
    wrong = [f"{name} is not whole" for name, digest in outputs(out).items() if expected[name] != digest]
    results = finish(folder, out)
    reused = {case for case, _, kept, _ in results if kept}
    wrong += [f"{case} was finished and computed again" for case in sorted(recorded - reused)]
    wrong += [f"{case} {cause}" for case, status, _, cause in results if status == "failed"]
    wrong += [] if outputs(out) == expected else ["other bytes than without a kill"]
    wrong += ["a temporary file is left"] if any(out.glob(".tmp-*")) else []
    shutil.rmtree(out)
    return recorded, reused, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no kill after this time")
    chosen = parser.parse_args()
    rng, began = np.random.default_rng(chosen.seed), time.monotonic()
    torch.set_num_threads(1)  # threads of this process would not live on in those that are forked from it
    faults: list[str] = []
    kills = kept = between = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, chosen.scans)
        finish(folder, folder / "first")
        begun = time.perf_counter()
        finish(folder, folder / "clean")
        whole, expected = time.perf_counter() - begun, outputs(folder / "clean")
        while kills < chosen.kills and time.monotonic() - began < chosen.seconds:
            recorded, reused, wrong = one_kill(folder, folder / "out", float(rng.uniform(0, whole)), expected)
            faults += [f"kill {kills}: {fault}" for fault in wrong]
            kills, kept, between = kills + 1, kept + len(reused), between + (0 < len(recorded) < chosen.scans)
    halfway = f"{between} of them with some scans finished and some not"
    sys.stdout.write(f"{kills} kills within a run of {whole:.1f} s, {halfway}; {kept} finished scans kept; {len(faults)} faults\n")
    sys.stdout.writelines(f"{fault}\n" for fault in faults)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
