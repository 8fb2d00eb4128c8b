"""Somebody without the right to write is told so before anything is computed, and never needs it for what is only read."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_scans import sound

from autoseg3d import api
from autoseg3d.doctor.golden import write_golden_package
from autoseg3d.errors import Autoseg3dError
from autoseg3d.prediction import PredictOptions

pytestmark = pytest.mark.skipif(not hasattr(os, "setuid"), reason="Windows has other rights")

OPTIONS = PredictOptions(device="cpu", precision="fp32", mirror=False)
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody can enter, with a model and a scan that nobody may change."""
    folder = Path(tempfile.mkdtemp())
    write_golden_package(folder / "model")
    (folder / "scans").mkdir()
    sound(0)(folder / "scans" / "a")
    api.predict(folder / "scans", folder / "model", folder / "first", options=OPTIONS)  # everything is imported once
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(work: Callable[[], object]) -> tuple[str, int]:
    """Code and exit code of what `work` raises in a process without rights; ("", 0) where it ends well."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_without_rights, args=(work, theirs))
    child.start()
    answer: tuple[str, int] = ours.recv()
    child.join()
    return answer


def _without_rights(work: Callable[[], object], pipe: Any) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        work()
        pipe.send(("", 0))
    except Autoseg3dError as error:
        pipe.send((error.code, error.exit_code))
    except BaseException as error:
        pipe.send((repr(error), 1))
    os._exit(0)


def test_scans_and_models_are_only_read(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    assert as_nobody(lambda: api.predict(place / "scans", place / "model", place / "out", options=OPTIONS)) == ("", 0)
    assert (place / "out" / "a.nii.gz").read_bytes() == (place / "first" / "a.nii.gz").read_bytes()


@pytest.mark.parametrize("out", ["closed", "closed/deeper"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(place: Path, out: str) -> None:
    (place / "closed").mkdir(mode=0o555)
    assert as_nobody(lambda: api.predict(place / "scans", place / "model", place / out, options=OPTIONS)) == ("E_READ_ONLY", 4)
    assert as_nobody(lambda: api.plan(place / "nowhere", place / out)) == ("E_READ_ONLY", 4)
    assert as_nobody(lambda: api.package(place / "model", place / out / "m.a3d")) == ("E_READ_ONLY", 4)
    assert list((place / "closed").iterdir()) == []


def test_a_scan_that_may_not_be_read_is_named_and_the_others_go_on(place: Path) -> None:
    (place / "scans").chmod(0o755)
    sound(1)(place / "scans" / "b")
    (place / "scans" / "a.nii.gz").chmod(0o000)
    (place / "scans").chmod(0o555)
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    assert as_nobody(lambda: api.predict(place / "scans", place / "model", place / "out", options=OPTIONS)) == ("", 0)
    found = (place / "out" / "results.csv").read_text()
    assert "a,failed,E_MISSING" in found or "a,failed,E_READ" in found
    assert (place / "out" / "b.nii.gz").exists()
