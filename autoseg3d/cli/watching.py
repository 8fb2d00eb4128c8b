"""The live view of a training: epochs, loss, Dice per label, speed and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.text import Text

from autoseg3d.cli import show

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def watch() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A callback for training events (see autoseg3d.training).

    On a terminal the running epoch is one line that changes; every finished epoch is a line that stays, at most one in
    ten seconds. Alarms and remarks are always shown.
    """
    if not show.console.is_terminal:
        yield _Watcher(None)
        return
    with Live(console=show.console, refresh_per_second=4, transient=True) as live:
        yield _Watcher(live)


class _Watcher:
    def __init__(self, live: Live | None) -> None:
        self._live = live
        self._last = -_SECONDS_BETWEEN_LINES

    def __call__(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "step":
            if self._live is not None:
                self._live.update(Text(step_line(event)))
        elif kind == "epoch":
            if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
                self._last = time.monotonic()
                show.console.print(epoch_line(event), soft_wrap=True)
        elif "message" in event:
            show.console.print(_of_fold(event) + str(event["message"]), style="bold red" if kind == "alarm" else None, soft_wrap=True)


def step_line(event: Mapping[str, Any]) -> str:
    """The running epoch in one line: epoch, step, share done, loss, time left."""
    loss = "skipped" if event["loss"] is None else f"{event['loss']:.3f}"
    left = show.duration(event["eta_seconds"])
    return f"{_of_fold(event)}epoch {event['epoch']}  step {event['step']}  {100 * event['position']:.0f} %  loss {loss}  {left} left"


def epoch_line(event: Mapping[str, Any]) -> str:
    """A finished epoch in one line: losses, Dice per label, learning rate, speed, memory, time left."""
    timing = event["timing"]
    dice = " ".join(f"{name} {_number(value)}" for name, value in event["dice"].items())
    speed = timing["samples_per_second"]
    parts = [
        f"{_of_fold(event)}epoch {event['epoch']}",
        f"loss {_number(event['loss'])}",
        f"validation {_number(event['validation_loss'])}",
        f"Dice {_number(event['mean_dice'])} ({dice})",
        f"rate {event['learning_rate']:.2g}",
        *([f"{speed:.1f} patches/s"] if speed else []),
        show.size(timing["memory_bytes"]),
        f"{show.duration(event['eta_seconds'])} left",
    ]
    return "  ".join(parts)


def _of_fold(event: Mapping[str, Any]) -> str:
    """Says which fold speaks where several are trained at once."""
    return f"fold {event['fold']}: " if "fold" in event and event["event"] != "start" else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
