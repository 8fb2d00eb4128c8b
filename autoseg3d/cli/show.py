"""What the commands put on the terminal: tables, progress bars with the time left, and plain lines where it is no terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

# torchrun numbers the processes it starts; what several do together the first one tells.
_TOLD_ELSEWHERE = os.environ.get("RANK", "0") != "0"
# Progress and remarks go to stderr, so that stdout holds only what a script may want to read.
console = Console(stderr=True, highlight=False, quiet=_TOLD_ELSEWHERE)
output = Console(highlight=False, quiet=_TOLD_ELSEWHERE)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, to: Console | None = None) -> None:
    """Prints a table; numbers are expected as text already."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False)
    for i, column in enumerate(columns):
        made.add_column(column, overflow="fold", justify="left" if i == 0 else "default")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    (to or output).print(made)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback (what, done, total): one bar per task on a terminal, a line every ten seconds elsewhere."""
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=False) as bars:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield update


class _Lines:
    """Progress for log files: what, done of total and the time left, at most every ten seconds and at the end."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        begun = self._started.setdefault(what, now)
        if done < total and now - self._last < 10:
            return
        self._last = now
        left = (now - begun) / done * (total - done) if done else 0.0
        console.print(f"{what}: {done}/{total}" + (f", about {duration(left)} left" if done < total and done else ""))


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
