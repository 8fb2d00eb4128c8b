"""Gathering the files of a dataset into cases, from its folders or from the list in dataset.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg3d.errors import Autoseg3dError, DataError
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.dataset_json import ListedCase
from autoseg3d.io.dicom import dicom_files
from autoseg3d.io.names import listing, safe_id, split_channel, split_ending

_NAMES_SHOWN = 8
_PLAIN_NAMES = (("images", "labels"), ("imagestr", "labelstr"))


@dataclass(frozen=True)
class Gathered:
    """Cases whose files are all there, the faults of the others, and warnings."""

    cases: tuple[CaseFiles, ...]
    faults: tuple[Autoseg3dError, ...]
    warnings: tuple[str, ...]


def plain_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders images and labels (or imagesTr and labelsTr) in `root`, in any case of letters."""
    folders = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    for images, labels in _PLAIN_NAMES:
        if images in folders and labels in folders:
            return folders[images], folders[labels]
    return None


def gather_folders(images: Path, labels: Path, *, channels: int | None, ending: str | None) -> Gathered:
    """Cases from a folder of CASE_0000.ext, CASE_0001.ext, … (or CASE.ext for one channel) and one of CASE.ext.

    `channels` None takes as many as the first case has; `ending` None takes all known endings.
    """
    missing = [_missing_folder(folder) for folder in (images, labels) if not folder.is_dir()]
    if missing:
        return Gathered((), tuple(missing), ())
    image_files, image_warnings = _files(images, ending)
    label_files, label_warnings = _files(labels, ending)
    faults: list[Autoseg3dError] = []
    label_by_case = _by_stem(label_files, faults)
    found = _by_case(image_files, set(label_by_case), channels, faults)
    if not image_files:
        faults.append(_no_images(images, ending))
    channels = channels or max((len(f) for f in found.values()), default=1)
    cases = []
    names = sorted(set(found) | set(label_by_case))
    for name in names:
        paths, label = found.get(name, {}), label_by_case.get(name)
        fault = _case_fault(name, paths, label, channels, images, labels)
        if fault is not None:
            faults.append(fault)
        else:
            cases.append(CaseFiles(safe_id(name), tuple(paths[c] for c in range(channels)), label))
    return Gathered(tuple(cases), tuple(faults), image_warnings + label_warnings + _renamed(names))


def _renamed(names: Sequence[str]) -> tuple[str, ...]:
    """A warning where cases are not called like their files, since a name may have anything in it and an id may not."""
    changed = [f"'{name}' is {safe_id(name)}" for name in names if safe_id(name) != name]
    if not changed:
        return ()
    more = f", and {len(changed) - _NAMES_SHOWN} more" if len(changed) > _NAMES_SHOWN else ""
    return (
        f"cases whose files have spaces or unusual letters in their names are called otherwise: {', '.join(changed[:_NAMES_SHOWN])}{more}",
    )


def _no_images(images: Path, ending: str | None) -> DataError:
    others = sorted({split_ending(path.name)[1] for path in listing(images)[0]} - {"", ending})
    remedy = f"Correct file_ending in dataset.json: the files here end in {' and '.join(others)}" if others else None
    return DataError("no images in the folder", file=images, code="E_MISSING", wanted=f"CASE_0000{ending or '.nii.gz'}", remedy=remedy)


def _missing_folder(folder: Path) -> DataError:
    return DataError("folder not found", file=folder, code="E_MISSING", remedy="Put the training data there")


def _files(folder: Path, ending: str | None) -> tuple[list[Path], tuple[str, ...]]:
    """Files with a wanted ending, and warnings that name the others."""
    entries, clutter = listing(folder)
    kept = [p for p in entries if _is_wanted(p, ending)]
    ignored = clutter + [p.name for p in entries if p not in set(kept)]
    if not ignored:
        return kept, ()
    shown = ", ".join(ignored[:8]) + (f" and {len(ignored) - 8} more" if len(ignored) > 8 else "")
    return kept, (f"ignored in {folder.name}: {shown}",)


def _is_wanted(path: Path, ending: str | None) -> bool:
    if path.is_dir():
        return ending is None and bool(dicom_files(path))
    known = split_ending(path.name)[1]
    return known == ending if ending else bool(known)


def _by_stem(files: Sequence[Path], faults: list[Autoseg3dError]) -> dict[str, Path]:
    result: dict[str, Path] = {}
    for path in files:
        stem = split_ending(path.name)[0]
        if stem in result:
            faults.append(_duplicate(stem, result[stem], path))
        result.setdefault(stem, path)
    return result


