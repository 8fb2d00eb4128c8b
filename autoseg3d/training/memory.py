"""When memory runs out: how that is recognised, said, and avoided by working on a batch in parts."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import torch
from torch import nn

from autoseg3d.allocator import hand_back_freed_pages
from autoseg3d.cost import trace_cost
from autoseg3d.devices import free_memory_bytes
from autoseg3d.errors import StoppedError
from planners.plan import Plan, TrainingPlan

# What torch, oneDNN, cuDNN and cuBLAS say in a plain RuntimeError where an allocation failed.
_WORDS = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a memory",
    "could not create a primitive",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns the several ways in which memory runs out into a StoppedError that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        remedy = "Close other programs, or plan again with a smaller --memory, then --resume or --restart"
        raise StoppedError("memory ran out while training", code="E_MEMORY", remedy=remedy) from error


def release(network: nn.Module) -> None:
    """Sets free what a step that ran out of memory has left behind."""
    network.zero_grad(set_to_none=True)
    gc.collect()
    # oneDNN maps memory for its code, which it can only have where the heap does not hold everything.
    hand_back_freed_pages()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def halved(samples: int) -> int:
    """The next smaller part of a batch to try."""
    return (samples + 1) // 2


def fitting_part(plan: Plan, configuration: str, training: TrainingPlan, *, samples: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many of `samples` fit into the memory that is free now, by the forecast; 1 where not even one does.

    A system that runs short kills the process instead of telling it, so a step that cannot fit must not be tried. A GPU tells,
    and there all samples are worth a try.
    """
    if device.type != "cpu":
        return samples
    chosen, free, part = plan.configurations[configuration], free_memory_bytes(device), samples
    while part > 1:
        cost = trace_cost(
            chosen.network,
            patch_size=chosen.patch_size,
            batch_size=part,
            in_channels=plan.in_channels(configuration),
            num_classes=plan.labels.num_classes,
            device=device.type,
            optimizer=training.optimizer,
            averaged=training.ema_decay > 0,
            dtype=dtype,
        )
        if cost.training_bytes <= free:
            break
        part = halved(part)
    return part
