"""Ways to compute a case, from the fastest to the smallest, and the change from one to the next where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Result = TypeVar("Result")

_GPU_BATCH_VOXELS = 4 * 2**20
_LARGEST_BATCH = 16
# How many times smaller the slab of the last attempt on a CPU is, where the first did not find the memory it asked for.
_FRUGAL = 8
# What torch and oneDNN say, as plain RuntimeErrors, where the C library has no memory for a CPU tensor.
_WORDS = ("can't allocate memory", "not enough memory", "could not create a primitive", "could not allocate")


@dataclass(frozen=True)
class Attempt:
    """One way to compute a case.

    device         where the networks compute
    batch_size     windows per forward pass
    accumulate_on  where the slab is held
    frugal         the slab's bound is divided by this
    """

    device: torch.device
    batch_size: int
    accumulate_on: torch.device
    frugal: int = 1


def attempts_on(device: torch.device, patch_voxels: int) -> list[Attempt]:
    """What to try in turn on a device: fewer windows at a time, the slab on the CPU, all on the CPU, in narrow bands.

    Labels stay the same up to rounding: the patch, on which a network's answer depends, is never changed.
    """
    cpu = torch.device("cpu")
    on_cpu = [Attempt(cpu, 1, cpu), Attempt(cpu, 1, cpu, frugal=_FRUGAL)]
    if device.type == "cpu":
        return on_cpu
    batch = max(1, min(_LARGEST_BATCH, _GPU_BATCH_VOXELS // patch_voxels))
    return [Attempt(device, batch, device), Attempt(device, 1, device), Attempt(device, 1, cpu), *on_cpu]


def first_that_fits(attempts: Sequence[Attempt], compute: Callable[[Attempt], Result]) -> tuple[Result, tuple[str, ...]]:
    """What `compute` gives for the first attempt with enough memory, and a note for every attempt before it.

    A device that fails otherwise is not tried again; what the last attempt raises is raised.
    """
    notes: list[str] = []
    remaining = list(attempts)
    while True:
        attempt = remaining.pop(0)
        try:
            return compute(attempt), tuple(notes)
        except Exception as error:
            failed = isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)
            if not remaining or not (failed or out_of_memory(error)):
                raise
            notes.append(_note(attempt, error, failed=failed))
        # Outside the except block, since the traceback keeps what the failed attempt held.
        gc.collect()
        if failed:
            remaining = [later for later in remaining if later.device != attempt.device] or remaining[-1:]
        elif attempt.device.type != "cpu":
            torch.accelerator.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that there is no more memory, on whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in _WORDS)


def _note(attempt: Attempt, error: Exception, *, failed: bool) -> str:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    if failed:
        return f"{attempt.device} failed: {first_line}"
    return f"{attempt.device} ran out of memory with {attempt.batch_size} windows at a time: {first_line}"
