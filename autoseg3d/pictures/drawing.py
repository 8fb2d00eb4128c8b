"""overview and mosaic: planes drawn with matplotlib's Agg, to scale, with outlines, directions and a legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from autoseg3d.files import replacing
from autoseg3d.pictures.planes import NAMES, Convention, Name, Picture, Plane, cut_planes

COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2",
    "#EE8866", "#AAAA00", "#99DDFF", "#FFAABB", "#44BB99",
)  # fmt: skip
"""Colours that people with any colour vision tell apart: those of Okabe and Ito, then those of Tol's light scheme."""

_BACK, _INK, _FAINT = "#101010", "#F2F2F2", "#B4B4B4"
_DPI = 110
_TITLE, _CAPTION, _LEGEND_LINE, _GAP = 0.36, 0.30, 0.24, 0.06
"""Heights in inches of the title, of a caption and of a line of the legend, and the gap between panels."""
_LEGEND_COLUMNS = 6
_ERROR = "#FF3DFF"
LineStyle = Literal["solid"] | tuple[float, Sequence[float]]
_DASHES: LineStyle = (0, (2.2, 1.3))


def overview(
    picture: Picture,
    path: Path | str,
    *,
    names: Mapping[int, str] | None = None,
    convention: Convention = "radiological",
    zoom: bool = True,
    width_inches: float = 12.0,
) -> None:
    """Writes one case in three planes, truth and prediction outlined, as a PNG, or as a JPEG where `path` ends in .jpg.

    The planes meet where truth and prediction differ most, or else lie at the largest section of the foreground.

    Args:
        picture: the case.
        path: the file, which appears whole or not at all.
        names: names of the label values for the legend, in the order in which colours are given out.
        convention: which side the patient's right is on; the picture says so.
        zoom: leave away what lies far from all labels.
        width_inches: at 110 pixels each.

    Raises StorageError.
    """
    planes = cut_planes(picture, convention=convention, zoom=zoom)
    colours = _colours(planes, names)
    legend = _legend(planes, colours, names or {})
    sizes = [(plane.image.shape[0] * plane.pixel_mm[0], plane.image.shape[1] * plane.pixel_mm[1]) for plane in planes]
    height_mm = max(height for height, _ in sizes)
    scale = min((width_inches - 4 * _GAP) / sum(width for _, width in sizes), 0.6 * width_inches / height_mm)
    foot = _CAPTION + _LEGEND_LINE * math.ceil(len(legend) / _LEGEND_COLUMNS) + 0.1
    sheet = _Sheet(width_inches, scale * height_mm + _TITLE + foot)
    left = _GAP + (width_inches - 4 * _GAP - scale * sum(width for _, width in sizes)) / 2
    for plane, (height, width) in zip(planes, sizes, strict=True):
        bottom = foot + scale * (height_mm - height) / 2
        axes = sheet.panel(left, bottom, scale * width, scale * height)
        _draw(axes, plane, colours, marks=True)
        sheet.text(left + scale * width / 2, bottom - 0.06, f"{plane.name} · {plane.position}", size=9, ha="center", va="top")
        left += scale * width + _GAP
    sheet.text(0.1, sheet.height - 0.1, picture.title, size=11, weight="bold", va="top")
    sheet.text(width_inches - 0.1, sheet.height - 0.12, _side(convention), size=8.5, color=_FAINT, ha="right", va="top")
    sheet.legend(legend)
    sheet.save(path)


