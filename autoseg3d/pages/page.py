"""The frame of a page: title, contents, sections, scripts, and the policy that keeps everything else out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from autoseg3d import __version__
from autoseg3d.files import write_text
from autoseg3d.pages.blocks import Block
from autoseg3d.pages.rendering import render


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; `lead` says in a sentence how to read it."""

    title: str
    blocks: Sequence[Block]
    lead: str | None = None

    @property
    def id(self) -> str:
        """What links to it are called: a hash, since titles may hold anything."""
        return "s" + hashlib.sha256(self.title.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Script:
    """JavaScript that runs in the page. Only the program's own: never text that came from data."""

    code: str

    @property
    def text(self) -> Markup:
        """The code so that it cannot end its element early; equal in meaning inside strings and regular expressions."""
        return Markup(self.code.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


@dataclass(frozen=True)
class Data:
    """Bytes for the page's scripts, found by their id; the browser itself never looks at them."""

    id: str
    data: bytes

    @property
    def text(self) -> str:
        """The bytes in base64."""
        return base64.b64encode(self.data).decode()


@dataclass(frozen=True)
class Page:
    """A whole page.

    intro     blocks before the first section, what matters most
    scripts   in the order in which they run
    """

    title: str
    subtitle: str = ""
    intro: Sequence[Block] = ()
    sections: Sequence[Section] = ()
    data: Sequence[Data] = ()
    scripts: Sequence[Script] = ()

    @property
    def style(self) -> Markup:
        """The style sheet."""
        return _style()

    @property
    def policy(self) -> str:
        """The Content-Security-Policy: no request leaves, and nothing runs but these very scripts."""
        parts = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data: blob:", f"style-src {_hash(self.style)}"]
        if self.scripts:
            parts.append("script-src " + " ".join(_hash(script.text) for script in self.scripts))
        return "; ".join(parts)

    @property
    def version(self) -> str:
        """The program's."""
        return __version__


def render_page(page: Page) -> str:
    """The page as one HTML document."""
    return str(render("page", page, template="page.html")).lstrip()


def write_page(path: Path | str, page: Page) -> None:
    """Writes the page as one HTML file, whole or not at all. Raises StorageError."""
    write_text(path, render_page(page))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _style() -> Markup:
    return Markup(resources.files("autoseg3d.pages").joinpath("templates/style.css").read_text(encoding="utf-8"))
