"""The tests with the oldest versions of all dependencies that pyproject.toml allows; torch stays as it is.

    python benchmarks/lower_bounds.py FOLDER [TESTS ...]

Installs every dependency but torch, and that of the extra dicom, at its lower bound into FOLDER (kept, so that a
second run only tests), and runs the tests named, by default all, with that folder before all others. A bound is wrong where it cannot
be installed or where a test fails; but tests that compare with batchgenerators fail where its pandas wants a newer numpy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("dicom",)  # batchgenerators draws in a module that hides one of Python's own where it comes first


def lowest() -> list[str]:
    """Every dependency but torch at its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(entry for extra in EXTRAS for entry in project["optional-dependencies"][extra])]
    bounds = [re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)", entry) for entry in wanted]
    return [f"{found[1]}=={found[2]}" for found in bounds if found is not None and found[1] != "torch"]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    tests = [str(ROOT / "tests" / name) for name in sys.argv[2:] or ["."]]
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target", str(folder), *lowest()]
        subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *tests]
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
