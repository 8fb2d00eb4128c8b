"""Batches ahead: the same series whoever prepares it, errors and deaths told, nothing left behind."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from autoseg3d.errors import ReadError, StoppedError
from autoseg3d.training.loading import Batch, Batches


@dataclass(frozen=True)
class Numbers:
    """Batches that hold their own number and the process that made them; step `bad` raises, step `fatal` kills."""

    bad: int | None = None
    fatal: int | None = None
    note: Path | None = None

    def batch(self, epoch: int, step: int) -> Batch:
        if step == self.bad:
            raise ReadError("a damaged case", case="case_7")
        if step == self.fatal and not (self.note and self.note.exists()):
            if self.note:
                self.note.write_text("died once")
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng((epoch, step))
        images = torch.from_numpy(rng.standard_normal((2, 1, 4, 4, 4), dtype=np.float32))
        return images, torch.tensor([epoch, step, os.getpid() % 2**15], dtype=torch.int16)


def take(n: int, *, start: int = 0, workers: int = 0) -> list[Batch]:
    with Batches(Numbers(), per_epoch=3, start=start, workers=workers) as batches:
        return [batches.next() for _ in range(n)]


def test_workers_do_not_change_the_series() -> None:
    here = take(8)
    assert [labels[:2].tolist() for _, labels in here] == [list(divmod(n, 3)) for n in range(8)]
    two = take(8, workers=2)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(here, two, strict=True))
    assert {int(labels[2]) for _, labels in here} == {os.getpid() % 2**15}
    assert len({int(labels[2]) for _, labels in two} - {os.getpid() % 2**15}) == 2
    late = take(3, start=5)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(here[5:], late, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_reaches_the_loop_as_itself(workers: int) -> None:
    with Batches(Numbers(bad=1), per_epoch=9, workers=workers) as batches:
        batches.next()
        with pytest.raises(ReadError, match="case_7"):
            batches.next()


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    source = Numbers(fatal=2, note=tmp_path / "note")
    with Batches(source, per_epoch=9, workers=1) as batches:
        assert [int(batches.next()[1][1]) for _ in range(4)] == [0, 1, 2, 3]


def test_a_worker_that_keeps_dying_is_an_error() -> None:
    with Batches(Numbers(fatal=0), per_epoch=9, workers=1) as batches, pytest.raises(StoppedError, match="E_WORKER"):
        batches.next()


def worker_processes() -> list[psutil.Process]:
    """Workers of this process; those of other parts of the program may be among them."""
    return [child for child in psutil.Process().children() if "autoseg3d.workers" in " ".join(child.cmdline())]


def test_nothing_is_left_behind_and_little_is_prepared_ahead() -> None:
    others = set(worker_processes())
    batches = Batches(Numbers(), per_epoch=9, workers=1, depth=2)
    batches.next()
    deadline = time.monotonic() + 30
    while batches._lanes[0].ready.qsize() < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert batches._lanes[0].ready.qsize() == 2
    children = [child for child in worker_processes() if child not in others]
    assert len(children) == 1
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 5
    assert not any(child.is_running() for child in children)
    assert not any(lane.is_alive() for lane in batches._lanes)


def test_waiting_can_be_interrupted() -> None:
    def check() -> None:
        raise StoppedError("asked to stop")

    with Batches(Numbers(), per_epoch=9) as batches, pytest.raises(StoppedError, match="asked to stop"):
        batches.next(check)
