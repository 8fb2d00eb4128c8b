"""The health page tells every fault and finding of a dataset, shows the cases they name, and asks the network for nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_datasets import blob_case, write_blobs, write_case

from autoseg3d.api import Reading, check_report
from autoseg3d.report.histogram import Histogram


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Twelve cases: one cut short, one constant, one twice, one with a tiny organ, one stored the other way round."""
    root = write_blobs(tmp_path / "raw", 12)
    images = sorted((root / "imagesTr").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:2000])
    images[2].write_bytes(images[3].read_bytes())
    image, labels = blob_case(np.random.default_rng(1))
    write_case(root, "c01", np.full_like(image, 7), labels)
    small = np.where(np.cumsum(labels.ravel() == 1).reshape(labels.shape) <= 2, labels, 0)
    write_case(root, "c04", image, small)
    write_case(root, "c05", image + 1, labels, np.diag([1.5, -1.5, 3.0, 1.0]))
    return root


def test_faults_and_findings_are_all_told(odd: Path, tmp_path: Path) -> None:
    found = check_report(odd, tmp_path / "health.html", reading=Reading(workers=1))
    page = (tmp_path / "health.html").read_text()
    assert {fault.code for fault in found.faults} == {"E_TRUNCATED", "E_CONSTANT"}
    assert {"copies", "label volume", "orientation"} <= {finding.kind for finding in found.findings}
    for fault in found.faults:
        assert fault.case is not None
        assert fault.code in page
        assert fault.case in page
    for finding in found.findings:
        assert finding.text.replace("'", "&#39;") in page
    assert page.count("data:image/jpeg;base64,") == 10
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page).replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_healthy_dataset_says_so(tmp_path: Path) -> None:
    found = check_report(write_blobs(tmp_path / "raw", 6), tmp_path / "health.html", reading=Reading(workers=1))
    assert found.warnings == ()
    assert "nothing unusual was found" in (tmp_path / "health.html").read_text()


def test_a_dataset_without_a_readable_case_still_has_a_page(tmp_path: Path) -> None:
    root = write_blobs(tmp_path / "raw", 2)
    for path in (root / "imagesTr").iterdir():
        path.write_bytes(b"")
    assert len(check_report(root, tmp_path / "health.html", reading=Reading(workers=1)).faults) >= 2
    assert "nothing can be planned yet" in (tmp_path / "health.html").read_text()


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([3.0], False), ([0.0] * 4, False), ([1.0] * 9, True), ([1e-3, 1, 1e4], True), (list(range(100)), False), ([-5.0, 5.0], False)],
)
def test_every_case_stands_in_one_bar_inside_the_drawing(values: list[float], logarithmic: bool) -> None:
    chart = Histogram("<b>", values, "mm", logarithmic=logarithmic)
    bars = chart.bars()
    assert sum(int(bar.words.split()[0]) for bar in bars) == len(values)
    assert all(chart.left <= bar.x <= bar.x + bar.width <= chart.right + 1 for bar in bars)
    assert all(chart.top - 1e-6 <= bar.y <= chart.bottom for bar in bars)
    assert all(chart.left - 1 <= tick.at <= chart.right + 1 for tick in chart.x_ticks())
    assert "<b>" not in str(chart.html())
