"""Histogram: how a number lies over the cases of a dataset, as bars in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from markupsafe import Markup

from autoseg3d.pages import render
from autoseg3d.pages.charts import HEIGHT, WIDTH, Tick, nice_ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 12, 34
_MOST_BARS = 24


@dataclass(frozen=True)
class Bar:
    """One bar in the drawing, and in words what it stands for."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Histogram:
    """Bars for `values` (at least one, finite). `logarithmic` where they are all above 0 and span orders of magnitude."""

    title: str
    values: Sequence[float]
    unit: str = ""
    logarithmic: bool = False

    width, height, left, right, top, bottom = WIDTH, HEIGHT, _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM

    @cached_property
    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        """(counts, edges) on the axis that is drawn; equal values stand in one bar in the middle."""
        values = np.log10(self.values) if self.logarithmic else np.asarray(self.values, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        if high - low <= 1e-6 * max(abs(high), abs(low)):
            reach = 0.5 * max(abs(low), 1.0)
            return np.array([0, len(values), 0]), np.array([low - reach, low - 0.1 * reach, low + 0.1 * reach, low + reach])
        counts, edges = np.histogram(values, bins=min(_MOST_BARS, 1 + math.ceil(2 * math.sqrt(len(values)))))
        return counts, edges

    def bars(self) -> list[Bar]:
        """Those that are not empty."""
        counts, edges = self._counted
        tall = (self.bottom - self.top) / counts.max()
        return [
            Bar(
                self._x(low) + 0.5,
                self.bottom - count * tall,
                max(self._x(high) - self._x(low) - 1, 1),
                count * tall,
                f"{count} case{'s' if count > 1 else ''} from {self._value(low):.4g} to {self._value(high):.4g} {self.unit}".rstrip(),
            )
            for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            if count
        ]

    def x_ticks(self) -> list[Tick]:
        """Marks below: round numbers."""
        low, high = (float(edge) for edge in self._counted[1][[0, -1]])
        if not self.logarithmic:
            return [Tick(self._x(value), f"{value:.6g}") for value in nice_ticks(low, high)]
        powers = range(math.floor(low), math.ceil(high) + 1)
        steps = (1, 2, 5) if high - low < 2 else (1,)
        marks = [(step * 10.0**power) for power in powers for step in steps]
        return [Tick(self._x(math.log10(mark)), f"{mark:.6g}") for mark in marks if low <= math.log10(mark) <= high]

    def y_ticks(self) -> list[Tick]:
        """Whole numbers of cases on the left."""
        most = int(self._counted[0].max())
        marks = sorted({round(mark) for mark in nice_ticks(0, most, about=4)}) if most > 1 else [0, 1]
        return [Tick(self.bottom - mark * (self.bottom - self.top) / most, str(mark)) for mark in marks]

    def caption(self) -> str:
        """Title and unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def html(self) -> Markup:
        """The drawing."""
        return render("histogram", self, package="autoseg3d.report", template="histogram.html")

    def _value(self, place: float) -> float:
        return float(10**place) if self.logarithmic else place

    def _x(self, place: float) -> float:
        low, high = self._counted[1][[0, -1]]
        return self.left + float((place - low) / (high - low)) * (self.right - self.left)
