"""Saving, exporting and planning while the disk fails: the n-th write, sync or rename, for every n (Linux, with a C compiler).

    python benchmarks/failing_disk.py [save predict package plan] [--every 1]

Each trial begins with what an earlier, finished or interrupted, run left behind. Then one call fails, by turns for want of
space and by a broken disk, and one more time writes are cut short. After it: the program said so and left with 4, every file
under its final name is whole, and what was there before, or what was to be written, can be loaded. Then the same command runs
on a mended disk and must end as if nothing had happened. `--every 5` tries each fifth call only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "reliability"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training"))

import numpy as np
import torch
from failing_calls import KINDS, SHORT, available, preloaded, trial
from faulty_scans import sound
from runs import made_run, write_spheres
from safetensors.numpy import load_file

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes, Reading
from autoseg3d.doctor.golden import write_golden_package
from autoseg3d.io import read_volume
from autoseg3d.package import open_package, pack, set_licence
from autoseg3d.prediction.verification import verify_records
from autoseg3d.run import RunFolder
from autoseg3d.training import TrainOptions
from autoseg3d.training.splits import read_splits
from autoseg3d.training.state import load_state

ERRORS = (errno.ENOSPC, errno.EIO)
_LIMITED = {"epochs": 2, "iterations": 2, "device": "cpu", "precision": "fp32", "threads": 1, "workers": 0, "pictures": True}
_OFTEN = {**_LIMITED, "save_every_seconds": 1e-6, "mode": "resume"}


@dataclass(frozen=True)
class Subject:
    """Something that writes.

    template  the folder as it is before
    work      writes into a copy of it; gives the exit code, or raises
    loads     raises where what should be loadable in such a folder is not
    """

    name: str
    template: Path
    work: Callable[[Path], object]
    loads: Callable[[Path], object]


def subjects(folder: Path) -> dict[str, Subject]:
    """The four, with what they need made in `folder`."""
    raw, model, scans = write_spheres(folder / "raw", 5), folder / "model", folder / "scans"
    write_golden_package(model)
    scans.mkdir()
    for seed in range(2):
        sound(seed)(scans / f"s{seed}")
    return {
        "save": _saving(folder / "save", raw),
        "predict": _predicting(folder / "predict", scans, model),
        "package": _packing(folder / "package", model),
        "plan": _planning(folder / "plan", raw),
    }


def _saving(template: Path, raw: Path) -> Subject:
    """A training that was interrupted after its first epoch goes on, validates, and adds its weights to a model that has a fold."""
    run = made_run(raw, template)[0]
    api.train(run, fold="1", options=TrainOptions(**{**_LIMITED, "epochs": 1, "validate_cases": False}))
    with contextlib.suppress(InterruptedError):
        api.train(run, fold="0", options=TrainOptions(**_OFTEN), watch=_stopped)

    def loads(run: Path) -> None:
        assert load_state(run / "folds" / "3d_fullres" / "fold_0" / "state") is not None
        assert "1" in open_package(run).folds("3d_fullres")

    return Subject("save", template, lambda run: api.train(run, fold="0", options=TrainOptions(**_OFTEN)), loads)


def _stopped(event: Mapping[str, Any]) -> None:
    """Ends a training after its first epoch, as a power cut would."""
    if event["event"] == "epoch":
        raise InterruptedError


def _predicting(template: Path, scans: Path, model: Path) -> Subject:
    """Two scans, of which an earlier run finished one."""
    from autoseg3d.prediction import PredictOptions

    options = PredictOptions(device="cpu", precision="fp32", mirror=False, save_probabilities=True)
    api.predict(next(iter(sorted(scans.iterdir()))), model, template, options=options)
    shutil.copy(template / "s0.nii.gz", template.parent / "finished")

    def predict(out: Path) -> int:
        results = api.predict(scans, model, out, options=options)
        return 3 if any(result.status == "failed" for result in results) else 0

    def loads(out: Path) -> None:
        different = [check for check in verify_records(out) if check.state in ("different", "missing")]
        assert not different, different
        assert (out / "s0.nii.gz").read_bytes() == (template.parent / "finished").read_bytes()

    return Subject("predict", template, predict, loads)


def _packing(template: Path, model: Path) -> Subject:
    """A changed model takes the place of an older file of it."""
    shutil.copytree(model, template / "model")
    pack(template / "model", template / "m.a3d")

    def change(folder: Path) -> None:
        set_licence(folder / "model", "CC BY 4.0")
        pack(folder / "model", folder / "m.a3d")

    def loads(folder: Path) -> None:
        for path in (folder / "model", folder / "m.a3d"):
            package = open_package(path)
            package.load_weights(package.configurations[0], package.folds(package.configurations[0])[0])

    return Subject("package", template, change, loads)


def _planning(template: Path, raw: Path) -> Subject:
    """A dataset with a case less is planned anew over an older plan."""

    def plan(run: Path, exclude: frozenset[str] = frozenset({"case_4"})) -> None:
        api.plan(raw, run, wishes=PlanWishes(planner="nnunet"), reading=Reading(workers=1, exclude=exclude), overwrite=True)

    def loads(run: Path) -> None:
        folder = RunFolder(run)
        cases = {case.id for case in folder.fingerprint().cases}
        assert folder.plan().fingerprint_hash == folder.fingerprint().content_hash(), "plan and fingerprint are of two datasets"
        assert cases == set(read_splits(run / "splits.json").cases), "fingerprint and splits are of two datasets"
        assert ("case_4" in folder.record().excluded) == ("case_4" not in cases), "record and fingerprint are of two datasets"

    plan(template, frozenset())
    return Subject("plan", template, plan, loads)


def fail_each(subject: Subject, folder: Path, *, every: int = 1) -> tuple[Counter[str], list[str]]:
    """All calls of one subject, one at a time; what was counted, and what was wrong."""
    target, counts, faults = folder / "target", Counter[str](), []
    shutil.copytree(subject.template, target, symlinks=True)
    whole = trial(lambda: _code(subject.work(target)), target, "write", 0)
    assert whole.code == 0, whole.said
    final = visible(target)
    plans = [(kind, number, ERRORS[number % 2]) for kind, seen in zip(KINDS, whole.seen, strict=True) for number in range(1, seen + 1)]
    plans += [("write", number, SHORT) for number in range(1, whole.seen[0] + 1)]
    for kind, number, error in plans[::every]:
        _reset(subject, target)
        ended = trial(lambda: _code(subject.work(target)), target, kind, number, error)
        what = f"{subject.name}: {kind} {number} of {whole.seen[KINDS.index(kind)]}, {'short' if error == SHORT else os.strerror(error)}"
        counts["trials"] += 1
        counts[f"exit {ended.code}"] += 1
        wrong = [] if ended.code in ((0,) if error == SHORT else (0, 4)) else [f"ended with {ended.code}: {ended.said[-400:]}"]
        wrong += [f"{name} is half written" for name in visible(target) if not intact(target / name)]
        wrong += _complaint(subject, target)
        again = trial(lambda: _code(subject.work(target)), target, "write", 0)
        if again.code != 0 or visible(target) != final or _complaint(subject, target):
            missing = sorted(visible(target) ^ final)
            wrong.append(f"the same command did not complete it: {again.code} {again.said[-300:]} {missing}")
        if any(target.rglob(".tmp-*")):
            wrong.append("a temporary file is left after the second run")
        counts["right"] += not wrong
        faults += [f"{what}: {fault}" for fault in wrong]
    shutil.rmtree(target)
    return counts, faults


def _reset(subject: Subject, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(subject.template, target, symlinks=True)


def _code(result: object) -> int:
    return result if isinstance(result, int) else 0


def _complaint(subject: Subject, target: Path) -> list[str]:
    try:
        subject.loads(target)
    except Exception as error:  # whatever it is, the folder cannot be used
        return [f"cannot be loaded: {type(error).__name__}: {error}"]
    return []


def visible(target: Path) -> set[str]:
    """Names of files that stand under their final names."""
    found = (path.relative_to(target) for path in target.rglob("*") if path.is_file())
    return {str(path) for path in found if not any(part.startswith(".") for part in path.parts)}


def intact(path: Path) -> bool:
    """Whether a file is whole, as far as its kind can tell; a log may end in a line that was cut, which readers pass over."""
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            json.loads(data)
        elif path.name.endswith(".nii.gz"):
            read_volume(path, labels=True)
        elif path.suffix == ".npz":
            np.load(path)["probabilities"].sum()
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".a3d":
            open_package(path)
        elif path.suffix == ".png":
            return data.endswith(b"IEND\xaeB`\x82")
        elif path.suffix in (".csv", ".md"):
            return not data or data.endswith(b"\n")
    except Exception:  # every reader has errors of its own
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", help="save, predict, package, plan; all where none is named")
    parser.add_argument("--every", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if "FAILING_CALLS" not in os.environ:
            if not available():
                sys.stdout.write("not tried: this takes Linux and a C compiler\n")
                return
            raise SystemExit(preloaded(sys.argv, folder).returncode)
        torch.set_num_threads(1)
        found = subjects(folder)
        results = {name: fail_each(found[name], folder, every=chosen.every) for name in chosen.subjects or found}
        for name, (counts, faults) in results.items():
            codes = ", ".join(f"{count} times {said}" for said, count in sorted(counts.items()) if said.startswith("exit"))
            sys.stdout.write(f"{name:8} {counts['right']} of {counts['trials']} failing calls right ({codes})\n")
            sys.stdout.writelines(f"  {fault}\n" for fault in faults[:20])
    raise SystemExit(1 if any(faults for _, faults in results.values()) else 0)


if __name__ == "__main__":
    main()
