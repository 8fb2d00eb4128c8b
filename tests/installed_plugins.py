"""Makes packages with entry points visible to a test, as an installer would."""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

TINY = Path(__file__).parent / "plugin_package"


def declare(folder: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], *, version: str = "1.0") -> Path:
    """Writes the metadata folder of a package that declares these entry points; returns it."""
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = ["\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in rows.items())]) for group, rows in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return metadata


def install_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs tests/plugin_package for the length of a test: its module on the path, its entry points declared."""
    project = tomllib.loads((TINY / "pyproject.toml").read_text())["project"]
    declare(folder, project["name"], project["entry-points"], version=project["version"])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(TINY)
    monkeypatch.delitem(sys.modules, "autoseg3d_tiny", raising=False)
