"""Batches prepared ahead of the network, in a thread of this process or in processes of their own.

Batch number n of a source is the same whoever prepares it, since every sample draws from a generator seeded by its
number and everything here computes with one torch thread. So results do not depend on the number of workers, and a
worker that died is replaced by one that goes on at the same number.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch

from autoseg3d.allocator import keep_freed_pages
from autoseg3d.errors import StoppedError
from autoseg3d.workers import WorkerProcess

Batch = tuple[torch.Tensor, torch.Tensor]

_LIVES = 3
_HUNG_SECONDS = 900.0


class BatchSource(Protocol):
    """What batches come from: PatchSource is one. It must be able to travel to another process."""

    def batch(self, epoch: int, step: int) -> Batch:
        """Images (B, C, Z, Y, X) float32 and value indices (B, Z, Y, X) int16 of one step."""
        ...


class Batches:
    """The endless series of a source's batches from number `start`, prepared ahead.

    Args:
        source: where batches come from; batch n is its batch (n // per_epoch, n % per_epoch).
        per_epoch: steps that the source counts as one epoch.
        start: number of the first batch.
        workers: processes; 0 prepares in a thread of this process.
        depth: batches per worker that may wait here, beside the one it works on.
        pinned: whether batches are laid in page-locked memory, for a fast copy to a GPU.
    """

    def __init__(
        self, source: BatchSource, *, per_epoch: int, start: int = 0, workers: int = 0, depth: int = 2, pinned: bool = False
    ) -> None:
        self._number, self._start = start, start
        lanes = max(1, workers)
        make = functools.partial(_arrays_elsewhere if workers else _arrays, source, per_epoch)
        self._lanes = [_Lane(make, start + i, step=lanes, depth=depth, own_process=workers > 0, pinned=pinned) for i in range(lanes)]
        for lane in self._lanes:
            lane.start()

    def next(self, check: Callable[[], None] | None = None) -> Batch:
        """The next batch. While waiting, `check` is called twice a second and may raise.

        Raises what the source raised, or StoppedError where worker processes keep dying.
        """
        lane = self._lanes[(self._number - self._start) % len(self._lanes)]
        while True:
            if check is not None:
                check()
            with contextlib.suppress(queue.Empty):
                item = lane.ready.get(timeout=0.5)
                break
        if isinstance(item, BaseException):
            raise item
        self._number += 1
        return item

    def close(self) -> None:
        """Ends all threads and workers; no batch can be taken any more."""
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            lane.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Lane(threading.Thread):
    """Prepares every `step`-th batch from `number` on, itself or by a process, and keeps `depth` of them ready."""

    def __init__(
        self, make: Callable[[int], tuple[np.ndarray, ...]], number: int, *, step: int, depth: int, own_process: bool, pinned: bool
    ) -> None:
        super().__init__(name="autoseg3d-batches", daemon=True)
        self.ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=depth)
        self._make, self._number, self._step, self._own_process, self._pinned = make, number, step, own_process, pinned
        self._process: WorkerProcess | None = None
        self._guard = threading.Lock()
        self._stopped = threading.Event()

    def run(self) -> None:
        torch.set_num_threads(1)  # of this thread only
        try:
            while not self._stopped.is_set():
                arrays = self._from_process(self._number) if self._own_process else self._make(self._number)
                # A copy lies where torch lays its memory, so that the network's arithmetic sees no difference.
                images, labels = (torch.from_numpy(array) for array in arrays)
                self._put((images.pin_memory(), labels.pin_memory()) if self._pinned else (images.clone(), labels.clone()))
                self._number += self._step
        except BaseException as error:  # whatever it is, the loop must hear of it
            self._put(error)

    def stop(self) -> None:
        """Ends the process at once and lets the thread end."""
        with self._guard:
            self._stopped.set()
            if self._process is not None:
                self._process.end()

    def _put(self, item: Batch | BaseException) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.ready.put(item, timeout=0.2)
                return

    def _from_process(self, number: int) -> tuple[np.ndarray, ...]:
        cause = ""
        for _ in range(_LIVES):
            try:
                arrays, error = self._running().call(number, _HUNG_SECONDS)
            except (EOFError, OSError):
                if self._stopped.is_set():
                    break
                cause = self._buried()
                continue
            if error is not None:
                raise error
            return tuple(arrays)
        text = f"the process that prepares batches died {_LIVES} times ({cause})"
        raise StoppedError(text, code="E_WORKER_KILLED", remedy="Likely memory ran out: use fewer --workers, then --resume")

    def _running(self) -> WorkerProcess:
        with self._guard:
            if self._stopped.is_set():
                raise EOFError
            if self._process is None:
                self._process = WorkerProcess(self._make, 1)
            return self._process

    def _buried(self) -> str:
        """What the dead process died of."""
        with self._guard:
            process, self._process = self._process, None
        return "unknown" if process is None else process.reap()[0]


def _arrays(source: BatchSource, per_epoch: int, number: int) -> tuple[np.ndarray, ...]:
    """Batch `number` as arrays, which cross a process boundary by plain copying."""
    return tuple(tensor.numpy() for tensor in source.batch(*divmod(number, per_epoch)))


def _arrays_elsewhere(source: BatchSource, per_epoch: int, number: int) -> tuple[np.ndarray, ...]:
    """The same in a process of its own, which keeps what it frees."""
    keep_freed_pages()
    torch.set_num_threads(1)
    return _arrays(source, per_epoch, number)
