"""Reports in a real browser: nothing runs but our own scripts, nothing is loaded, a click opens the viewer."""

import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from reported import plan_run, predict_batch, validate, write_raw

from autoseg3d.report import make_report
from autoseg3d.report.viewing import viewer_scripts

HOSTILE = """</script><script>document.title='owned'</script><img src=x onerror="document.title='owned'"><b>liver</b>"""
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"{' and '.join(missing)} not installed (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a run and of a batch whose first label has a hostile name, one scan of the batch cut short."""
    folder = tmp_path_factory.mktemp("reports")
    raw = write_raw(folder / "raw", 6, names={"liver": HOSTILE}, test_cases=3)
    run, plan = plan_run(raw, folder / "run")
    validate(run, raw)
    scan = sorted((raw / "imagesTs").iterdir())[1]
    scan.write_bytes(scan.read_bytes()[:2000])
    predict_batch(run, plan, raw / "imagesTs", folder / "out")
    table = folder / "out" / "results.json"
    table.write_text(table.read_text().replace("cut short", json.dumps(HOSTILE)[1:-1]))
    return {"run": make_report(run.path), "batch": make_report(folder / "out", scans=raw / "imagesTs")}


def opened(browser: Any, page: Path, *, width: int = 1280) -> None:
    """Shows a page, all earlier messages forgotten."""
    browser.get("about:blank")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    )
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())


def faults(browser: Any) -> list[str]:
    """Errors on the console, and requests for anything but the page itself and what is inside it."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    outside = [url[:100] for url in urls if not url.startswith(("data:", "blob:")) and url != browser.current_url]
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] + outside


@pytest.mark.parametrize("name", ["run", "batch"])
def test_hostile_names_are_words_on_a_page_that_loads_nothing(browser: Any, pages: dict[str, Path], name: str) -> None:
    opened(browser, pages[name])
    assert HOSTILE in browser.execute_script("return document.body.textContent")
    assert "owned" not in browser.title
    assert faults(browser) == []


@pytest.mark.skipif(viewer_scripts() is None, reason="built without the viewer: `make viewer`")
@pytest.mark.parametrize("name", ["run", "batch"])
def test_a_click_opens_the_viewer_and_another_closes_it(browser: Any, pages: dict[str, Path], name: str) -> None:
    opened(browser, pages[name])
    button = click_first(browser, ".viewer .open")
    viewer = button.find_element("xpath", "./ancestor::div[contains(@class, 'viewer')]")
    until(lambda: viewer.get_attribute("data-ready"))
    canvas = viewer.find_element("tag name", "canvas")
    until(lambda: colours(canvas.screenshot_as_png) > 100)
    canvas.click()
    until(lambda: " mm" in viewer.find_element("css selector", ".where").text)
    assert HOSTILE in viewer.find_element("css selector", ".legend").text
    assert faults(browser) == []
    assert "owned" not in browser.title
    button.click()
    assert not viewer.find_elements("tag name", "canvas")


@pytest.mark.skipif(viewer_scripts() is None, reason="built without the viewer: `make viewer`")
def test_prediction_and_reference_can_be_told_apart(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"])
    click_first(browser, ".viewer .open")
    until(lambda: browser.find_elements("css selector", "[data-ready]"))
    canvas = browser.find_element("tag name", "canvas")
    until(lambda: colours(canvas.screenshot_as_png) > 100)
    before = canvas.screenshot_as_png
    click_first(browser, "[data-ready] input[type=radio]:not(:checked)")
    until(lambda: canvas.screenshot_as_png != before)


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", ["run", "batch"])
def test_a_page_is_never_wider_than_the_screen(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    opened(browser, pages[name], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_paper_shows_what_the_screen_folds_away(browser: Any, pages: dict[str, Path]) -> None:
    opened(browser, pages["run"])
    visible = "return document.querySelector('details:not([open]) img').checkVisibility()"
    assert not browser.execute_script(visible)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.execute_script(visible)
        shown = "return [...document.querySelectorAll('.viewer, nav')].filter(e => e.getBoundingClientRect().height > 0).length"
        assert browser.execute_script(shown) == 0
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def click_first(browser: Any, selector: str) -> Any:
    """Clicks the first of them that is shown, brought to the middle of the screen first as a person would."""
    element = next(b for b in browser.find_elements("css selector", selector) if b.is_displayed())
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()
    return element


def until(condition: Any, *, seconds: float = 30.0) -> None:
    """Waits for a condition to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def colours(png: bytes) -> int:
    """How many colours a picture has."""
    pixels = matplotlib.image.imread(io.BytesIO(png))[..., :3].reshape(-1, 3)
    return len(np.unique((pixels * 255).astype(np.uint8), axis=0))
