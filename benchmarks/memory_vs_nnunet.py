"""Memory and time of one long scan, 512×512×600 at 0.8×0.8×1 mm, against nnU-Net: the same weights of 25 classes, imported.

    python benchmarks/memory_vs_nnunet.py --nnunet PYTHON --work FOLDER [--most 17] [--repeats 1]

Both ways are whole commands with their defaults on the CPU, start-up counted; memory is that of the process and its children,
looked at once a second. The working grid is 1.5 mm (400×273×273), the patch 128³; the network has nnU-Net's layout, two stages
and no mirrored copies, so that a run takes minutes. A way that comes to hold more than `--most` GiB is killed rather than let
the machine swap, and its row says how far it had come.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from pathlib import Path

from memory import write_scan
from peer_models import Spec, carry_out, job, numbered
from running import Run, agreement, nnunet_command, nnunet_environment, our_command, run, table

from autoseg3d.import_nnunet import import_nnunet

SHAPE, SPACING = (600, 512, 512), (1.0, 0.8, 0.8)
MODEL = Spec(
    patch=(128, 128, 128),
    features=(16, 32),
    strides=((1, 1, 1), (2, 2, 2)),
    kernels=((3, 3, 3),) * 2,
    blocks=(1, 1),
    decoder_blocks=(1,),
    labels=numbered(25),
    mirror_axes=None,
    trainer="nnUNetTrainerNoMirroring",
    steps=60,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--most", type=float, default=17.0, help="GiB that a command may hold")
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args()
    scans, model, package = chosen.work / "scans", chosen.work / "model" / MODEL.folder, chosen.work / "model.a3d"
    scans.mkdir(parents=True, exist_ok=True)
    if not (scan := scans / "scan_0000.nii.gz").exists():
        write_scan(scan, SHAPE, SPACING)
    if not (model / MODEL.folds[-1]).exists():
        carry_out(chosen.nnunet, [job(chosen.work / "model", MODEL)], chosen.work / "jobs.json")
    package.unlink(missing_ok=True)
    import_nnunet(model, package)
    outs = {name: chosen.work / f"out_{name}" for name in ("autoseg3d", "nnU-Net")}
    found: dict[str, list[Run]] = {name: [] for name in outs}
    for _ in range(chosen.repeats):
        for name, out in outs.items():
            shutil.rmtree(out, ignore_errors=True)
            if name == "nnU-Net":
                command, variables = nnunet_command(chosen.nnunet, model, scans, out, MODEL.folds), nnunet_environment(chosen.work)
            else:
                command, variables = our_command(package, scans, out), {}
            found[name].append(run(command, environment=variables, most_gib=chosen.most))
    rows = []
    for name, runs in found.items():
        wall, cpu = statistics.median(r.wall for r in runs), statistics.median(r.cpu for r in runs)
        killed = sum(r.stopped for r in runs)
        rows.append((name, f"{wall:.0f}", f"{cpu:.0f}", f"{max(r.peak for r in runs):.2f}", f"{killed} of {len(runs)}"))
    table(("way", "wall s", "CPU s", "peak GiB", f"killed at {chosen.most:g} GiB"), rows)
    if not any(r.stopped for runs in found.values() for r in runs):
        equal, lowest, differ = agreement(outs["autoseg3d"], outs["nnU-Net"])
        sys.stdout.write(f"equal labels {equal:.7f}, lowest Dice {lowest:.4f}, {differ} voxels differ\n")


if __name__ == "__main__":
    main()
