"""What stands in a section of a page. All are plain data; `html` gives them to the templates."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from markupsafe import Markup

from autoseg3d.pages.rendering import render

Tone = Literal["plain", "good", "warn", "bad"]
"""How something is coloured. The words say it too: colour is never the only sign."""

_NUMBER = re.compile(r"[+−-]?\d[\d.,:× –%]*( ?(mL|mm|s|min|h|%|GB|MB))?|–|inf|")
_SIGNATURES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


class Block(Protocol):
    """Anything that can stand in a section."""

    def html(self) -> Markup:
        """The block as markup, everything in it escaped."""


@dataclass(frozen=True)
class Text:
    """A paragraph; `quiet` ones explain how something is to be read."""

    words: str
    quiet: bool = False

    def html(self) -> Markup:
        """A paragraph."""
        return render("text", self)


@dataclass(frozen=True)
class Facts:
    """Short facts side by side: (what, value), such as ("cases", "52")."""

    pairs: Sequence[tuple[str, str]]

    def html(self) -> Markup:
        """A list of terms."""
        return render("facts", self)


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a tone, or with a link to the block that has the id `target` on the same page."""

    text: str
    tone: Tone = "plain"
    target: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether it is a number, and so stands to the right."""
        return _NUMBER.fullmatch(self.text) is not None


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows. On a narrow screen it scrolls sideways while that column stays."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str | None = None

    def cells(self) -> list[list[Cell]]:
        """The rows, every cell a Cell."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    def numeric_columns(self) -> list[bool]:
        """Which columns hold nothing but numbers."""
        cells = self.cells()
        return [bool(i and cells) and all(row[i].numeric for row in cells) for i in range(len(self.heads))]

    def html(self) -> Markup:
        """A table that can scroll."""
        return render("table", self)


@dataclass(frozen=True)
class Notice:
    """A box that asks for attention: what is the matter, why, and what to do.

    target: id of another block on the page where there is more to see.
    """

    title: str
    tone: Tone = "warn"
    reasons: Sequence[str] = ()
    remedy: str | None = None
    target: str | None = None

    def html(self) -> Markup:
        """A box."""
        return render("notice", self)


@dataclass(frozen=True)
class Image:
    """A PNG or JPEG picture inside the page; `alt` says in words what it shows."""

    data: bytes
    alt: str
    caption: str | None = None

    @property
    def uri(self) -> str:
        """The picture as a data URI. Raises ValueError for bytes of another kind (an SVG could hold scripts)."""
        kind = next((kind for signature, kind in _SIGNATURES if self.data.startswith(signature)), None)
        if kind is None:
            raise ValueError("a page embeds PNG and JPEG pictures only")
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"

    def html(self) -> Markup:
        """A figure with its caption."""
        return render("image", self)


@dataclass(frozen=True)
class Gallery:
    """Blocks side by side where there is room, one below the other where there is not."""

    blocks: Sequence[Block]

    def html(self) -> Markup:
        """A grid."""
        return render("gallery", self)


@dataclass(frozen=True)
class Details:
    """Blocks that unfold with a click; printed unfolded. `id` makes it the target of links."""

    summary: str
    blocks: Sequence[Block]
    id: str | None = None
    note: str | None = None
    tone: Tone = "plain"
    unfolded: bool = False

    def html(self) -> Markup:
        """A part that unfolds."""
        return render("details", self)
