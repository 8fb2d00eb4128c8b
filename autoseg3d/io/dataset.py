"""A labelled dataset's folder: nnU-Net v2's layout, the Medical Segmentation Decathlon's, or a plain pair of folders.

All faults of a folder are found before anything is said, so that nobody mends them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg3d.errors import Autoseg3dError, DataError, DatasetError
from autoseg3d.io.case_files import CaseFiles
from autoseg3d.io.dataset_folders import Gathered, gather_folders, gather_listed, plain_folders
from autoseg3d.io.dataset_json import Description, read_document
from autoseg3d.io.groups import read_groups
from autoseg3d.io.names import check_case_id, clashes
from autoseg3d.io.nifti_forms import GeometryChoice
from autoseg3d.io.plain_labels import scan_labels
from planners.labels import LabelTable

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Dataset:
    """A dataset whose folder is in order; the files themselves have not been opened.

    cases          sorted by id
    num_training   number of cases found
    warnings       what was ignored or looks odd, as sentences
    faults         what is wrong with the folder, where it was opened all the same (`partial`)
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    labels: LabelTable
    num_training: int
    cases: tuple[CaseFiles, ...]
    warnings: tuple[str, ...] = ()
    faults: tuple[Autoseg3dError, ...] = ()


def open_dataset(
    root: Path | str,
    *,
    group_pattern: str | None = None,
    geometry: GeometryChoice = "auto",
    channel_names: Sequence[str] | None = None,
    partial: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """The dataset in folder `root`.

    Args:
        root: a folder with dataset.json and imagesTr/labelsTr (nnU-Net v2 or Decathlon), or with images/ and labels/.
        group_pattern: regular expression that takes a case's group from its name, for instance "patient[0-9]+";
            None reads groups.json or groups.csv where there is one.
        geometry: as in `read_volume`; used where a plain pair of folders must have its label values read.
        channel_names: names for the channels of a plain pair of folders ("CT" chooses CT normalisation).
        partial: give what can be used and keep the faults in `Dataset.faults`, so that whoever reads the files can report
            on those too; cases with a fault are left out.
        progress: called with (what, done, total) while label values are read.

    Without `partial`, or where nothing can be used, raises DatasetError whose `faults` hold every fault found.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError("dataset folder not found", [DataError("no such folder", file=root, code="E_MISSING")], file=root)
    path = root / "dataset.json"
    if path.is_file():
        dataset, faults = _described(root, path)
    elif plain_folders(root):
        dataset, faults = _plain(root, geometry, channel_names, progress)
    else:
        wanted = "dataset.json, or the folders images and labels"
        remedy = "Give the folder that holds them"
        dataset, faults = None, [DataError("not a dataset folder", file=root, code="E_MISSING", wanted=wanted, remedy=remedy)]
    if dataset is not None:
        faults = faults + _id_faults(dataset.cases)
        groups, warnings, group_faults = read_groups(root, [case.id for case in dataset.cases], group_pattern)
        faults += group_faults
        cases = tuple(replace(case, group=groups.get(case.id)) for case in dataset.cases)
        dataset = replace(dataset, cases=cases, warnings=dataset.warnings + tuple(warnings))
        if partial:
            bad = {fault.case for fault in faults}
            return replace(dataset, cases=tuple(case for case in cases if case.id not in bad), faults=tuple(faults))
    if faults or dataset is None:
        raise DatasetError(f"the dataset has {len(faults)} fault{'s' if len(faults) != 1 else ''}", faults, file=root)
    return dataset


def _described(root: Path, path: Path) -> tuple[Dataset | None, list[Autoseg3dError]]:
    try:
        description, files, faults = read_document(path)
    except Autoseg3dError as fault:
        return None, [fault]
    if files is None:
        return None, faults
    if files.listed is None:
        gathered = gather_folders(root / "imagesTr", root / "labelsTr", channels=files.channels, ending=files.file_ending)
    else:
        gathered = gather_listed(root, files.listed, channels=files.channels)
    faults += gathered.faults
    if description is None:
        return None, faults + _id_faults(gathered.cases)
    dataset = _dataset(root, description.name, description.channel_names, description.labels, gathered)
    return replace(dataset, warnings=dataset.warnings + _count_warning(description, len(dataset.cases))), faults


def _dataset(root: Path, name: str | None, channels: tuple[str, ...], labels: LabelTable, gathered: Gathered) -> Dataset:
    cases = tuple(sorted(gathered.cases, key=lambda case: case.id))
    return Dataset(root, name or root.resolve().name, channels, labels, len(cases), cases, gathered.warnings)


def _count_warning(description: Description, found: int) -> tuple[str, ...]:
    if description.num_training is None or description.num_training == found:
        return ()
    return (f"dataset.json says numTraining {description.num_training}, found {found} cases; {found} is used",)


def _plain(
    root: Path, geometry: GeometryChoice, names: Sequence[str] | None, progress: Progress | None
) -> tuple[Dataset | None, list[Autoseg3dError]]:
    folders = plain_folders(root)
    assert folders is not None, "the caller has looked"
    gathered = gather_folders(*folders, channels=None if names is None else len(names), ending=None)
    if gathered.faults or not gathered.cases:
        return None, list(gathered.faults)
    table, faults = scan_labels(gathered.cases, geometry=geometry, progress=progress)
    if table is None:
        return None, faults
    channels = max(len(case.images) for case in gathered.cases)
    dataset = _dataset(root, None, tuple(names or (f"channel {i}" for i in range(channels))), table, gathered)
    if names is None:
        note = 'no dataset.json: label names are their values, and intensities are taken as arbitrary units (say "CT" for CT numbers)'
        dataset = replace(dataset, warnings=(*dataset.warnings, note))
    return dataset, faults


def _id_faults(cases: Sequence[CaseFiles]) -> list[Autoseg3dError]:
    wrong = (check_case_id(case.id, file=case.images[0] if case.images else None) for case in cases)
    return [*(fault for fault in wrong if fault), *clashes((case.id, case.label) for case in cases)]
