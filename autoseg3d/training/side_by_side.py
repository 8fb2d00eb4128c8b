"""Folds trained at the same time, each in a process of its own on a device of its own."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from autoseg3d.errors import Autoseg3dError, InterruptedByUserError
from autoseg3d.training.interruption import Interruption
from autoseg3d.training.options import FoldResult, Report, TrainOptions, Watch

Train = Callable[..., FoldResult]


@dataclass(frozen=True)
class FoldFailure:
    """A fold that could not be trained: why, and the exit code that this asks for."""

    fold: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class _Running:
    fold: str
    device: str
    process: BaseProcess


def in_processes(
    train: Train, folds: Sequence[str], options: TrainOptions, devices: Sequence[str], *, watch: Watch, progress: Report | None = None
) -> list[FoldResult | FoldFailure]:
    """Trains the folds, one at a time per device, in the order of `folds`; results in that order too.

    Args:
        train: train_fold with all but fold, options, watch and progress; crosses a process boundary.
        devices: names of devices.
        watch: called here, with the events of all folds, each with its "fold".

    A process that dies is a failure of its fold. Raises InterruptedByUserError where a signal asks to stop, after all
    processes have saved their states.
    """
    waiting, free, asked = list(folds), list(devices), False
    running: dict[Connection, _Running] = {}
    outcomes: dict[str, FoldResult | FoldFailure] = {}
    with Interruption() as interruption:
        interruption.immediate = False
        while waiting or running:
            while waiting and free:
                connection, job = _start(train, waiting.pop(0), replace(options, device=free.pop(0)))
                running[connection] = job
            ready = wait(list(running), timeout=0.5)
            for connection in [known for known in running if known in ready]:
                job = running[connection]
                if (outcome := _received(connection, job, watch, progress)) is not None:
                    outcomes[job.fold] = outcome
                    free.append(job.device)
                    del running[connection]
            if interruption.requested and not asked:
                asked, waiting = True, []
                for job in running.values():
                    job.process.terminate()
        interruption.check()
    return [outcomes[fold] for fold in folds]


def _start(train: Train, fold: str, options: TrainOptions) -> tuple[Connection, _Running]:
    # A forked process cannot use CUDA, and a daemon could not have workers of its own.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train_here, args=(theirs, train, fold, options), name=f"autoseg3d fold {fold}")
    process.start()
    theirs.close()
    return ours, _Running(fold, options.device, process)


def _received(connection: Connection, job: _Running, watch: Watch, progress: Report | None) -> FoldResult | FoldFailure | None:
    """Passes on one message; the outcome where it was the last one."""
    try:
        kind, content = connection.recv()
    except EOFError:
        job.process.join()
        return FoldFailure(job.fold, f"its process died with code {job.process.exitcode}; --resume goes on where it was saved", 4)
    if kind == "event":
        watch({"fold": job.fold, **content})
    elif kind == "progress" and progress is not None:
        progress(*content)
    elif kind == "outcome":
        job.process.join()
        assert isinstance(content, FoldResult | FoldFailure)
        return content
    return None


def _train_here(connection: Connection, train: Train, fold: str, options: TrainOptions) -> None:
    """What a process does: everything that happens goes through the connection, the outcome last."""
    try:
        outcome: FoldResult | FoldFailure = train(
            fold=fold,
            options=options,
            watch=lambda event: connection.send(("event", event)),
            progress=lambda what, done, total: connection.send(("progress", (f"fold {fold}: {what}", done, total))),
        )
    except InterruptedByUserError as error:
        outcome = FoldFailure(fold, error.what, error.exit_code)
    except Autoseg3dError as error:
        outcome = FoldFailure(fold, str(error), error.exit_code)
    except Exception:
        outcome = FoldFailure(fold, traceback.format_exc(limit=5), 1)
    connection.send(("outcome", outcome))
