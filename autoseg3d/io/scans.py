"""Finding the scans to be predicted: one file, a folder of files, nnU-Net's channel names, folders of DICOM slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg3d.errors import DataError, DatasetError, UsageError
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.dicom import dicom_files
from autoseg3d.io.names import clashes, listing, safe_id, split_channel, split_ending
from autoseg3d.io.payload import reading
from autoseg3d.io.volume import SUPPORTED

_NAMES_SHOWN = 5
# Patient, study, series and a few folders above them.
_DEEPEST = 6


@dataclass(frozen=True)
class _Entry:
    """A file, or a folder of DICOM slices, with its name without ending."""

    path: Path
    stem: str


def find_scans(path: Path | str, *, num_channels: int, file_ending: str | None = None) -> tuple[CaseFiles, ...]:
    """The scans at `path`, sorted by id, as CaseFiles without labels. Nothing is opened but to recognise DICOM.

    Args:
        path: a file, a folder of files, one DICOM series, or a folder with such series at any depth, as on a hospital's disc;
            each is called by the folders that lead to it.
        num_channels: how many images the model takes. Several are named CASE_0000.ext, CASE_0001.ext, …, or stacked along
            the fourth axis of CASE.ext; one may be named CASE.ext or CASE_0000.ext.
        file_ending: take only files with this ending; None takes every supported one.

    A case whose channels are incomplete is returned with its `fault`, which `load_case` raises: one bad scan never stops
    a batch. Raises UsageError where there is nothing to predict, and DatasetError with all clashes where two files
    would become one case.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError("scans not found", file=path, code="E_MISSING", remedy="Check the path")
    with reading(path):
        entries = _entries(path, file_ending)
    if not entries:
        raise UsageError("no scans found", file=path, code="E_NO_SCANS", wanted=file_ending or SUPPORTED, got=_contents(path))
    cases = _single_channel(entries) if num_channels == 1 else _several_channels(entries, num_channels)
    if faults := clashes((case.id, case.images[0]) for case in cases):
        raise DatasetError("several scans would be written to one output", faults, file=path, remedy="Rename them")
    return tuple(sorted(cases, key=lambda case: case.id))


def _entries(path: Path, ending: str | None) -> list[_Entry]:
    if path.is_file():
        return _siblings(path)
    if path.suffix.lower() != ".dcm" and not _has_volumes(path) and dicom_files(path):
        return [_Entry(path, path.resolve().name)]
    found: list[_Entry] = []
    for entry in listing(path)[0]:
        stem, known = split_ending(entry.name)
        if entry.is_dir():
            if ending is None:
                found += _series(entry, entry.name, depth=_DEEPEST)
        elif known and (ending is None or known == ending.lower()):
            found.append(_Entry(entry, stem))
    return found


def _series(folder: Path, name: str, *, depth: int) -> Iterator[_Entry]:
    """Every folder of DICOM slices, from `folder` downwards; links to folders are followed at the top alone."""
    if dicom_files(folder):
        yield _Entry(folder, name)
    for below in listing(folder)[0] if depth > 0 else ():
        if below.is_dir() and not below.is_symlink():
            yield from _series(below, f"{name}_{below.name}", depth=depth - 1)


def _siblings(path: Path) -> list[_Entry]:
    """A file, and where it is a first channel (CASE_0000.ext) the further ones beside it."""
    stem, ending = split_ending(path.name)
    case, channel = split_channel(stem)
    if channel != 0:
        return [_Entry(path, stem)]
    beside = (_Entry(p, split_ending(p.name)[0]) for p in listing(path.parent)[0] if split_ending(p.name)[1] == ending)
    return [entry for entry in beside if split_channel(entry.stem)[0] == case and split_channel(entry.stem)[1] is not None]


def _has_volumes(folder: Path) -> bool:
    return any(p.is_file() and split_ending(p.name)[1] not in ("", ".dcm") for p in listing(folder)[0])


def _contents(path: Path) -> str:
    names = [p.name for p in listing(path)[0]] if path.is_dir() else [path.name]
    return (", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")) or "an empty folder"


def _single_channel(entries: Sequence[_Entry]) -> list[CaseFiles]:
    stems = {entry.stem for entry in entries}
    return [_one(entry, stems) for entry in entries]


def _one(entry: _Entry, stems: set[str]) -> CaseFiles:
    """One scan. A `_0000` is taken off its name; beside a `_0001` it might be a channel, and nobody knows which is meant."""
    case, channel = split_channel(entry.stem)
    if channel is None or (channel != 0 and f"{case}_0000" not in stems):
        return CaseFiles(safe_id(entry.stem), (entry.path,))
    numbered = sorted(s for s in stems if split_channel(s)[0] == case and split_channel(s)[1] is not None)
    if len(numbered) == 1:
        return CaseFiles(safe_id(case), (entry.path,))
    fault = DataError(
        "channels of one case, or numbered scans? The model takes one channel",
        file=entry.path,
        code="E_CHANNEL",
        got=", ".join(numbered[:_NAMES_SHOWN]),
        remedy="Keep only the channel that the model takes, or rename the scans so that their names do not end in _0000",
    )
    return CaseFiles(safe_id(entry.stem), (entry.path,), fault=fault)


def _several_channels(entries: Sequence[_Entry], count: int) -> list[CaseFiles]:
    by_case: dict[str, list[tuple[int, Path]]] = {}
    cases = []
    for entry in entries:
        case, channel = split_channel(entry.stem)
        if channel is None:
            cases.append(CaseFiles(safe_id(entry.stem), (entry.path,), stacked_channels=count))
        else:
            by_case.setdefault(case, []).append((channel, entry.path))
    for case, found in by_case.items():
        found.sort()
        images, numbers = tuple(path for _, path in found), [channel for channel, _ in found]
        fault = None
        if numbers != list(range(count)):
            wanted, got = (", ".join(f"{channel:04d}" for channel in group) for group in (range(count), numbers))
            what = "the channels of the case are not those that the model takes"
            fault = DataError(what, file=images[0], code="E_CHANNEL", wanted=wanted, got=got, remedy="Add or remove channels")
        cases.append(CaseFiles(safe_id(case), images, fault=fault))
    return cases
