"""What a run will take: one trial step measured before the start, and the forecast made from it."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg3d.errors import StorageError, UsageError
from autoseg3d.patches import CaseReader
from autoseg3d.sliding_window import window_starts
from autoseg3d.training.engine import Engine
from autoseg3d.training.loading import Batch
from autoseg3d.training.loop import memory_in_use
from autoseg3d.training.state import KEPT
from planners.epochs import EpochLength, run_length
from planners.plan import Configuration, TrainingPlan
from planners.schedule import LONG_STEPS

# A first step compiles kernels and faults memory in; it is measured again unless that takes longer than this.
_LONG_STEP_SECONDS, _SHORT_STEP_SECONDS = 8.0, 1.0
_FEWEST_STEPS, _FEW_STEPS = 3, 100
# The recipe of long runs is spoken of where less than this share of the steps it is chosen for fits into the time.
_HASTY = 0.5
_REPLAN = "The planner standard, told the time (autoseg3d plan RAW --run NEW --minutes N), chooses a network and a recipe for it"
# What may come on top is said from this share of the whole on.
_WORTH_SAYING = 0.1


@dataclass(frozen=True)
class Trial:
    """Seconds of one training step and of one validation batch, and the memory in use after them.

    exact_seconds   of a validation batch in float32: whole cases are predicted so where bfloat16 does not agree well enough
    """

    step_seconds: float
    validation_seconds: float
    exact_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Outlook:
    """The forecast of a run.

    loop_seconds   training loop with online validation
    steps          training steps in all; for a timed run as many as will fit
    length         of an epoch
    disk_bytes     room that the saved states take
    cases_seconds  whole-case validation after the loop, in the precision of training; `exact_cases_seconds` in float32
    """

    loop_seconds: float
    steps: int
    length: EpochLength
    trial: Trial
    disk_bytes: int
    cases_seconds: float
    exact_cases_seconds: float

    def facts(self) -> dict[str, float | int]:
        """The numbers, for events."""
        return {
            "loop_seconds": self.loop_seconds,
            "steps": self.steps,
            "iterations": self.length.iterations,
            "validation_iterations": self.length.validation_iterations,
            "step_seconds": self.trial.step_seconds,
            "validation_seconds": self.trial.validation_seconds,
            "memory_bytes": self.trial.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "cases_seconds": self.cases_seconds,
            "exact_cases_seconds": self.exact_cases_seconds,
        }

    def sentence(self) -> str:
        """The same for people."""
        epochs = math.ceil(self.steps / self.length.iterations)
        after = f", then {describe(self.cases_seconds)} to validate whole cases" if self.cases_seconds else ""
        more = self.exact_cases_seconds - self.cases_seconds
        if more > _WORTH_SAYING * (self.loop_seconds + self.cases_seconds):
            after += f" ({describe(self.exact_cases_seconds)} if the network turns out to need float32)"
        return (
            f"Training will take about {describe(self.loop_seconds)}{after}: {self.steps} steps of {self.trial.step_seconds:.2f} s "
            f"in {epochs} epochs of {self.length.iterations}; {self.trial.memory_bytes / 2**30:.1f} GiB of memory, "
            f"{self.disk_bytes / 2**20:.0f} MiB of disk"
        )


def try_step(engine: Engine, training: Batch, validation: Batch) -> Trial:
    """Times a step and a validation batch without changing weights, optimiser or generators."""
    generators = torch.get_rng_state()
    buffers = [buffer.clone() for buffer in engine.network.buffers()]
    # Turning a result into a number waits for the device.
    seconds = _fastest(lambda: float(engine.gradients(*training)))
    evaluated = _fastest(lambda: float(engine.evaluate(*validation)[0]))
    memory, exact = memory_in_use(engine.device), evaluated
    if engine.lowered is not None and engine.device.type == "cpu":
        with engine.in_float32():
            exact = _fastest(lambda: float(engine.evaluate(*validation)[0]))
    engine.optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(generators)
    for buffer, before in zip(engine.network.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return Trial(seconds, evaluated, max(evaluated, exact), memory)


def _fastest(work: Callable[[], float]) -> float:
    """Seconds of the fastest try: what slows the others is somebody else's work, or memory that is touched for the first time."""
    first = _timed(work)
    if first >= _LONG_STEP_SECONDS:
        return first
    return min(_timed(work) for _ in range(3 if first < _SHORT_STEP_SECONDS else 1))


def _timed(work: Callable[[], float]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def look_ahead(engine: Engine, training: TrainingPlan, trial: Trial, length: EpochLength, *, windows: int) -> Outlook:
    """The forecast for a whole run with epochs of this length, and `windows` forward passes to validate whole cases."""
    measured = {"step_seconds": trial.step_seconds, "validation_seconds": trial.validation_seconds}
    run = run_length(training, length, **measured)
    state = sum(tensor.numel() * tensor.element_size() for tensor in engine.network.state_dict().values())
    copies = 1 + (1 if training.optimizer == "sgd" else 2) + (engine.average is not None) + 1
    cases, exact = (windows * seconds / engine.batch_size for seconds in (trial.validation_seconds, trial.exact_seconds))
    disk = state * copies * (KEPT + 1)
    return Outlook(run.seconds, run.steps, length, trial, disk_bytes=disk, cases_seconds=cases, exact_cases_seconds=exact)


def count_windows(store: CaseReader, cases: Iterable[str], configuration: Configuration, mirror_axes: Sequence[int]) -> int:
    """Forward passes of one window that predicting these cases takes, flips included."""
    patch = configuration.patch_size
    flips: int = 2 ** sum(not (configuration.slicewise and axis == 0) for axis in mirror_axes)
    windows = 0
    for case in cases:
        z, y, x = (max(n, p) for n, p in zip(store.shape(case), patch, strict=True))
        windows += len(window_starts((z, y, x), patch))
    return windows * flips


def check_time(training: TrainingPlan, outlook: Outlook) -> str | None:
    """What must be said of a time budget in which little can be learnt; None where it is fine.

    Raises UsageError where not even a few steps fit.
    """
    hasty = training.optimizer == "sgd" and outlook.steps < _HASTY * LONG_STEPS
    if training.seconds is None or not (hasty or outlook.steps < _FEW_STEPS):
        return None
    if outlook.steps < _FEWEST_STEPS:
        remedy = "Give more time, or plan with it (autoseg3d plan --minutes), which makes a smaller network"
        wanted = f"{describe(_FEWEST_STEPS * outlook.trial.step_seconds)} or more"
        raise UsageError("too little time to learn anything", field="minutes", wanted=wanted, got=describe(training.seconds), remedy=remedy)
    fears = f"this recipe was chosen for {LONG_STEPS:,} or more" if hasty else "the result will be poor"
    return f"Only {outlook.steps:,} steps fit into this time, and {fears}. {_REPLAN}"


def check_disk(folder: Path, needed: int) -> None:
    """Raises StorageError where the disk of `folder` has not this much room for the states of a run."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        wanted, got = (f"{value / 2**30:.2f} GiB" for value in (needed, free))
        raise StorageError(
            "too little free space for the saved states of this run", file=folder, code="E_DISK_FULL", wanted=wanted, got=got
        )


def describe(seconds: float) -> str:
    """Seconds in words for people: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
