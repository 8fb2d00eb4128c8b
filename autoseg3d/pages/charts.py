"""Charts as SVG in the page's own colours: lines over epochs, and one dot per case with the mean and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from autoseg3d.pages.rendering import render

WIDTH, HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34
_MOST_POINTS = 300
_ROW = 34
_NAME = 120
_MARGIN = 0.03
_COLOURS = 8


@dataclass(frozen=True)
class Series:
    """One line: values over x; None and values that are not finite leave a gap. `dashed` for what is compared with."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where in the drawing, and its number."""

    at: float
    text: str


@dataclass(frozen=True)
class LineChart:
    """Lines over a shared axis.

    y_range   the values at the bottom and the top; those of the data where None
    """

    title: str
    series: Sequence[Series]
    x_name: str = ""
    y_range: tuple[float, float] | None = None

    width, height, left, right, top, bottom = WIDTH, HEIGHT, _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM

    def lines(self) -> list[tuple[Series, int, list[str]]]:
        """Each series with the number of its colour and its unbroken stretches, "x,y x,y …" in the drawing."""
        return [(series, i % _COLOURS, self._stretches(series)) for i, series in enumerate(self.series)]

    def x_ticks(self) -> list[Tick]:
        """Marks below."""
        low, high = self._x_range()
        return [Tick(self._x(value), _text(value)) for value in nice_ticks(low, high)]

    def y_ticks(self) -> list[Tick]:
        """Marks on the left."""
        low, high = self._y_range()
        return [Tick(self._y(value), _text(value)) for value in nice_ticks(low, high)]

    def html(self) -> Markup:
        """The drawing and its legend."""
        return render("line_chart", self)

    def _stretches(self, series: Series) -> list[str]:
        thinned = slice(None, None, max(1, math.ceil(len(series.x) / _MOST_POINTS)))
        stretches: list[list[str]] = [[]]
        low, high = self._y_range()
        for x, y in zip(series.x[thinned], series.y[thinned], strict=True):
            if y is None or not math.isfinite(y):
                stretches.append([])
            else:
                stretches[-1].append(f"{self._x(x):.1f},{self._y(min(max(y, low), high)):.1f}")
        return [" ".join(stretch) for stretch in stretches if stretch]

    def _x_range(self) -> tuple[float, float]:
        return _range([x for series in self.series for x in series.x])

    def _y_range(self) -> tuple[float, float]:
        return self.y_range or _range([y for series in self.series for y in series.y if y is not None and math.isfinite(y)])

    def _x(self, value: float) -> float:
        low, high = self._x_range()
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def _y(self, value: float) -> float:
        low, high = self._y_range()
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


@dataclass(frozen=True)
class DotRow:
    """One row of dots: a value per case, their mean, and its confidence interval where there is one."""

    name: str
    values: Sequence[float]
    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DotChart:
    """Rows of dots over one axis: how a measure lies over the cases."""

    title: str
    rows: Sequence[DotRow]

    width, left, right = WIDTH, _NAME, WIDTH - _RIGHT

    @property
    def height(self) -> float:
        """Of the drawing."""
        return _ROW * len(self.rows) + _BOTTOM

    @property
    def bottom(self) -> float:
        """Where the axis lies."""
        return _ROW * len(self.rows) + 4

    def placed(self) -> list[tuple[DotRow, float, list[tuple[float, float]]]]:
        """Each row with its height in the drawing and its dots, scattered up and down so that they do not hide each other."""
        return [
            (row, _ROW * (i + 0.5), [(self.x(v), _ROW * (i + 0.5) + 9 * _scatter(k)) for k, v in enumerate(row.values)])
            for i, row in enumerate(self.rows)
        ]

    def ticks(self) -> list[Tick]:
        """Marks below."""
        return [Tick(self.x(value), _text(value)) for value in nice_ticks(*self._range())]

    def x(self, value: float) -> float:
        """Where a value lies in the drawing."""
        low, high = self._range()
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def html(self) -> Markup:
        """The drawing."""
        return render("dot_chart", self)

    def _range(self) -> tuple[float, float]:
        low, high = _range([v for row in self.rows for v in row.values])
        return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def nice_ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about so many: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(np.round(i * step, 12)) for i in range(first, last + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest value, never empty."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scatter(index: int) -> float:
    """A number from -0.5 to 0.5 that looks random and is the same every time (multiples of the golden ratio)."""
    return (index * 0.6180339887) % 1 - 0.5


def _text(value: float) -> str:
    return f"{value:.6g}"
