"""File names and case ids: known endings, channel numbers, clutter of operating systems, ids that are safe to write to."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from autoseg3d.errors import DataError

# The files to open; voxel files that only a header names (.raw, .zraw) are not among them.
ENDINGS = (".nii.gz", ".hdr.gz", ".img.gz", ".nii", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".dcm")
_CASE_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,100}")
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}


def split_ending(name: str) -> tuple[str, str]:
    """(stem, ending in lower case) of a file name; the ending is "" where it is not one of ENDINGS."""
    for ending in ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)], ending
    return name, ""


def split_channel(stem: str) -> tuple[str, int | None]:
    """("case", 1) of "case_0001"; (stem, None) where no four-digit channel number ends it."""
    match = _CHANNEL.fullmatch(stem)
    return (match[1], int(match[2])) if match else (stem, None)


def is_clutter(name: str) -> bool:
    """Whether a name is hidden or one that an operating system leaves behind (._x, .DS_Store, Thumbs.db)."""
    return name.startswith(".") or name.lower() in _CLUTTER


def listing(folder: Path) -> tuple[list[Path], list[str]]:
    """The entries of a folder by name, and the names of clutter among them.

    The second file of a .hdr/.img pair is left out: its header stands for both.
    """
    entries = sorted(folder.iterdir())
    clutter = [p.name for p in entries if is_clutter(p.name)]
    headers = {p.name.lower().removesuffix(".gz").removesuffix(".hdr") for p in entries if p.name.lower().endswith((".hdr", ".hdr.gz"))}
    kept = []
    for path in entries:
        stem, ending = split_ending(path.name)
        if not is_clutter(path.name) and not (ending in (".img", ".img.gz") and stem.lower() in headers):
            kept.append(path)
    return kept, clutter


def check_case_id(case: str, *, file: Path | None = None) -> DataError | None:
    """The fault of a case id that could lead out of a folder or that some file system cannot hold; None for a good one."""
    if _CASE_ID.fullmatch(case):
        return None
    return DataError(
        "not a case name",
        code="E_CASE_ID",
        case=case,
        file=file,
        wanted="1 to 100 letters, digits, dots, dashes and underscores, not beginning with a dot",
        got=ascii(case[:200]),
        remedy="Rename the case",
    )


def safe_id(stem: str) -> str:
    """A valid case id for any file name: itself where it is one, else a plain-letter form with a short hash.

    White space becomes an underscore without a hash, since two names that differ in it alone are reported as clashing.
    """
    spaced = re.sub(r"\s+", "_", stem.strip())
    if check_case_id(spaced) is None:
        return spaced
    plain = unicodedata.normalize("NFKD", spaced).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip(".")[:90]
    digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain}-{digest}" if plain.strip("_") else f"case-{digest}"


def clashes(names: Iterable[tuple[str, object]]) -> list[DataError]:
    """One fault for each set of (id, file) whose ids are equal or differ in upper and lower case alone.

    Half of all file systems would write both to one file.
    """
    by_id: dict[str, list[tuple[str, str]]] = {}
    for case, file in names:
        by_id.setdefault(case.casefold(), []).append((case, str(getattr(file, "name", file))))
    faults = []
    for group in by_id.values():
        if len(group) > 1:
            what, got = "several files would be one case", ", ".join(f"{case} ({file})" for case, file in group)
            faults.append(DataError(what, code="E_DUP_ID", case=group[0][0], got=got, remedy="Rename all but one"))
    return faults
