"""What is promised of faulty scans, failing disks, many processes and turned patients, tried at full counts.

    python benchmarks/reliability.py [batch disk processes orientations sound] [--rounds 50]

batch         100 scans, 30 of them with a fault each: the others come out as in a clean run, each fault by its code, exit 3
disk          `predict`, `package` and `plan` whose N-th sync or rename fails, for every N, and on disks of twelve sizes that are too
              small: nothing half visible, and the same command completes afterwards (Linux, root, with strace)
processes     16 processes at once on one folder of results, and on one model package; no corruption, no deadlock
orientations  48 axis orders × 5 obliquities of one patient: the same organs on each scan's own grid
sound         500 fine scans of all kinds: none is refused

Other scripts count kills (predict_kills.py, resume.py) and fuzz readers (fuzz_readers.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
from faulty_scans import FAULTS, nifti, sound

from autoseg3d.doctor.golden import SHAPE, SPACING_MM, golden_image, golden_truth, write_golden_package
from autoseg3d.doctor.prediction import compare
from autoseg3d.errors import Autoseg3dError
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io import find_scans, load_case, read_volume
from autoseg3d.package import open_package
from autoseg3d.phantom import write_phantom_dataset
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
    """Every write, sync and rename of three commands fails once."""
    if shutil.which("strace") is None:
        return "not tried: strace is not installed"
    write_golden_package(folder / "model")
    (folder / "scans").mkdir()
    sound(0)(folder / "scans" / "a")
    write_phantom_dataset(folder / "raw", cases=5, test_cases=0)
    trials = {
        "predict": (predict_command(folder / "scans", folder / "model", folder / "out"), folder / "out"),
        "package": ([*CLI, "package", str(folder / "model"), "-o", str(folder / "packed" / "m.a3d")], folder / "packed"),
        "plan": (
            [*CLI, "plan", str(folder / "raw"), "--run", str(folder / "run"), "--planner", "nnunet", "--workers", "1"],
            folder / "run",
        ),
    }
    return "; ".join(f"{name}: {_fail_each(command, target)}" for name, (command, target) in trials.items())


def _fail_each(command: Sequence[str], target: Path) -> str:
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(command, check=True, capture_output=True)
    whole, counts = _visible(target), Counter[str]()

    def judge(done: subprocess.CompletedProcess[str], partial: dict[str, bytes]) -> None:
        counts["trials"] += 1
        counts["half visible"] += any(len(data) != len(whole.get(name, data)) for name, data in partial.items() if data)
        counts[f"exit {done.returncode}"] += 1

    for call in ("fsync", "rename"):
        for number in range(1, _calls(command, call, target) + 1):
            shutil.rmtree(target, ignore_errors=True)
            judge(_traced(command, f"inject={call}:error=EIO:when={number}"), _visible(target))
            again = subprocess.run(command, check=False, capture_output=True)
            counts["completed afterwards"] += again.returncode == 0 and _visible(target).keys() == whole.keys()
    pages = 2 + sum(-(-len(data) // 4096) for data in whole.values())
    for size in np.unique(np.linspace(1, pages, 12).astype(int)):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * size}k", "none", str(target)], check=True)
        try:
            judge(subprocess.run(command, check=False, capture_output=True, text=True), _visible(target))
        finally:
            subprocess.run(["umount", str(target)], check=True)
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _visible(target: Path) -> dict[str, bytes]:
    """Files under their final names."""
    found = (path.relative_to(target) for path in sorted(target.rglob("*")) if path.is_file())
    return {str(path): (target / path).read_bytes() for path in found if not any(part.startswith(".") for part in path.parts)}


def _traced(command: Sequence[str], what: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(["strace", "-f", "-qq", "-e", what, *command], check=False, capture_output=True, text=True, env=environment)


def _calls(command: Sequence[str], call: str, target: Path) -> int:
    """How often a clean run of the command makes this call."""
    shutil.rmtree(target, ignore_errors=True)
    return len(re.findall(rf"\b{call}\(", _traced(command, f"trace={call}").stderr))


def processes(folder: Path, rounds: int) -> str:
    """16 processes on one folder of results and one model at once."""
    write_golden_package(folder / "model")
    (folder / "scans").mkdir()
    for seed in range(3):
        sound(seed)(folder / "scans" / f"s{seed}")
    subprocess.run(predict_command(folder / "scans", folder / "model", folder / "alone"), check=True, capture_output=True)
    expected, codes, corrupt = labels(folder / "alone"), Counter[int](), 0
    for _ in range(rounds):
        shutil.rmtree(folder / "out", ignore_errors=True)
        command = predict_command(folder / "scans", folder / "model", folder / "out")
        started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(16)]
        codes.update(process.wait(timeout=600) for process in started)
        subprocess.run(command, check=True, capture_output=True)
        corrupt += labels(folder / "out") != expected
        open_package(folder / "model")
    said = ", ".join(f"{count} times exit {code}" for code, count in sorted(codes.items()))
    return f"{rounds} rounds of 16: {said}; {corrupt} corrupt, 0 deadlocks"


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
