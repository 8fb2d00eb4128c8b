"""One reference run that several tests compare with."""

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten cases of balls as files."""
    from runs import write_spheres

    return write_spheres(tmp_path_factory.mktemp("Dataset001_Spheres"))


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the spheres that nothing interrupted."""
    from spheres import sit

    folder = tmp_path_factory.mktemp("uninterrupted")
    sit(folder)
    return folder