def mosaic(
    pictures: Iterable[Picture],
    path: Path | str,
    *,
    names: Mapping[int, str] | None = None,
    plane: Name = "axial",
    columns: int = 5,
    convention: Convention = "radiological",
    zoom: bool = False,
    width_inches: float = 12.0,
) -> None:
    """Writes one plane of each of many cases as a contact sheet, a PNG.

    `pictures` may be a generator: only the planes are kept, so a whole dataset fits into memory. The rest as in
    `overview`. Raises ValueError for no picture at all, StorageError for the disk.
    """
    which = NAMES.index(plane)
    tiles = [(cut_planes(picture, convention=convention, zoom=zoom)[which], picture.title) for picture in pictures]
    if not tiles:
        raise ValueError("a mosaic needs at least one picture")
    shown = [tile for tile, _ in tiles]
    columns = min(columns, len(tiles))
    colours = _colours(shown, names)
    legend = _legend(shown, colours, names or {})
    cell = (width_inches - _GAP * (columns + 1)) / columns
    heights = [cell * tile.image.shape[0] * tile.pixel_mm[0] / (tile.image.shape[1] * tile.pixel_mm[1]) for tile in shown]
    cell_height = min(max(heights), 1.3 * cell)
    rows = math.ceil(len(tiles) / columns)
    foot = _LEGEND_LINE * math.ceil(len(legend) / _LEGEND_COLUMNS) + 0.34
    sheet = _Sheet(width_inches, rows * (cell_height + _CAPTION) + foot)
    for i, (tile, title) in enumerate(tiles):
        left = _GAP + (i % columns) * (cell + _GAP)
        bottom = sheet.height - (i // columns + 1) * (cell_height + _CAPTION)
        sheet.text(left + 0.02, bottom + cell_height + 0.07, title, size=8)
        _draw(sheet.panel(left, bottom, cell, cell_height), tile, colours, marks=False)
    sheet.text(0.1, foot - 0.2, f"{plane} planes" + ("" if plane == "sagittal" else f", {_side(convention)}"), size=8, color=_FAINT)
    sheet.legend(legend)
    sheet.save(path)


class _Sheet:
    """A dark page measured in inches from its lower left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_BACK)

    def panel(self, left: float, bottom: float, width: float, height: float) -> Axes:
        axes = self._figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))
        axes.set_axis_off()
        axes.set_anchor("N")
        return axes

    def text(self, x: float, y: float, words: str, *, size: float, color: str = _INK, **how: Any) -> None:
        self._figure.text(x / self.width, y / self.height, words, fontsize=size, color=color, parse_math=False, **how)

    def legend(self, handles: Sequence[Line2D]) -> None:
        """Lines with their labels, at the foot of the page."""
        if handles:
            columns = min(_LEGEND_COLUMNS, len(handles))
            style: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": _INK, "handlelength": 2.6, "borderaxespad": 0.3}
            drawn = self._figure.legend(handles=list(handles), loc="lower center", ncols=columns, **style)
            for text in drawn.get_texts():
                text.set_parse_math(False)

    def save(self, path: Path | str) -> None:
        """Writes the page without a date or a software name in it: the same picture gives the same bytes."""
        FigureCanvasAgg(self._figure)
        jpeg = Path(path).suffix == ".jpg"
        how: dict[str, Any] = {"pil_kwargs": {"quality": 82}} if jpeg else {"metadata": {"Software": None}}
        with replacing(path) as temporary:
            self._figure.savefig(temporary, format="jpeg" if jpeg else "png", facecolor=_BACK, **how)


def _side(convention: Convention) -> str:
    return f"{convention}: R on the {'left' if convention == 'radiological' else 'right'}"


def _colours(planes: Sequence[Plane], names: Mapping[int, str] | None) -> dict[int, str]:
    """A colour for each value, by its place among the names, so that an organ looks the same in every picture."""
    values = list(names) if names else []
    seen = {int(v) for plane in planes for array in (plane.labels, plane.prediction) if array is not None for v in np.unique(array)}
    values += sorted(seen - {0, *values})
    return {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(values)}


def _legend(planes: Sequence[Plane], colours: Mapping[int, str], names: Mapping[int, str]) -> list[Line2D]:
    """A line for each label that some plane shows, and what solid, dashed and tinted mean where there are both maps."""
    shown = {int(v) for plane in planes for array in (plane.labels, plane.prediction) if array is not None for v in np.unique(array)}
    lines = [
        Line2D([], [], color=colour, linewidth=2, label=names.get(value, f"label {value}"))
        for value, colour in colours.items()
        if value in shown
    ]
    if lines and any(plane.labels is not None and plane.prediction is not None for plane in planes):
        lines += [
            Line2D([], [], color=_INK, linewidth=2, label="truth"),
            Line2D([], [], color=_INK, linewidth=2, linestyle=_DASHES, label="prediction"),
        ]
        lines += [Line2D([], [], color=_ERROR, alpha=0.5, linewidth=7, label="difference")]
    return lines


def _draw(axes: Axes, plane: Plane, colours: Mapping[int, str], *, marks: bool) -> None:
    """One plane to scale, with its outlines and the directions at its edges, and `marks` where the other planes lie."""
    axes.imshow(
        plane.image,
        cmap="gray",
        vmin=plane.window[0],
        vmax=plane.window[1],
        interpolation="bilinear",
        aspect=plane.pixel_mm[0] / plane.pixel_mm[1],
    )
    axes.autoscale(False)
    if plane.labels is not None and plane.prediction is not None:
        _tint(axes, plane.labels != plane.prediction)
    if plane.labels is not None:
        _outline(axes, plane.labels, colours, "solid")
    if plane.prediction is not None:
        _outline(axes, plane.prediction, colours, "solid" if plane.labels is None else _DASHES)
    for at, line in zip(plane.marks if marks else (), (axes.axhline, axes.axvline), strict=False):
        for start in (0.0, 0.96):
            line(at, start, start + 0.04, color=_INK, linewidth=0.8)
    halo = [withStroke(linewidth=2, foreground="black")]
    places = ((0.05, 0.5), (0.95, 0.5), (0.5, 0.955), (0.5, 0.045))
    for letter, (x, y) in zip(plane.letters, places, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, ha="center", va="center", color=_INK, fontsize=9, weight="bold", path_effects=halo
        )


def _tint(axes: Axes, wrong: np.ndarray) -> None:
    """Colours the voxels in which truth and prediction differ."""
    colour = np.zeros((*wrong.shape, 4), dtype=np.float32)
    colour[..., :3] = to_rgb(_ERROR)
    colour[..., 3] = 0.4 * wrong
    axes.imshow(colour, interpolation="nearest", aspect=axes.get_aspect())


def _outline(axes: Axes, labels: np.ndarray, colours: Mapping[int, str], style: LineStyle) -> None:
    """The outlines of all values but 0; the array is padded so that they close at the edge of the picture."""
    rows, columns = np.arange(-1, labels.shape[0] + 1), np.arange(-1, labels.shape[1] + 1)
    for value in np.unique(labels):
        if value:
            mask = np.pad(labels == value, 1).astype(np.float32)
            axes.contour(columns, rows, mask, levels=[0.5], colors=[colours[int(value)]], linewidths=1.3, linestyles=[style])
