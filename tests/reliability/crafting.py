"""What crafted files are made of, and the trap that tells whether code in one was run or a name in one led outside."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Trap:
    """What must not come into being: `executed`, where code in a file was run. Pickled, it is that code."""

    def __init__(self, folder: Path) -> None:
        self.executed = folder / "EXECUTED"

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.executed}",))


Write = Callable[[Path, Trap], Path]


@dataclass(frozen=True)
class Crafted:
    """A crafted file.

    write     makes it in an empty folder and gives the path to be used
    use       does with it what the program does
    harmless  whether it may be used, since what is crafted in it is never looked at
    """

    name: str
    write: Write
    use: Callable[[Path], object]
    harmless: bool = False


def entry(name: str, mode: int = 0o100644, kind: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """An entry of a zip archive with a Unix mode."""
    made = zipfile.ZipInfo(name)
    made.external_attr, made.create_system, made.compress_type = mode << 16, 3, kind
    return made


DEEP = b"[" * 100_000 + b"]" * 100_000
OUTSIDE = Path("/autoseg3d-outside")
"""An absolute place that files name and nobody may make."""
