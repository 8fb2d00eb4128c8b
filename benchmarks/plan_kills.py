"""Planning and preparing cases killed without warning, then the same command once more.

    python benchmarks/plan_kills.py [--kills 100] [--cases 8] [--seed 0]

A dataset is planned and its cases are prepared for training, once without a kill; then, for every kill, in an empty folder, with
SIGKILL at a random moment of it all, and once more to the end. After every kill: no half-written file under a final name. After the
second run: the same files with the same bytes (but for time stamps), and prepared cases that were done are not prepared again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from small_datasets import write_blobs

from autoseg3d import api, preprocessing
from autoseg3d.api.planning import PlanWishes, Reading
from autoseg3d.io import open_dataset
from autoseg3d.preprocessing.case_file import read_record
from autoseg3d.run import RunFolder

_LOADED = preprocessing  # before the first fork
_CHANGES = ("3d_fullres.patch_size=4,8,8", "3d_fullres.batch_size=2")


def work(raw: Path, run: Path) -> None:
    """What a person types before training: the plan where there is none yet, and the cases of each configuration."""
    torch.set_num_threads(1)
    folder = RunFolder(run)
    if not folder.plan_file.exists():
        api.plan(raw, run, wishes=PlanWishes(planner="nnunet", changes=_CHANGES), reading=Reading(workers=1))
    plan = folder.plan()
    for name in plan.configurations:
        preprocessing.prepare(open_dataset(raw), plan, name, folder.cache, workers=1)


def tree(run: Path) -> dict[str, str]:
    """SHA-256 of every file under its final name, but for plan.md, which tells how long things will take.

    Observations come in the order in which they were made, so their lines are sorted.
    """
    found = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if any(part.startswith(".") for part in path.relative_to(run).parts) or name == "plan.md":
            continue
        data = path.read_bytes()
        if path.suffix == ".jsonl":
            data = b"\n".join(sorted({line for line in data.splitlines() if _whole(line)}))
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _whole(line: bytes) -> bool:
    """A line that a kill cut short is passed over by its reader."""
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def _child(raw: Path, run: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, args=(raw, run))
    process.start()
    return process


def one_kill(raw: Path, run: Path, moment: float, expected: dict[str, str]) -> list[str]:
    """What was wrong after a kill and a second run."""
    shutil.rmtree(run, ignore_errors=True)
    process = _child(raw, run)
    time.sleep(moment)
    process.kill()
    process.join()
    wrong = [] if process.exitcode in (0, -signal.SIGKILL) else [f"ended with {process.exitcode}"]
    left = tree(run) if run.exists() else {}
    wrong += [f"{name} is not whole" for name, digest in left.items() if not name.endswith(".jsonl") and expected.get(name) != digest]
    prepared = {path: path.stat().st_mtime_ns for path in run.rglob("[!.]*.safetensors")}
    for path in prepared:
        read_record(path)
    again = _child(raw, run)
    again.join()
    wrong += [] if again.exitcode == 0 else [f"the second run ended with {again.exitcode}"]
    wrong += [f"{path.name} was done and prepared again" for path, stamp in prepared.items() if path.stat().st_mtime_ns != stamp]
    found = tree(run)
    wrong += [f"differs: {name}" for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    wrong += [f"left behind: {path.name}" for path in run.rglob(".tmp-*")]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no kill after this time")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rng, faults, right, kills, started = random.Random(chosen.seed), [], 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, run = write_blobs(folder / "raw", chosen.cases), folder / "run"
        _child(raw, run).join()
        shutil.rmtree(run)
        began = time.perf_counter()
        _child(raw, run).join()
        whole, expected = time.perf_counter() - began, tree(run)
        while kills < chosen.kills and time.monotonic() - started < chosen.seconds:
            wrong = one_kill(raw, run, rng.uniform(0, whole), expected)
            faults += [f"kill {kills}: {fault}" for fault in wrong]
            kills, right = kills + 1, right + (not wrong)
    sys.stdout.write(f"{right} of {kills} kills within {whole:.2f} s left no trace, seed {chosen.seed}\n")
    sys.stdout.writelines(f"  {fault}\n" for fault in faults[:20])
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
