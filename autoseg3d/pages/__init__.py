"""Pages: one HTML file each, complete in itself, for people who do not program; readable on a phone, printable to PDF.

page      Page, Section: the frame, its contents, its security policy; write_page
blocks    what stands in a section: Text, Facts, Table, Notice, Image, Gallery, Details
charts    LineChart, DotChart: drawn as SVG, so that they follow the reader's light or dark colours
rendering the templates: every text is escaped there and nowhere else

A page is data until it is rendered: callers give words, numbers and picture bytes, never markup. Nothing in a page asks the
network for anything, and only the scripts that the page itself was given can run (a Content-Security-Policy with their hashes).

    page = Page("Dataset health", sections=(Section("Faults", (Table(("case", "fault"), rows), Text("None of these…"))),))
    write_page(path, page)
"""

from autoseg3d.pages.blocks import Block, Cell, Details, Facts, Gallery, Image, Notice, Table, Text, Tone
from autoseg3d.pages.charts import DotChart, DotRow, LineChart, Series
from autoseg3d.pages.page import Data, Page, Script, Section, render_page, write_page
from autoseg3d.pages.rendering import render

__all__ = [
    "Block",
    "Cell",
    "Data",
    "Details",
    "DotChart",
    "DotRow",
    "Facts",
    "Gallery",
    "Image",
    "LineChart",
    "Notice",
    "Page",
    "Script",
    "Section",
    "Series",
    "Table",
    "Text",
    "Tone",
    "render",
    "render_page",
    "write_page",
]
