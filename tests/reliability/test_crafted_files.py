"""Files made to harm are refused by name: nothing in them is run, nothing is written outside, nothing fills memory or hangs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("crafted files are used in bounded processes, which takes Linux", allow_module_level=True)

from crafted_files import CRAFTED, fate
from crafting import Crafted


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("crafted", CRAFTED, ids=[crafted.name for crafted in CRAFTED])
def test_a_crafted_file_does_no_harm(crafted: Crafted, tmp_path: Path) -> None:
    found = fate(crafted, tmp_path)
    assert not found.wrong, found.said


def test_there_are_at_least_fifty() -> None:
    assert len({crafted.name for crafted in CRAFTED}) == len(CRAFTED) >= 50
