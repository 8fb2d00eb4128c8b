"""Work on many cases in several processes, where one bad case never takes the others down with it.

Why not the standard library's process pools: a pool whose worker is killed, as the operating system does when memory
runs out, breaks as a whole and cannot tell which case it was. Here every worker has one case at a time, so a killed
one is known by its case; that case is tried once more on its own, and only then given up. Workers are started as
fresh interpreters that import nothing but the module of the function (a script that calls us needs no
`if __name__ == "__main__"`), and they end when their parent does, however it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any, Generic, TypeVar

from autoseg3d.errors import Autoseg3dError, StoppedError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from autoseg3d.workers import serve; serve()"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of `items[index]`: its value, or the error it ended with."""

    index: int
    value: Result | None = None
    error: Exception | None = None

    def result(self) -> Result:
        """The value. Raises the error where there was one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


@dataclass(frozen=True)
class _Death:
    """A worker that ended in the middle of `items[index]`."""

    index: int
    cause: str
    peak_bytes: int | None
    timed_out: bool


def worker_count(wanted: int | None = None) -> int:
    """The number of worker processes: as wanted, else one per processor that this process may use."""
    if wanted is not None:
        return wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    what: str,
    progress: Progress | None = None,
    threads_per_worker: int = 1,
    timeout_seconds: float | None = None,
) -> Iterator[Outcome[Result]]:
    """Yields the outcome of `function(item)` for every item, in the order in which they end.

    Args:
        function: importable by name (or a functools.partial of such a one); it, its items and its results cross a
            process boundary.
        items: one per case; an item's `id`, or the item itself where it is a string, names it in errors.
        workers: processes; with 0 or 1, or a single item, everything runs in this process.
        what: the work in a few words, for `progress`.
        progress: called with (what, cases done, cases in all).
        threads_per_worker: threads that numerical libraries may use in each worker.
        timeout_seconds: a worker that needs longer for one item is killed and its item fails (not in-process).

    Errors come as values, also unexpected ones, those with the worker's traceback as a note. A worker that dies is
    replaced, its item tried again alone at the end; a second death makes it a StoppedError, E_WORKER_KILLED, that
    names case, signal and peak memory; a time-out gives E_TIMEOUT. Leaving the loop early ends all workers at once.
    """
    if progress is not None:
        progress(what, 0, len(items))
    if min(workers, len(items)) <= 1:
        outcomes: Iterator[Outcome[Result]] = (_attempt(function, items[i], i) for i in range(len(items)))
    else:
        outcomes = _in_processes(function, items, workers, threads_per_worker, timeout_seconds)
    for done, outcome in enumerate(outcomes, start=1):
        if progress is not None:
            progress(what, done, len(items))
        yield outcome


def _attempt(function: Callable[[Any], Any], item: Any, index: int) -> Outcome[Any]:
    try:
        return Outcome(index, value=function(item))
    except Exception as error:
        return Outcome(index, error=error)


def _in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, threads: int, timeout: float | None
) -> Iterator[Outcome[Any]]:
    """All items by several workers, then those whose worker died one by one."""
    deaths: list[_Death] = []
    for result in _round(function, items, range(len(items)), min(workers, len(items)), threads, timeout):
        if isinstance(result, Outcome):
            yield result
        elif result.timed_out:
            yield _given_up(result, items)
        else:
            deaths.append(result)
    for result in _round(function, items, [death.index for death in deaths], 1, threads, timeout):
        yield result if isinstance(result, Outcome) else _given_up(result, items)


def _round(
    function: Callable[[Any], Any], items: Sequence[Any], indices: Sequence[int], workers: int, threads: int, timeout: float | None
) -> Iterator[Outcome[Any] | _Death]:
    """The items of `indices` shared among `workers` processes, each driven by a thread that waits for it."""
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in indices:
        jobs.put(index)
    results: queue.SimpleQueue[Outcome[Any] | _Death] = queue.SimpleQueue()
    drivers = [_Driver(function, items, jobs, results, threads, timeout) for _ in range(min(workers, len(indices)))]
    try:
        for driver in drivers:
            driver.start()
        for _ in indices:
            yield _next(results)
    finally:
        for driver in drivers:
            driver.stop()
        for driver in drivers:
            driver.join()


def _next(results: queue.SimpleQueue[Any]) -> Any:
    while True:
        # A wait without end would not let Ctrl-C through on Windows.
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=0.5)


class _Driver(threading.Thread):
    """Gives one worker process items until none are left, and a new process where one dies."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        jobs: queue.SimpleQueue[int],
        results: queue.SimpleQueue[Outcome[Any] | _Death],
        threads: int,
        timeout: float | None,
    ) -> None:
        super().__init__(name="autoseg3d-worker", daemon=True)
        self._function, self._items, self._jobs, self._results = function, items, jobs, results
        self._threads, self._timeout = threads, timeout
        self._process: WorkerProcess | None = None
        self._guard = threading.Lock()
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            try:
                index = self._jobs.get_nowait()
            except queue.Empty:
                break
            try:
                self._results.put(self._work(index))
            except Exception as error:
                self._results.put(Outcome(index, error=error))
        self.stop()

    def stop(self) -> None:
        """Ends the worker at once, whatever it does; what it writes appears whole or not at all."""
        with self._guard:
            self._stopped = True
            if self._process is not None:
                self._process.end()

    def _work(self, index: int) -> Outcome[Any] | _Death:
        with self._guard:
            if self._stopped:
                raise StoppedError("the work was stopped")
            if self._process is None:
                self._process = WorkerProcess(self._function, self._threads)
            process = self._process
        try:
            value, error = process.call(self._items[index], self._timeout)
            return Outcome(index, value=value, error=error)
        except (EOFError, OSError):
            cause, peak = process.reap()
            self._process = None
            return _Death(index, cause, peak, process.timed_out)


