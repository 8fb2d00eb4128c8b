"""One piece of work beside the caller's own, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """Starts `work` at once in a thread that never keeps the program from ending; `result` waits for it."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._value: Result
        self._error: BaseException | None = None
        # The thread alone holds the work, so that what it needed is free once it has ended.
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Result]) -> None:
        try:
            self._value = work()
        except BaseException as error:
            self._error = error

    def wait(self, seconds: float | None = None) -> bool:
        """Returns when the work has ended, however it did, or after so many seconds; whether it has ended."""
        until = None if seconds is None else time.monotonic() + seconds
        while self._thread.is_alive() and (until is None or time.monotonic() < until):
            # A wait without end would not let Ctrl-C through on Windows.
            self._thread.join(timeout=0.5 if until is None else max(0.0, min(0.5, until - time.monotonic())))
        return not self._thread.is_alive()

    def result(self, seconds: float | None = None) -> Result:
        """What the work gave. Raises what it raised, and TimeoutError where it takes longer: then it is left to itself."""
        if not self.wait(seconds):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value
