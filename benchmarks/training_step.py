"""Samples per second of training, loader and augmentation included: ours beside nnU-Net's, same plan, same cases.

Usage: python benchmarks/training_step.py NNUNET_PYTHON RAW --work FOLDER [--memory-target GB] [--rounds N] [--steps N]

NNUNET_PYTHON  the interpreter of an environment in which nnunetv2 is installed
RAW            a dataset folder in nnU-Net's raw layout (its name need not have a number)
--work         a folder for both sides' files; what lies there from a run before is used again

nnU-Net plans and preprocesses the dataset (for a GPU of --memory-target GB, where given), and trains fold 0 of 3d_fullres with its
own trainer, loaders and workers. We train the same plan, translated, on our preparation of the same cases, as `autoseg3d train`
does. Each side is a process group of its own; they take turns, STEPS steps each, for N rounds, and whoever is not at work stands
still with all its workers, so that none prepares batches in the other's time. nnU-Net runs as it is, and once more with
glibc told to keep freed pages, which we do by ourselves. Threads are those of OMP_NUM_THREADS. Prints medians, ratios and peaks;
what the sides say for themselves goes to logs in --work.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from running import KEEP_PAGES

_ID, _NAME, _CONFIGURATION = 911, "Dataset911_Compared", "3d_fullres"
# As our command line sets it; nnU-Net keeps the default, which is the faster one on a quiet machine.
_OURS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nnunet_python", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--memory-target", type=float, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="of our side")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        train_ours(options)
        return
    environment = prepare_theirs(options)
    plans = _plans(options.work)["configurations"][_CONFIGURATION]
    print(
        f"{options.raw.name}: patch {plans['patch_size']}, batch {plans['batch_size']}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads"
    )
    script = Path(__file__).with_name("training_step_nnunet.py")
    theirs = [str(options.nnunet_python), str(script), str(_ID), _CONFIGURATION, str(options.steps), str(options.warm_up)]
    for name, extra in (("nnU-Net", {}), ("nnU-Net, freed pages kept", KEEP_PAGES)):
        # In pairs: three trainings at once may not fit into memory.
        # nnU-Net first: it makes the splits that we follow.
        log = options.work / f"{name.replace(', ', ' ').replace(' ', '_')}.log"
        sides = [
            Side(name, theirs, {**environment, **extra}, log),
            Side("ours", [sys.executable, *sys.argv, "--ours"], _OURS, options.work / "ours.log"),
        ]
        try:
            for side in sides:
                side.start()
            for _ in range(options.rounds):
                for side in sides:
                    side.turn()
        finally:
            for side in sides:
                side.end()
        report(sides[1], sides[0])


@dataclass
class Side:
    """A process that trains some steps whenever it is told to, and stands still with its workers between."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    turns: list[dict[str, Any]] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it and waits for its first steps."""
        environment = {**os.environ, **self.environment}
        with self.log.open("w") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self.process = subprocess.Popen(self.command, env=environment, start_new_session=True, **pipes)
        self._read()
        self._signal(signal.SIGSTOP)

    def turn(self) -> None:
        """Lets it train, and notes what it says of it."""
        assert self.process is not None
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.turns.append(self._read())
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """Ends it and its workers."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def rates(self) -> list[float]:
        """Samples per second of each turn."""
        return [turn["samples"] / turn["seconds"] for turn in self.turns]

    def _read(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"{self.name} ended with {self.process.wait()}: see {self.log}")

    def _signal(self, number: int) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def report(ours: Side, theirs: Side) -> None:
    """Prints both sides' medians, and the median of the ratios of turns that followed each other."""
    ratios = [a / b for a, b in zip(ours.rates(), theirs.rates(), strict=True)]
    for side in (ours, theirs):
        rates, peak = side.rates(), max(turn["peak_bytes"] for turn in side.turns)
        print(f"  {side.name:28} {statistics.median(rates):8.3f} samples/s ({min(rates):.3f} to {max(rates):.3f}), {peak / 2**30:.2f} GiB")
    print(f"  ours / {theirs.name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def prepare_theirs(options: argparse.Namespace) -> dict[str, str]:
    """nnU-Net's folders, plan and preprocessed cases; gives the variables it wants."""
    places = {f"nnUNet_{name}": options.work / name for name in ("raw", "preprocessed", "results")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    link = places["nnUNet_raw"] / _NAME
    if not link.exists():
        link.symlink_to(options.raw.resolve(), target_is_directory=True)
    environment = {name: str(place) for name, place in places.items()}
    if not (places["nnUNet_preprocessed"] / "done").exists():
        program = options.nnunet_python.with_name("nnUNetv2_plan_and_preprocess")
        command = [str(program), "-d", str(_ID), "-c", _CONFIGURATION, "-np", "1", "-npfp", "1"]
        if options.memory_target is not None:
            command += ["-gpu_memory_target", str(options.memory_target)]
        with (options.work / "preprocessing.log").open("w") as log:
            subprocess.run(command, env={**os.environ, **environment}, check=True, stdout=log, stderr=log)
        (places["nnUNet_preprocessed"] / "done").touch()
    return environment


def _plans(work: Path) -> dict[str, Any]:
    return dict(json.loads((work / "preprocessed" / _NAME / "nnUNetPlans.json").read_text()))


def train_ours(options: argparse.Namespace) -> None:
    """Our side: the engine and the loader of a training session, on the plan of nnU-Net, on fold 0's training cases."""
    import torch

    from autoseg3d.allocator import keep_freed_pages
    from autoseg3d.devices import training_precision
    from autoseg3d.import_nnunet.plans import read_plan
    from autoseg3d.io.dataset import open_dataset
    from autoseg3d.patches import PatchSource
    from autoseg3d.preprocessing import prepare
    from autoseg3d.training.engine import Engine
    from autoseg3d.training.loading import Batches

    description = json.loads((options.raw / "dataset.json").read_text())
    plan = read_plan(_plans(options.work), description, configurations=[_CONFIGURATION], mirror_axes=(0, 1, 2))
    store = prepare(open_dataset(options.raw), plan, _CONFIGURATION, options.work / "ours", workers=1)
    cases = json.loads((options.work / "preprocessed" / _NAME / "splits_final.json").read_text())[0]["train"]
    keep_freed_pages()
    device = torch.device("cpu")
    precision = training_precision(device) if options.precision == "auto" else options.precision
    engine = Engine(plan, _CONFIGURATION, plan.training, device=device, precision=precision, seed=0)
    batch, done = plan.configurations[_CONFIGURATION].batch_size, 0
    with Batches(PatchSource(store, cases, plan, _CONFIGURATION, augment=True, seed=0), per_epoch=250) as batches:

        def train(count: int) -> None:
            nonlocal done
            for _ in range(count):
                result = engine.step(*batches.next(), rate=0.01, steps=done)
                assert not result.skipped
                done += 1

        train(options.warm_up)
        print(json.dumps({"ready": True, "batch": batch}), flush=True)
        for _ in sys.stdin:
            began, cpu = time.perf_counter(), time.process_time()
            train(options.steps)
            seconds = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({**seconds, "samples": options.steps * batch, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
