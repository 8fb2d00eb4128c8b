"""The report of a batch: failed scans on top with what to do, volumes, pictures, and only of the very scans that were segmented."""

import json
import re
import shutil
from pathlib import Path

import pytest
from reported import plan_run, predict_batch, write_raw

from autoseg3d import api
from autoseg3d.errors import ReadError
from autoseg3d.report import make_report
from autoseg3d.report.batch import plain_cause


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of predictions and the scans: one cut short, two good ones."""
    folder = tmp_path_factory.mktemp("batch")
    raw = write_raw(folder / "raw", 4, test_cases=3)
    run, plan = plan_run(raw, folder / "run")
    scans = raw / "imagesTs"
    cut = sorted(scans.iterdir())[0]
    cut.write_bytes(cut.read_bytes()[:3000])
    predict_batch(run, plan, scans, folder / "out")
    return folder / "out", scans


def test_failed_scans_come_first_with_what_to_do(batch: tuple[Path, Path]) -> None:
    page = make_report(batch[0], scans=batch[1]).read_text(encoding="utf-8")
    failed, volumes = page.index("phantom_test_001: not segmented"), page.index("<h2>Volumes</h2>")
    assert page.index("Look at these first") < failed < volumes
    assert "What to do" in page
    assert str(batch[1]) not in page
    assert page.count('<img src="data:image/jpeg') == 2


def test_volumes_are_those_of_the_records(batch: tuple[Path, Path]) -> None:
    page = make_report(batch[0], scans=batch[1], viewer=False).read_text(encoding="utf-8")
    record = json.loads((batch[0] / "phantom_test_002.json").read_text())
    row = re.search(r"<tr><th[^>]*><a[^>]*>phantom_test_002</a>.*?</tr>", page, re.DOTALL)
    assert row is not None
    shown = [float(text) for text in re.findall(r'number">([\d.]+)<', row.group())]
    assert shown == pytest.approx([finding["volume_ml"] for finding in record["findings"]], rel=0.05, abs=5e-4)


def test_another_scan_of_the_same_name_is_not_shown(batch: tuple[Path, Path], tmp_path: Path) -> None:
    scans = sorted(batch[1].iterdir())
    shutil.copy(scans[2], tmp_path / scans[1].name)
    page = make_report(batch[0], tmp_path / "r.html", scans=tmp_path).read_text(encoding="utf-8")
    assert page.count("the scan that was segmented is not in the folder of scans") == 2
    assert '<img src="data:image/jpeg' not in page


def test_without_scans_outlines_stand_on_black_and_nothing_is_embedded(batch: tuple[Path, Path], tmp_path: Path) -> None:
    page = api.report(batch[0], tmp_path / "r.html", workers=0).read_text(encoding="utf-8")
    assert "Add --scans FOLDER" in page
    assert page.count('<img src="data:image/jpeg') == 2
    assert "<script" not in page


def test_a_label_map_that_is_gone_is_told(batch: tuple[Path, Path], tmp_path: Path) -> None:
    out = shutil.copytree(batch[0], tmp_path / "out")
    (out / "phantom_test_003.nii.gz").unlink()
    page = make_report(out, scans=batch[1]).read_text(encoding="utf-8")
    assert "phantom_test_003: not segmented" in page
    (out / "results.json").write_text('{"cases": [{"nothing": 1}]}')
    with pytest.raises(ReadError, match="not the results"):
        make_report(out)


@pytest.mark.parametrize("file", ["/data/a b/x.nii.gz", r"C:\data\x.nii.gz", "x.nii.gz"])
def test_causes_are_shown_without_code_path_and_remedy(file: str) -> None:
    text = f"E_READ: case c1, file {file}: the file is cut: 3 of 4 bytes. Copy it again."
    assert plain_cause(text, code="E_READ", remedy="Copy it again") == "x.nii.gz: the file is cut: 3 of 4 bytes"
    assert plain_cause("KeyError: 'a'", code="E_INTERNAL", remedy=None) == "KeyError: 'a'"
