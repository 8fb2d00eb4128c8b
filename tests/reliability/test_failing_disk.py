"""Whichever write, sync or rename fails while a state or a model is saved: what was there before can be loaded, all else is whole."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from failing_calls import KINDS, SHORT, Ended, available, preloaded, trial

from autoseg3d import files

# This file is a test, and the program that the test starts with the failing calls loaded.
if "FAILING_CALLS" not in os.environ:
    pytestmark = pytest.mark.skipif(not available(), reason="failing calls take Linux and a C compiler")

NAMES = ("one.json", "two.json", "three.json")


def test_whichever_call_fails_files_that_belong_together_stay_together(tmp_path: Path) -> None:
    done = preloaded([__file__, str(tmp_path / "work")], tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 12, "every write, sync and rename was tried"


def write(folder: Path, text: str) -> int:
    """Three files together and one alone, each with `text`."""
    files.write_together({folder / name: text.encode() for name in NAMES})
    files.write_text(folder / "alone.json", text)
    return 0


def fail_each(folder: Path, work: Callable[[Path, str], int]) -> int:
    """Lets each call of `work` fail once; the number of trials. Raises AssertionError where anything half-done can be seen."""
    work(folder, "old")
    whole = trial(lambda: work(folder, "new"), folder, "write", 0)
    assert whole.code == 0, whole.said
    trials = [
        (kind, number, error) for kind, seen in zip(KINDS, whole.seen, strict=True) for number in range(1, seen + 1) for error in (5, 28)
    ]
    trials += [("write", number, SHORT) for number in range(1, whole.seen[0] + 1)]
    for kind, number, error in trials:
        work(folder, "old")
        ended = trial(lambda: work(folder, "new"), folder, kind, number, error)
        _check(folder, ended, f"{kind} {number}, {'short' if error == SHORT else os.strerror(error)}", short=error == SHORT)
    return len(trials)


def _check(folder: Path, ended: Ended, what: str, *, short: bool) -> None:
    held = {name: (folder / name).read_text() for name in (*NAMES, "alone.json")}
    together = {held[name] for name in NAMES}
    assert ended.code == (0 if short else 4), f"{what}: {ended.code} {ended.said}"
    assert together in ({"old"}, {"new"}), f"{what}: {held}"
    assert held["alone.json"] in ("old", "new"), f"{what}: {held}"
    assert not short or set(held.values()) == {"new"}, f"{what}: {held}"
    assert not list(folder.glob(".tmp-*")), f"{what}: a temporary file is left"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[1]).parent) as name:
        sys.stdout.write(f"{fail_each(Path(name).resolve(), write)} trials\n")
