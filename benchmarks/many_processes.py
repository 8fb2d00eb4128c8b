"""Sixteen processes on one run folder at once, again and again: no deadlock, nothing broken, everybody told the truth.

    python benchmarks/many_processes.py [--rounds 50] [--processes 16]

Each round begins with an empty folder. All processes plan into it at once; then they train, several of them the same of four
folds; then all predict the same scans into one folder of results. Allowed are success, exit 4 (somebody else works here), and
in planning exit 2 (there is a plan already). After each step everything must be readable and fit together, and in the end there must
be one whole plan, four folds in the model, and labels as of a process that was alone. Processes are forked, not started anew.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
from faulty_scans import sound
from small_datasets import write_blobs

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes, Reading
from autoseg3d.doctor.golden import write_golden_package
from autoseg3d.errors import Autoseg3dError
from autoseg3d.package import open_package
from autoseg3d.prediction import PredictOptions
from autoseg3d.run import RunFolder
from autoseg3d.training import TrainOptions, fold
from autoseg3d.training.splits import read_splits

_LOADED = fold  # before the first fork
_SECONDS = 120.0
_CHANGES = ("3d_fullres.patch_size=4,8,8", "3d_fullres.batch_size=2")
_TRAINING = TrainOptions(
    epochs=1, iterations=2, device="cpu", precision="fp32", threads=1, workers=0, mode="resume", pictures=False, validate_cases=False
)
_PREDICTION = PredictOptions(device="cpu", precision="fp32", mirror=False)


def together(work: Callable[[int], object], processes: int) -> Counter[str]:
    """Exit codes of `work(0)` to `work(processes - 1)`, all at once; "hung" counts those that did not end, faults are told."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes)
    children = [context.Process(target=_in_child, args=(work, number, barrier)) for number in range(processes)]
    for child in children:
        child.start()
    codes, deadline = Counter[str](), time.monotonic() + _SECONDS
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        codes["hung" if child.is_alive() else f"exit {child.exitcode}"] += 1
        child.kill()
        child.join()
    return codes


def _in_child(work: Callable[[int], object], number: int, barrier: Any) -> None:
    barrier.wait(_SECONDS)
    try:
        work(number)
    except Autoseg3dError as error:
        os._exit(error.exit_code)
    except BaseException:
        sys.stderr.write(traceback.format_exc())
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def one_round(
    folder: Path, raw: Path, scans: Path, golden: Path, expected: dict[str, bytes], processes: int
) -> tuple[Counter[str], list[str]]:
    """Codes by step, and what was wrong."""
    run, out = folder / "run", folder / "out"
    for place in (run, out):
        shutil.rmtree(place, ignore_errors=True)
    codes = Counter[str]()

    def step(name: str, allowed: set[str], work: Callable[[int], object]) -> list[str]:
        found = together(work, processes)
        codes.update({f"{name} {code}": count for code, count in found.items()})
        wrong = [f"{name}: {count} times {code}" for code, count in found.items() if code not in allowed]
        return wrong if found["exit 0"] else [*wrong, f"{name}: nobody succeeded"]

    wishes, reading = PlanWishes(planner="nnunet", changes=_CHANGES), Reading(workers=1)
    faults = step("plan", {"exit 0", "exit 2", "exit 4"}, lambda number: api.plan(raw, run, wishes=wishes, reading=reading))
    faults += _wrong_run(run)
    faults += step("train", {"exit 0", "exit 4"}, lambda number: api.train(run, fold=str(number % 4), options=_TRAINING))
    folds = open_package(run).folds("3d_fullres")
    faults += [] if folds == ("0", "1", "2", "3") else [f"train: folds {folds} in the model"]
    faults += step("predict", {"exit 0", "exit 4"}, lambda number: api.predict(scans, golden, out, options=_PREDICTION))
    faults += [] if labels(out) == expected else ["predict: other labels than alone"]
    for place in (run, out):
        faults += [f"left behind: {path.relative_to(folder)}" for path in place.rglob(".tmp-*")]
    return codes, faults


def _wrong_run(run: Path) -> list[str]:
    folder = RunFolder(run)
    plan, fingerprint, splits = folder.plan(), folder.fingerprint(), read_splits(run / "splits.json")
    together = plan.fingerprint_hash == fingerprint.content_hash() and {case.id for case in fingerprint.cases} == set(splits.cases)
    return [] if together and folder.record() else ["plan, fingerprint and splits do not fit together"]


def labels(folder: Path) -> dict[str, bytes]:
    """Label maps by name."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.nii.gz")}


def run_rounds(folder: Path, rounds: int, processes: int) -> tuple[Counter[str], list[str]]:
    """All rounds in a folder."""
    torch.set_num_threads(1)
    raw, scans, golden = write_blobs(folder / "raw", 5), folder / "scans", folder / "golden"
    write_golden_package(golden)
    scans.mkdir()
    for seed in range(2):
        sound(seed)(scans / f"s{seed}")
    api.predict(scans, golden, folder / "alone", options=_PREDICTION)
    expected, codes, faults = labels(folder / "alone"), Counter[str](), []
    for number in range(rounds):
        found, wrong = one_round(folder, raw, scans, golden, expected, processes)
        codes.update(found)
        faults += [f"round {number}: {fault}" for fault in wrong]
    return codes, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=16)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        codes, faults = run_rounds(Path(folder), chosen.rounds, chosen.processes)
    said = ", ".join(f"{count} times {code}" for code, count in sorted(codes.items()))
    sys.stdout.write(f"{chosen.rounds} rounds of {chosen.processes}: {said}; {len(faults)} faults\n")
    sys.stdout.writelines(f"  {fault}\n" for fault in faults[:20])
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