class WorkerProcess:
    """A worker process and the pipes to it."""

    def __init__(self, function: Callable[[Any], Any], threads: int) -> None:
        # Numerical libraries read their thread limits once, when they are loaded, so they must be told before that.
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
        command = [sys.executable, "-c", _BOOT, json.dumps([os.path.abspath(entry) for entry in sys.path])]
        payload = ForkingPickler.dumps(function)
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._function: memoryview | None = payload
        self.timed_out = False

    def call(self, item: Any, timeout: float | None) -> tuple[Any, Exception | None]:
        """(value, error) of the function for one item. Raises EOFError or OSError where the process dies over it."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        message = ForkingPickler.dumps(item)
        timer = threading.Timer(timeout, self._time_out) if timeout is not None else None
        if timer is not None:
            timer.start()
        try:
            if self._function is not None:
                _send(self._popen.stdin, self._function)
                self._function = None
            _send(self._popen.stdin, message)
            value, error = ForkingPickler.loads(_receive(self._popen.stdout))
        finally:
            if timer is not None:
                timer.cancel()
        return value, error

    def _time_out(self) -> None:
        self.timed_out = True
        self._popen.kill()

    def reap(self) -> tuple[str, int | None]:
        """(what ended the process, a bound of its peak memory in bytes where the system tells) after it has died.

        A bound, since Linux hands a parent's peak on to the programs that it starts.
        """
        peak = None
        if hasattr(os, "wait4"):
            with contextlib.suppress(ChildProcessError):
                _, status, usage = os.wait4(self._popen.pid, 0)
                self._popen.returncode = os.waitstatus_to_exitcode(status)
                peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        code = self._popen.wait()
        self._close()
        return (signal.Signals(-code).name if code < 0 else f"exit code {code}"), peak

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()


def _given_up(death: _Death, items: Sequence[Any]) -> Outcome[Any]:
    item = items[death.index]
    name = item if isinstance(item, str) else str(getattr(item, "id", f"number {death.index + 1}"))
    if death.timed_out:
        error = StoppedError("took longer than allowed and was stopped", case=name, code="E_TIMEOUT")
    else:
        peak = "unknown" if death.peak_bytes is None else f"at most {death.peak_bytes / 2**30:.2f} GiB"
        error = StoppedError(
            "the process that worked on this case was killed, twice, the second time with nothing beside it",
            case=name,
            code="E_WORKER_KILLED",
            got=f"{death.cause}, peak memory {peak}",
            remedy="Memory most likely ran out: free some, or use a machine with more",
        )
    return Outcome(death.index, error=error)


def serve() -> None:
    """What a worker process does: receive the function, then answer items until the parent closes the pipe."""
    # Ctrl-C reaches every process of the terminal; the parent alone decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _own_channels()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    function = _loaded(inbox.get())
    with contextlib.suppress(BrokenPipeError):
        while True:
            _send(replies, _reply(function, inbox.get()))


def _listen(requests: IO[bytes], inbox: queue.SimpleQueue[bytes]) -> None:
    """Takes messages in beside the work, so that a worker whose parent has died ends in the middle of a case."""
    try:
        while True:
            inbox.put(_receive(requests))
    finally:
        os._exit(1)


def _own_channels() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes of the parent, moved off standard input and output so that nothing a library prints can mix in."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _loaded(message: bytes) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = ForkingPickler.loads(message)
        return function
    except Exception as error:
        problem = error

        def fail(_: Any) -> Any:
            raise problem

        return fail


def _reply(function: Callable[[Any], Any], message: bytes) -> memoryview:
    try:
        return ForkingPickler.dumps((function(ForkingPickler.loads(message)), None))
    except Exception as error:
        if not isinstance(error, Autoseg3dError):
            error.add_note("In the worker process:\n" + "".join(traceback.format_exception(error)))
        return _error_reply(error)


def _error_reply(error: Exception) -> memoryview:
    with contextlib.suppress(Exception):
        reply = ForkingPickler.dumps((None, error))
        ForkingPickler.loads(reply)
        return reply
    # Some exceptions cannot be rebuilt from their arguments; their words still can be told.
    stand_in = RuntimeError(f"{type(error).__name__}: {error}")
    stand_in.__notes__ = list(getattr(error, "__notes__", []))
    return ForkingPickler.dumps((None, stand_in))


def _send(pipe: IO[bytes], message: bytes | memoryview) -> None:
    pipe.write(len(message).to_bytes(8, "big"))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    length = int.from_bytes(_exactly(pipe, 8), "big")
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) != count:
        raise EOFError
    return data
