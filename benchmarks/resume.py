"""Kills a real training at random moments and lets it go on: is the outcome, bit for bit, that of a training nobody disturbed?

Usage: python benchmarks/resume.py RAW [--work FOLDER] [--kills 100] [--seed 0] [--precision auto] [--threads 1] [--seconds 480]

RAW is a dataset that `autoseg3d plan` takes. One fold of a small plan is trained through the public API to its end, once
undisturbed; then, for every kill, it is begun anew, killed (SIGKILL) at a random moment between its first state and its end,
resumed to the end and compared: weights, averaged and best weights, optimiser, generators, counters, log.jsonl and the packaged
weights, times aside. Stops early when --seconds have passed, and says how many kills there were.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes
from autoseg3d.training import TrainOptions, fold
from autoseg3d.training.log import untimed
from autoseg3d.training.state import load_state

# Loaded before the first fork, so that a sitting is little but training.
_LOADED = fold
_CHANGES = ("base_features=8", "3d_fullres.patch_size=24,32,24", "3d_fullres.batch_size=2")
_TIMED = ("elapsed", "step_seconds", "forecast_seconds", "log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=480.0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads of this process would not live on in those that are forked from it
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        run = Path(folder) / "run"
        api.plan(options.raw, run, wishes=PlanWishes(changes=_CHANGES))
        began = time.monotonic()
        _finish(run, options)
        reference, undisturbed = outcome(run), time.monotonic() - began
        shutil.rmtree(run / "folds")
        again = time.monotonic()
        _finish(run, options)
        _lasting[0] = time.monotonic() - again
        print(f"undisturbed: {undisturbed:.1f} s; a second time: {_differences(reference, outcome(run))}", flush=True)
        kill_and_compare(run, options, reference)


def kill_and_compare(run: Path, options: argparse.Namespace, reference: dict[str, Any]) -> None:
    """All the kills, and how many of them left no trace."""
    rng, began, same, steps = random.Random(options.seed), time.monotonic(), 0, []
    kills = 0
    while kills < options.kills and time.monotonic() - began < options.seconds:
        shutil.rmtree(run / "folds")
        moment = rng.random()
        step = _killed(run, options, moment)
        if step is None:
            continue  # it had finished before the signal came
        kills += 1
        steps.append(step)
        _finish(run, options)
        differences = _differences(reference, outcome(run))
        same += differences == "equal"
        if differences != "equal":
            print(f"kill {kills} after step {step}: {differences}")
    total = reference["counters"]["step"]
    print(f"{same} of {kills} kills left no trace; last saved steps {min(steps)} to {max(steps)} of {total}, {len(set(steps))} different")


def _train(run: Path, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    wishes: dict[str, Any] = {"epochs": 4, "iterations": 10, "device": "cpu", "precision": options.precision, "threads": options.threads}
    wishes |= {"workers": 0, "save_every_seconds": 0.05, "mode": "resume", "validate_cases": False}
    api.train(run, fold="0", configuration="3d_fullres", options=TrainOptions(**wishes))


def _child(run: Path, options: argparse.Namespace) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(run, options))
    process.start()
    return process


def _finish(run: Path, options: argparse.Namespace) -> None:
    process = _child(run, options)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"training ended with {process.exitcode}")


def _killed(run: Path, options: argparse.Namespace, moment: float) -> int | None:
    """Kills a training somewhere in its course; the last saved step, None where it had finished before."""
    process, states = _child(run, options), run / "folds" / "3d_fullres" / "fold_0" / "state"
    while not any(states.glob("*.json")) and process.is_alive():
        time.sleep(0.002)
    began = time.monotonic()
    # Its length is known from the runs before, so moments are spread over all of it.
    while time.monotonic() - began < moment * _lasting[0] and process.is_alive():
        time.sleep(0.001)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"training ended with {process.exitcode}")
    if process.exitcode != -signal.SIGKILL:
        return None
    state = load_state(states)
    assert state is not None
    return int(state.record.progress["step"])


# Seconds that an undisturbed training lasts.
_lasting = [0.0]


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished fold leaves, without times."""
    folder = run / "folds" / "3d_fullres" / "fold_0"
    state = load_state(folder / "state")
    assert state is not None
    weights = run / "model" / "weights" / "3d_fullres" / "fold_0.safetensors"
    return {
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()},
        "log": [untimed(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()],
        "counters": {name: value for name, value in state.record.progress.items() if name not in _TIMED},
        "package": weights.read_bytes(),
    }


def _differences(wanted: dict[str, Any], got: dict[str, Any]) -> str:
    parts = [name for name in wanted if wanted[name] != got[name]]
    return f"differs in {', '.join(parts)}" if parts else "equal"


if __name__ == "__main__":
    main()