def _by_case(files: Sequence[Path], labelled: set[str], channels: int | None, faults: list[Autoseg3dError]) -> dict[str, dict[int, Path]]:
    """{case: {channel: path}}. A name that is a labelled case's own, without channel number, is its only channel."""
    result: dict[str, dict[int, Path]] = {}
    for path in files:
        stem = split_ending(path.name)[0]
        case, channel = (stem, 0) if stem in labelled and channels in (1, None) else split_channel(stem)
        case, channel = (case, channel) if channel is not None else (stem, 0)
        by_channel = result.setdefault(case, {})
        if channel in by_channel:
            faults.append(_duplicate(case, by_channel[channel], path))
        by_channel.setdefault(channel, path)
    return result


def _duplicate(case: str, one: Path, other: Path) -> DataError:
    got = f"{one.name} and {other.name}"
    return DataError("two files for one case", code="E_DUP_ID", case=case, file=other, got=got, remedy="Remove or rename one")


def _case_fault(case: str, paths: dict[int, Path], label: Path | None, channels: int, images: Path, labels: Path) -> DataError | None:
    name, case = case, safe_id(case)
    if not paths:
        remedy, wanted = "Add the image, or take the label map out", f"{name}_0000 in {images.name}"
        return DataError("a label map without an image", case=case, file=label, code="E_MISSING", wanted=wanted, remedy=remedy)
    if label is None:
        remedy, wanted = "Add the label map, which must be called like the image, or take the image out", f"{name} in {labels.name}"
        return DataError("an image without a label map", case=case, file=paths[min(paths)], code="E_MISSING", wanted=wanted, remedy=remedy)
    if sorted(paths) != list(range(channels)):
        wanted, got = (", ".join(f"{c:04d}" for c in group) for group in (range(channels), sorted(paths)))
        what = "the channels of the case are not complete, or too many"
        remedy = "Add or remove files, or correct channel_names in dataset.json"
        return DataError(what, case=case, file=images, code="E_CHANNEL", wanted=wanted, got=got, remedy=remedy)
    return None


def gather_listed(root: Path, listed: Sequence[ListedCase], *, channels: int | None) -> Gathered:
    """Cases from a list of paths, relative to `root`. Paths may lead elsewhere; they are only ever read.

    `channels` None leaves the number of images of each case unchecked.
    """
    cases, faults, outside = [], list[Autoseg3dError](), []
    for entry in listed:
        images, label = [root / name for name in entry.images], root / entry.label
        case = safe_id(_decathlon_id(images[0])) if entry.id is None else entry.id
        images, stacked = _channel_files(images, channels or len(images))
        gone = [path for path in (*images, label) if not _is_there(path)]
        remedy = "Correct the path in dataset.json, which is relative to its folder, or add the file"
        faults += [DataError("a listed file does not exist", case=case, file=path, code="E_MISSING", remedy=remedy) for path in gone]
        if gone:
            continue
        if stacked == 1 and channels is not None and len(images) != channels:
            what, remedy = "the number of images is not that of the channels", "List one image per channel, in the order of channel_names"
            faults.append(DataError(what, case=case, file=images[0], code="E_CHANNEL", wanted=channels, got=len(images), remedy=remedy))
            continue
        if any(not path.resolve().is_relative_to(root.resolve()) for path in (*images, label)):
            outside.append(case)
        cases.append(CaseFiles(case, tuple(images), label, stacked_channels=stacked))
    warnings = (f"{len(outside)} cases have files outside the dataset's folder, the first {outside[0]}",) if outside else ()
    return Gathered(tuple(cases), tuple(faults), warnings)


def _is_there(path: Path) -> bool:
    """Whether there is a file or folder; False for names that no file can have, which the system refuses to look up."""
    try:
        return path.exists()
    except OSError:
        return False


def _decathlon_id(image: Path) -> str:
    stem = split_ending(image.name)[0]
    return split_channel(stem)[0] if not _is_there(image) and split_channel(stem)[1] == 0 else stem


def _channel_files(images: list[Path], channels: int) -> tuple[list[Path], int]:
    """(paths, channels stacked in the only one). nnU-Net v1 lists CASE.nii.gz where the files are CASE_0000.nii.gz, …"""
    if len(images) > 1 or _is_there(images[0]):
        return images, channels if len(images) == 1 and channels > 1 else 1
    stem, _ = split_ending(images[0].name)
    ending = images[0].name[len(stem) :]
    numbered = [images[0].with_name(f"{stem}_{channel:04d}{ending}") for channel in range(channels)]
    return (numbered, 1) if all(_is_there(path) for path in numbered) else (images, 1)
