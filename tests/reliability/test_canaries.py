"""No text of a scan's header, and no name of the folders above it, is in anything that leaves the place where the scans are."""

from __future__ import annotations

import base64
import contextlib
import gzip
import importlib.util
import io
import random
from pathlib import Path

import pytest
from canaries import FOLDER, PLACES, where, write_labelled, write_scans

from autoseg3d import cli
from autoseg3d.doctor.golden import write_golden_package

DICOM = importlib.util.find_spec("pydicom") is not None
# A run stays where its dataset is and must find it again, so its record states the dataset's place (SECURITY.md).
STATED = {"run.json: folder"}


def command(*arguments: object, code: int = 0) -> str:
    """One command line in this process; what it said on both streams."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    assert left.value.code in (code, None if code == 0 else code), said.getvalue()
    return said.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything that the program writes of scans with words planted in them; what it says goes into files too."""
    base = tmp_path_factory.mktemp("canaries")
    private, temporary, said = base / FOLDER, base / "temporary", base / "said"
    raw, scans = write_labelled(private / "raw", 5), write_scans(private / "scans", dicom=DICOM)
    write_golden_package(base / "golden")
    temporary.mkdir()
    said.mkdir()
    run, out, packed = base / "run", base / "out", base / "packed"
    packed.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr("tempfile.tempdir", None)
        small = ("--set", "3d_fullres.patch_size=8,16,16", "--set", "3d_fullres.batch_size=2")
        steps: dict[str, tuple[object, ...]] = {
            "check": ("check", raw, "--workers", 1),
            "plan": ("plan", raw, "--run", run, "--planner", "nnunet", "--workers", 1, *small),
            "train": ("train", run, "--fold", 0, "--epochs", 1, "--iterations", 2, "--device", "cpu", "--workers", 0),
            "package": ("package", run, "-o", packed / "model.a3d"),
            "info": ("info", packed / "model.a3d"),
            "report of the run": ("report", run, "-o", packed / "run.html", "--workers", 1),
            "predict": (
                "predict",
                scans,
                "--model",
                base / "golden",
                "--out",
                out,
                "--device",
                "cpu",
                "--save-probabilities",
                "--uncertainty",
            ),
            "report of the labels": ("report", out, "--scans", scans, "-o", packed / "out.html", "--workers", 1),
            "verify": ("verify", out, "--scans", scans, "--model", base / "golden"),
        }
        for name, arguments in steps.items():
            (said / name).write_text(command(*arguments, code=3 if name == "predict" else 0))
    return {"run": run, "out": out, "packed": packed, "temporary": temporary, "said": said, "private": private}


def test_the_words_are_where_they_were_planted(done: dict[str, Path]) -> None:
    found = {line.rsplit(": ", 1)[1] for line in where(done["private"])}
    assert found >= {place for place in PLACES if place != "folder" and (DICOM or not place.startswith("DICOM"))}
    assert len(PLACES) >= 20


def test_the_search_finds_what_is_packed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(b"<i>" + base64.b64encode(gzip.compress(PLACES["gzip name"] + random.Random(0).randbytes(300))))
    assert where(tmp_path) == ["page.html: gzip name"]


@pytest.mark.parametrize("place", ["run", "out", "packed", "temporary"])
def test_no_word_is_in_any_output(done: dict[str, Path], place: str) -> None:
    assert any(done[place].iterdir()) or place == "temporary"
    assert set(where(done[place])) - STATED == set()


def test_what_the_program_says_names_folders_only_as_they_were_given(done: dict[str, Path]) -> None:
    """On the screen a path is what helps a person to find the file; header texts never are."""
    texts = {place: word for place, word in PLACES.items() if place != "folder"}
    assert where(done["said"], texts) == []
