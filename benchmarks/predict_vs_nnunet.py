"""Whole prediction on a CPU, start-up counted: an nnU-Net model imported, against nnU-Net's own command on the same scans.

    python benchmarks/predict_vs_nnunet.py --nnunet PYTHON --work FOLDER [--only hippocampus acdc ct] [--repeats 3]
        [--hippocampus-model FOLDER --hippocampus-scans FOLDER] [--acdc-scans FOLDER]

`--nnunet` names the Python of an environment in which nnU-Net 2 is installed. The ways are run in turn, `--repeats` times;
medians, and the share of equal labels beside every ratio. `ct` and `acdc` use networks that nnU-Net's code made and fitted
for a minute: the layout is nnU-Net's, the width a half (ACDC: 16 features at first) or a quarter (CT: 8) of its own, so that
a run ends in minutes. Pin the whole script to have all ways on the same cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from peer_models import Spec, body, carry_out, job, numbered
from running import KEEP_PAGES, Run, agreement, nnunet_command, nnunet_environment, our_command, run, table

from autoseg3d.import_nnunet import import_nnunet

CT = Spec(
    patch=(96, 128, 128),
    spacing=(2.25, 2.25, 2.25),
    features=(8, 16, 32, 64, 80),
    strides=((1, 1, 1), *((2, 2, 2),) * 4),
    kernels=((3, 3, 3),) * 5,
    blocks=(2,) * 5,
    decoder_blocks=(2,) * 4,
    labels=numbered(15),
    steps=150,
)
ACDC = Spec(
    patch=(10, 256, 224),
    spacing=(10.0, 1.5625, 1.5625),
    features=(16, 32, 64, 128, 160, 160),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), *((1, 2, 2),) * 3),
    kernels=((1, 3, 3), (1, 3, 3), *((3, 3, 3),) * 4),
    blocks=(2,) * 6,
    decoder_blocks=(2,) * 5,
    labels=numbered(4),
    channels=("MRI",),
    schemes=("ZScoreNormalization",),
    steps=60,
)


@dataclass(frozen=True)
class Task:
    """A model folder of nnU-Net, its folds, and a folder of scans."""

    name: str
    model: Path
    folds: tuple[str, ...]
    scans: Path


def prepared(chosen: argparse.Namespace) -> list[Task]:
    """The tasks asked for; what has to be made is made once and kept in the work folder."""
    work, tasks = chosen.work, []
    if "hippocampus" in chosen.only:
        scans = _linked(sorted(chosen.hippocampus_scans.glob("*_0000.nii.gz"))[:10], work / "hippocampus_scans")
        tasks.append(Task("Hippocampus, 10 scans", chosen.hippocampus_model, ("fold_0", "fold_1"), scans))
    if "acdc" in chosen.only:
        scans = _linked(sorted(chosen.acdc_scans.glob("*_0000.nii.gz"))[:3], work / "acdc_scans")
        tasks.append(Task("ACDC-like, 3 scans", _made(chosen.nnunet, work / "acdc_model", ACDC), ACDC.folds, scans))
    if "ct" in chosen.only:
        tasks.append(Task("CT-like 256×256×200", _made(chosen.nnunet, work / "ct_model", CT), CT.folds, _ct(work / "ct_scans")))
    return tasks


def _linked(scans: list[Path], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for scan in scans:
        if not (folder / scan.name).exists():
            shutil.copy(scan, folder)
    return folder


def _made(python: str, folder: Path, spec: Spec) -> Path:
    if not (folder / spec.folder / spec.folds[-1]).exists():
        carry_out(python, [job(folder, spec)], folder.parent / f"{folder.name}_jobs.json")
    return folder / spec.folder


def _ct(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ct_0000.nii.gz"
    if not path.exists():
        image, _ = body((200, 256, 256), organs=14, seed=7)
        nibabel.save(nibabel.Nifti1Image(np.round(image).astype(np.int16).transpose(2, 1, 0), np.diag([1.5, 1.5, 1.5, 1.0])), path)
    return folder


def compare(task: Task, chosen: argparse.Namespace) -> None:
    """Runs every way `repeats` times in turn and prints medians, ratios and agreement."""
    folder = chosen.work / task.model.parent.name / "out"
    package = chosen.work / f"{task.scans.name}.a3d"
    package.unlink(missing_ok=True)
    import_nnunet(task.model, package)
    variables = nnunet_environment(chosen.work)
    theirs = {"nnU-Net": variables, "nnU-Net, malloc set": variables | KEEP_PAGES}
    extra = {"fp32": ("--precision", "fp32"), "bf16": ("--precision", "bf16"), "openvino": ("--backend", "openvino")}
    ours = {"autoseg3d": (), **{f"autoseg3d, {name}": extra[name] for name in chosen.also}}
    found: dict[str, list[Run]] = {name: [] for name in (*theirs, *ours)}
    for _ in range(chosen.repeats):
        for name in found:
            out = folder / name.replace(" ", "_")
            shutil.rmtree(out, ignore_errors=True)
            if name in theirs:
                found[name].append(run(nnunet_command(chosen.nnunet, task.model, task.scans, out, task.folds), environment=theirs[name]))
            else:
                found[name].append(run(our_command(package, task.scans, out, *ours[name])))
    rows = []
    base = {name: statistics.median(r.wall for r in found[name]) for name in theirs}
    for name, runs in found.items():
        wall = statistics.median(r.wall for r in runs)
        spread = f"{min(r.wall for r in runs):.1f} to {max(r.wall for r in runs):.1f}"
        equal, lowest, differ = agreement(folder / name.replace(" ", "_"), folder / "nnU-Net")
        ratios = [f"{base[other] / wall:.2f}×" for other in theirs]
        cpu, peak = statistics.median(r.cpu for r in runs), max(r.peak for r in runs)
        rows.append((name, f"{wall:.1f}", spread, f"{cpu:.1f}", *ratios, f"{peak:.2f}", f"{equal:.6f}", f"{lowest:.4f}", differ))
    sys.stdout.write(f"\n{task.name}\n\n")
    columns = (
        "way",
        "wall s",
        "spread",
        "CPU s",
        "faster than nnU-Net",
        "with malloc",
        "peak GiB",
        "equal labels",
        "lowest Dice",
        "voxels that differ",
    )
    table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=("hippocampus", "acdc", "ct"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--also", nargs="+", default=(), help="of fp32, bf16, openvino: ways of ours besides the default")
    for name in ("--hippocampus-model", "--hippocampus-scans", "--acdc-scans"):
        parser.add_argument(name, type=Path)
    chosen = parser.parse_args()
    for task in prepared(chosen):
        compare(task, chosen)


if __name__ == "__main__":
    main()
