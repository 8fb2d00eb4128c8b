"""The processes that train one network together, as torchrun starts them: who they are and what they agree on.

Every process computes the gradient of its share of each batch; the gradients are summed, so all hold the same weights after
every step. The first process, the leader, alone writes files and talks.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from autoseg3d.errors import StoppedError

Result = TypeVar("Result")

# Preparing cases and validating whole ones is the leader's work, for which the others wait; a process that dies is noticed at once.
_PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: number `rank` of `count`. One alone agrees with itself at no cost."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            with lost_peers():
                dist.all_reduce(tensor)
        return tensor

    def leaders(self, *values: float) -> tuple[float, ...]:
        """The leader's values."""
        if self.count == 1:
            return values
        told = torch.tensor(values, dtype=torch.float64)
        with lost_peers():
            dist.broadcast(told, 0)
        return tuple(told.tolist())

    def wait(self) -> None:
        """Returns once all processes have come here."""
        self.sum(torch.zeros(1))

    def leader_first(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which the leader does before the others do: they find on disk what it wrote."""
        if not self.leads:
            self.wait()
        result = work()
        if self.leads:
            self.wait()
        self.wait()
        return result


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Says StoppedError where another process has gone, in place of the several errors of torch's back ends."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in ("gloo", "connection", "nccl")):
            raise
        remedy = "Look for the first error above; then run the same command with --resume to go on"
        raise StoppedError("another process of this training has ended", code="E_PEER", remedy=remedy) from error


def join() -> Ranks:
    """The processes that torchrun started with this one, connected at the first call; this one alone where it did not."""
    if not dist.is_available() or not (dist.is_initialized() or dist.is_torchelastic_launched()):
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size())


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def local_device(name: str, ranks: Ranks) -> str:
    """A device name for this process: where several share a machine, each takes the GPU of its own number."""
    if ranks.count == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    # torchrun tells a process its number on its own machine in no other way.
    return f"cuda:{os.environ['LOCAL_RANK']}"
