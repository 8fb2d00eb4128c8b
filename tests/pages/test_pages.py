"""Pages: everything is escaped, nothing comes from elsewhere, and only the page's own scripts may run."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoseg3d.pages import (
    Cell,
    Data,
    Details,
    DotChart,
    DotRow,
    Facts,
    Gallery,
    Image,
    LineChart,
    Notice,
    Page,
    Script,
    Section,
    Series,
    Table,
    Text,
    render_page,
    write_page,
)
from autoseg3d.pages.charts import nice_ticks

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(1)> {{ 7 * 7 }} &amp;"""
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class _Elements(HTMLParser):
    """Every element with its attributes, and the text of the page."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _everything(words: str) -> Page:
    """A page with every kind of block, each with `words` wherever words can stand."""
    lines = LineChart(words, (Series(words, (1, 2, 3), (0.1, None, 0.3)), Series(words, (1, 2), (1.0, 2.0), dashed=True)), x_name=words)
    blocks = (
        Text(words),
        Facts(((words, words),)),
        Table((words, words), ((words, Cell(words, "bad", target=words)), (words, "3.5")), caption=words),
        Notice(words, "bad", (words,), words, target=words),
        Gallery((Image(PNG, words, words), lines)),
        Details(words, (DotChart(words, (DotRow(words, (0.1, 0.5), 0.3, 0.2, 0.4),)),), id=words, note=words),
    )
    return Page(words, words, (Text(words),), (Section(words, blocks, lead=words),) * 3, (Data("d", b"abc"),), (Script("let a = 1"),))


def test_hostile_words_stay_words() -> None:
    page = _Elements(render_page(_everything(HOSTILE)))
    harmless = _Elements(render_page(_everything("harmless")))
    assert [tag for tag, _ in page.found] == [tag for tag, _ in harmless.found]
    assert [sorted(attributes) for _, attributes in page.found] == [sorted(attributes) for _, attributes in harmless.found]
    assert HOSTILE in page.text
    assert page.open == []


def test_nothing_is_loaded_from_elsewhere() -> None:
    document = render_page(_everything("a"))
    for tag, attributes in _Elements(document).found:
        for name in ("src", "href", "data", "action"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, name, value)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert "@import" not in document
    assert "url(" not in document


def test_the_policy_allows_the_pages_own_scripts_and_no_other() -> None:
    document = render_page(Page("t", scripts=(Script("let a = '</script><!-- x'"),)))
    (policy,) = (a["content"] for tag, a in _Elements(document).found if a.get("http-equiv") == "Content-Security-Policy")
    (code,) = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    assert policy.startswith("default-src 'none'")
    assert f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" in policy
    assert code == r"let a = '<\/script><\!-- x'"
    for dangerous in ("unsafe", "http:", "https:", "*"):
        assert dangerous not in policy
    assert "script-src" not in render_page(Page("no scripts"))


def test_only_pixels_are_embedded_as_pictures() -> None:
    assert Image(PNG, "a dot").uri.startswith("data:image/png;base64,")
    with pytest.raises(ValueError, match="PNG and JPEG"):
        _ = Image(b"<svg onload='alert(1)'/>", "an SVG").uri


def test_columns_of_numbers_stand_to_the_right() -> None:
    table = Table(("case", "Dice", "interval", "why"), (("001", "0.87", "0.81–0.92", "3 parts"), ("002", "–", "", "x")))
    assert table.numeric_columns() == [False, True, True, False]
    assert Table(("a",), ()).html()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.83, 0.91), (-3, 1200), (1e-6, 2e-6)])
def test_ticks_are_round_numbers_within_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert all(float(f"{tick:.3g}") == tick for tick in ticks)


def test_lines_break_where_values_are_missing_and_stay_inside_the_frame() -> None:
    chart = LineChart("t", (Series("a", range(6), (0.5, float("nan"), 5.0, -5.0, None, 0.5)),), y_range=(0, 1))
    ((_, _, stretches),) = chart.lines()
    assert len(stretches) == 3
    heights = [float(point.split(",")[1]) for stretch in stretches for point in stretch.split()]
    assert min(heights) >= chart.top
    assert max(heights) <= chart.bottom


@pytest.mark.parametrize("values", [(), (0.5,), (0.5, 0.5)])
def test_charts_of_little_data_are_drawn(values: tuple[float, ...]) -> None:
    assert "<svg" in DotChart("t", (DotRow("a", values),)).html()
    assert "<svg" in LineChart("t", (Series("a", range(len(values)), values),)).html()


def test_long_series_are_thinned() -> None:
    chart = LineChart("t", (Series("a", range(10_000), [0.5] * 10_000),))
    assert len(chart.html()) < 10_000


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", Page("Größe µm", sections=(Section("one", (Text("x"),)),)))
    document = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert document.startswith("<!doctype html>")
    assert "Größe µm" in document
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
