"""Fixtures for all tests. Real datasets lie beside the repository on the builders' machines; elsewhere their tests skip."""

import os
import signal
from pathlib import Path

import pytest

# Before torch is loaded: a process forked from one whose threads have computed hangs when it computes, and tests fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# A shell starts background jobs with SIGINT ignored, which is inherited; tests that send it want it to arrive.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository_root() -> Path:
    return ROOT


def _beside(name: str) -> Path:
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"the folder shared/{name} is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real datasets."""
    return _beside("data")


@pytest.fixture(scope="session")
def shared_oracle() -> Path:
    """Folder of nnU-Net's own answers."""
    return _beside("oracle")
