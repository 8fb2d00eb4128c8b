"""What is promised of faulty scans, failing disks, many processes and turned patients, tried at full counts.

    python benchmarks/reliability.py [batch disk processes json crafted orientations sound] [--rounds 50]

batch         100 scans, 30 of them with a fault each: the others come out as in a clean run, each fault by its code, exit 3
disk          saving, predicting, packing and planning while the n-th write, sync or rename fails, for every n (failing_disk.py)
processes     16 processes at once on one folder of a run, one model and one folder of results (many_processes.py)
json          2,000 spoilt JSON files of eleven kinds: each is read as something valid or refused with file and cause
crafted       models, archives, weights and checkpoints made to harm: nothing is run, nothing is written outside, clear refusals
orientations  48 axis orders × 5 obliquities of one patient: the same organs on each scan's own grid
sound         500 fine scans of all kinds: none is refused

Other scripts count kills (predict_kills.py, plan_kills.py, resume.py) and fuzz readers (fuzz_readers.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
from crafted_files import CRAFTED, fate
from faulty_scans import FAULTS, nifti, sound
from json_mutations import mutated, subjects, verdict
from many_processes import run_rounds

from autoseg3d.doctor.golden import SHAPE, SPACING_MM, golden_image, golden_truth, write_golden_package
from autoseg3d.doctor.prediction import compare
from autoseg3d.errors import Autoseg3dError
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import find_scans, load_case, read_volume
from autoseg3d.prediction import PredictOptions, predict_scans

OPTIONS = PredictOptions(device="cpu", precision="fp32", mirror=False)
CLI = [sys.executable, "-m", "autoseg3d"]


def predict_command(scans: Path, model: Path, out: Path) -> list[str]:
    return [*CLI, "predict", str(scans), "--model", str(model), "--out", str(out), "--device", "cpu", "--precision", "fp32", "--no-mirror"]


def labels(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.nii.gz")}


def batch(folder: Path, rounds: int) -> str:
    """100 scans, 30 faulty."""
    write_golden_package(folder / "model")
    for name in ("clean", "mixed"):
        (folder / name).mkdir()
        for seed in range(70):
            sound(seed)(folder / name / f"good_{seed:02d}")
    for index, fault in enumerate(FAULTS[:30]):
        fault.write(folder / "mixed" / f"bad_{index:02d}")
    subprocess.run(predict_command(folder / "clean", folder / "model", folder / "out_clean"), check=True, capture_output=True)
    done = subprocess.run(predict_command(folder / "mixed", folder / "model", folder / "out"), check=False, capture_output=True)
    cases = {case["case"]: case for case in json.loads((folder / "out" / "results.json").read_text())["cases"]}
    right = sum(cases[f"bad_{index:02d}"]["code"] in fault.codes for index, fault in enumerate(FAULTS[:30]))
    clean, mixed = labels(folder / "out_clean"), labels(folder / "out")
    equal = sum(mixed.get(name) == data for name, data in clean.items())
    return f"{equal} of 70 outputs as in a clean run, {len(mixed) - equal} others; {right} of 30 right codes; exit {done.returncode}"


def disk(folder: Path, rounds: int) -> str:
    """Every write, sync and rename of saving, predicting, packing and planning fails once."""
    command = [sys.executable, str(Path(__file__).with_name("failing_disk.py"))]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip().replace("\n", "\n" + 14 * " ")


def processes(folder: Path, rounds: int) -> str:
    """16 processes at once on one folder of a run, and on one folder of results."""
    codes, faults = run_rounds(folder, rounds, processes=16)
    said = ", ".join(f"{count} times {code}" for code, count in sorted(codes.items()))
    return f"{rounds} rounds of 16: {said}; {len(faults)} faults {faults[:5] or ''}"


def json_files(folder: Path, rounds: int) -> str:
    """2,000 spoilt JSON files of all kinds."""
    found: dict[str, Counter[str]] = {}
    wrong = []
    made = subjects(folder)
    good = {subject.name: json.loads(subject.path.read_bytes()) for subject in made}
    for number in range(2000):
        subject = made[number % len(made)]
        said = verdict(subject, mutated(good[subject.name], random.Random(number)))
        found.setdefault(subject.name, Counter())[said if said in ("valid", "refused") else "wrong"] += 1
        wrong += [] if said in ("valid", "refused") else [f"{subject.name} {number}: {said}"]
    rows = [f"{name}: {counts['valid']} valid, {counts['refused']} refused, {counts['wrong']} wrong" for name, counts in found.items()]
    return f"\n{14 * ' '}".join([f"{len(wrong)} of 2000 neither valid nor refused by name", *rows, *wrong[:20]])


def crafted(folder: Path, rounds: int) -> str:
    """Models, archives, weights, checkpoints and JSON made to harm."""
    fates = {one.name: fate(one, folder / str(number)) for number, one in enumerate(CRAFTED)}
    wrong = [f"{name}: {', '.join(found.wrong)}" for name, found in fates.items() if found.wrong]
    rows = [f"{name}: {found.code or 'used, nothing was run'}" for name, found in fates.items()]
    return f"\n{14 * ' '}".join([f"{len(fates) - len(wrong)} of {len(fates)} did no harm", *wrong, *rows])


def orientations(folder: Path, rounds: int) -> str:
    """One patient stored in 240 ways."""
    write_golden_package(folder / "model")
    (folder / "scans").mkdir()
    turned = {}
    orders = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
    for tilt, (number, (axes, flips)) in itertools.product(range(5), enumerate(orders)):
        name = f"t{tilt}_{number:02d}"
        geometry = Geometry.from_affine(SHAPE, _tilted(tilt)).turned(axes, flips)
        image = turn(np.round(golden_image()).astype(np.int16), axes, flips)
        (folder / "scans" / f"{name}.nii").write_bytes(nifti(np.ascontiguousarray(image), geometry))
        turned[name] = (axes, flips)
    predict_scans(find_scans(folder / "scans", num_channels=1), folder / "model", folder / "out", OPTIONS)
    troubles = {}
    for name, (axes, flips) in turned.items():
        found = read_volume(folder / "out" / f"{name}.nii.gz", labels=True)
        said = compare(np.asarray(found.array), turn(golden_truth(), axes, flips))
        if said or not found.geometry.same_grid(read_volume(folder / "scans" / f"{name}.nii").geometry, 1e-6):
            troubles[name] = said
    return f"{len(turned) - len(troubles)} of {len(turned)} the same organs on the scan's own grid {troubles or ''}"


def _tilted(step: int) -> np.ndarray:
    """The golden grid turned by 10° times `step` about all three axes: one close to the next when axes swap their names."""
    angles = np.radians(10.0 * step) * np.array([1.0, 0.7, -0.5])
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (k for k in range(3) if k != axis)
        rotation = np.eye(3)
        rotation[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = rotation @ matrix
    return np.column_stack((matrix * SPACING_MM[::-1], (12.5, -80.25, 31.0)))


def sound_scans(folder: Path, rounds: int) -> str:
    """500 fine scans."""
    refused = []
    for seed in range(500):
        sound(seed)(folder / f"s{seed:03d}")
    for scan in find_scans(folder, num_channels=1):
        try:
            load_case(scan, labels=None)
        except Autoseg3dError as error:
            refused.append(str(error))
    return f"{len(refused)} of 500 refused {refused[:3] or ''}"


TRIALS: dict[str, Callable[[Path, int], str]] = {
    "batch": batch,
    "disk": disk,
    "processes": processes,
    "json": json_files,
    "crafted": crafted,
    "orientations": orientations,
    "sound": sound_scans,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", choices=[[], *TRIALS])
    parser.add_argument("--rounds", type=int, default=50, help="of processes")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in chosen.trials or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(f"{name:13} {TRIALS[name](Path(folder), chosen.rounds)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
