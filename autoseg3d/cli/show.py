"""What the commands put on the terminal: tables, progress bars with the time left, and plain lines where it is no terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

# torchrun numbers the processes it starts; what several do together the first one tells.
_TOLD_ELSEWHERE = os.environ.get("RANK", "0") != "0"
# Progress and remarks go to stderr, so that stdout holds only what a script may want to read.
# Names of labels, cases and files may hold brackets, which are not markup.
console = Console(stderr=True, highlight=False, markup=False, quiet=_TOLD_ELSEWHERE)
output = Console(highlight=False, markup=False, quiet=_TOLD_ELSEWHERE)


def finding(kind: str, text: str, *, style: str) -> None:
    """Prints a line that begins with what kind of finding it is, in colour."""
    output.print(Text.assemble((f"{kind:<7} ", style), text), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, to: Console | None = None) -> None:
    """Prints a table; numbers are expected as text already."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    for i, column in enumerate(columns):
        made.add_column(column, overflow="fold", justify="left" if i == 0 else "default")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    (to or output).print(made)


# Work is not shown itself: it tells the time left of scans, of which a large one takes longer than a small one.
_TOLD_BY = {"kilovoxels": "scans"}


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback (what, done, total): one bar per task on a terminal, a line every ten seconds elsewhere."""
    if not console.is_terminal:
        yield _Lines()
        return
    pace = _Pace()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), _Left(pace))
    with Progress(*columns, console=console, transient=False) as bars:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            pace.note(what, done, total)
            if what in _TOLD_BY:
                return
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


class _Pace:
    """How far each task is, and how long it will take on: by its own count, or by the work that stands for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._share: dict[str, tuple[int, int]] = {}

    def note(self, what: str, done: int, total: int) -> None:
        if what not in self._begun or done < self._share[what][0]:
            self._begun[what] = (self._clock(), done)  # a task that starts again, as the windows of the next scan
        self._share[what] = (done, total)

    def left(self, what: str) -> float | None:
        """Seconds; None where nothing can be said yet."""
        told = next((work for work, shown in _TOLD_BY.items() if shown == what and work in self._share), what)
        if told not in self._share:
            return None
        (done, total), (begun, first) = self._share[told], self._begun[told]
        return (self._clock() - begun) / (done - first) * (total - done) if done > first else None


class _Left(ProgressColumn):
    """The time that is left, in words."""

    def __init__(self, pace: _Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: Task) -> Text:
        left = None if task.finished else self._pace.left(task.description)
        return Text("" if left is None else f"{duration(left)} left")


class _Lines:
    """Progress for log files: what, done of total and the time left, at most every ten seconds and at the end."""

    def __init__(self) -> None:
        self._pace, self._last = _Pace(), 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        self._pace.note(what, done, total)
        now = time.monotonic()
        if what in _TOLD_BY or (done < total and now - self._last < 10):
            return
        self._last = now
        left = self._pace.left(what) if done < total else None
        console.print(f"{what}: {done}/{total}" + ("" if left is None else f", about {duration(left)} left"))


def duration(seconds: float) -> str:
    """A time span in words: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """A number of bytes in words: "3.2 GB" (powers of 1024)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"
