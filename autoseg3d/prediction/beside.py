"""One piece of work beside the caller's own, in a thread."""

from __future__ import annotations

import threading
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

    def wait(self) -> None:
        """Returns when the work has ended, however it did."""
        while self._thread.is_alive():
            # A wait without end would not let Ctrl-C through on Windows.
            self._thread.join(timeout=0.5)

    def result(self) -> Result:
        """What the work gave. Raises what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value
