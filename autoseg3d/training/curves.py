"""curves.png: how a fold learns, drawn from its log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoseg3d.files import replacing

# Drawing may cost this share of the training time, and never happens more often than this many seconds.
_SHARE, _SECONDS = 0.01, 30.0
_MOST_LABELS = 12


class Curves:
    """Draws the curves of a growing log, seldom enough not to be felt."""

    def __init__(self, path: Path, *, title: str) -> None:
        self.path, self.title = path, title
        self._next = time.monotonic() + _SECONDS

    def update(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Draws where the last drawing is long enough ago."""
        if time.monotonic() >= self._next:
            self.draw(log)

    def draw(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Draws now. Nothing where the log is empty."""
        if not log:
            return
        start = time.monotonic()
        draw_curves(log, self.path, title=self.title)
        now = time.monotonic()
        self._next = now + max(_SECONDS, (now - start) / _SHARE)


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Loss, pseudo-Dice per label, learning rate and speed over the epochs of `log`, as a PNG at `path`."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    ((loss, dice), (rate, speed)) = figure.subplots(2, 2)
    figure.suptitle(title)
    epochs = list(range(1, len(log) + 1))
    loss.plot(epochs, [_number(r["loss"]) for r in log], label="training")
    loss.plot(epochs, [_number(r["validation_loss"]) for r in log], label="validation")
    _finish(loss, "loss", legend=True)
    _draw_dice(dice, epochs, log)
    rate.plot(epochs, [r["learning_rate"] for r in log])
    _finish(rate, "learning rate")
    speed.plot(epochs, [_number(r["timing"]["samples_per_second"]) for r in log])
    speed.set_ylim(bottom=0)
    _finish(speed, "patches per second")
    for axes in (rate, speed):
        axes.set_xlabel("epoch")
    with replacing(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=90)


def _draw_dice(axes: Axes, epochs: list[int], log: Sequence[Mapping[str, Any]]) -> None:
    labels = list(log[-1]["dice"])
    for label in labels[:_MOST_LABELS]:
        axes.plot(epochs, [_number(r["dice"].get(label)) for r in log], linewidth=0.8, alpha=0.7, label=label)
    axes.plot(epochs, [_number(r["ema_dice"]) for r in log], color="black", label="mean, smoothed")
    axes.set_ylim(0, 1)
    more = f" ({_MOST_LABELS} of {len(labels)} labels)" if len(labels) > _MOST_LABELS else ""
    _finish(axes, "Dice on validation patches" + more, legend=True)


def _finish(axes: Axes, title: str, *, legend: bool = False) -> None:
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(fontsize="small")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
