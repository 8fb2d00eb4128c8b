"""make_report: finds out what a folder is and writes its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from autoseg3d.errors import Autoseg3dError, UsageError
from autoseg3d.io import CaseFiles, GeometryChoice, open_dataset
from autoseg3d.pages import write_page
from autoseg3d.prediction.records import RESULTS_JSON
from autoseg3d.report.batch import find_inputs, label_table, read_batch
from autoseg3d.report.batch_page import batch_page
from autoseg3d.report.calibration import with_calibration
from autoseg3d.report.folds import Validated, read_folds, validated
from autoseg3d.report.illustration import Illustration, Progress, Subject, illustrate
from autoseg3d.report.run_page import run_page
from autoseg3d.report.suspicion import suspects
from autoseg3d.report.viewing import HOW_TO_GET, viewer_scripts
from autoseg3d.run import RunFolder
from planners.labels import LabelTable

NAME = "report.html"
_SHOWN = 10
# What the volumes of all viewers of a page may take together, and what one voxel takes: a byte of grey that hardly
# compresses, a little for the labels, and a third on top for base64.
_VIEWER_BYTES = 7 * 2**19
_BYTES_PER_VOXEL = 1.2
_FEWEST_VOXELS, _MOST_VOXELS = 30_000, 1_500_000


def make_report(
    folder: Path,
    out: Path | None = None,
    *,
    scans: Path | None = None,
    viewer: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Writes the page of a run folder or of a folder of predictions, and returns where it is.

    Args:
        folder: of `autoseg3d plan` or of `autoseg3d predict`.
        out: the file; FOLDER/report.html where None.
        scans: for predictions, the folder of the scans, without which pictures show outlines on black; for a run, the
            dataset folder where it is not where it was planned.
        viewer: whether to embed the 3D viewer, where this installation has it.
        workers: processes that draw.

    Raises UsageError where the folder is neither, ReadError where something in it is damaged.
    """
    out = out or folder / NAME
    viewer = viewer and viewer_scripts() is not None
    if (folder / "plan.json").is_file():
        return _of_run(RunFolder(folder), out, raw=scans, viewer=viewer, workers=workers, progress=progress)
    if (folder / RESULTS_JSON).is_file():
        return _of_batch(folder, out, scans=scans, viewer=viewer, workers=workers, progress=progress)
    raise UsageError(
        "neither a run nor a folder of predictions",
        file=folder,
        wanted=f"a folder with plan.json (autoseg3d plan) or {RESULTS_JSON} (autoseg3d predict)",
        remedy="Check the path",
    )


def viewer_voxels(count: int) -> int:
    """The voxels that each of `count` volumes may have."""
    return int(min(max(_VIEWER_BYTES / _BYTES_PER_VOXEL / max(count, 1), _FEWEST_VOXELS), _MOST_VOXELS))


def _of_run(run: RunFolder, out: Path, *, raw: Path | None, viewer: bool, workers: int, progress: Progress | None) -> Path:
    plan, fingerprint = run.plan(), run.fingerprint()
    folds = read_folds(run)
    found = validated(folds)
    ranked = suspects(found[0].scores.rows)[:_SHOWN] if found else ()
    worst = tuple(found[0].scores.case_dice())[:_SHOWN] if found else ()
    shown = list(dict.fromkeys([*(suspect.case for suspect in ranked), *worst]))
    illustrations: dict[str, Illustration] = {}
    note = None
    if found:
        record = run.record()
        files, note = _raw_cases(raw or Path(record.raw))
        references = {case: own.label for case, own in files.items() if own.label is not None}
        geometry = cast(GeometryChoice, record.geometry)
        found = tuple(
            with_calibration(one, references, plan.labels, geometry=geometry, workers=workers, progress=progress) for one in found
        )
        subjects = _subjects(shown, files, found[0], plan.labels, geometry, viewer=viewer)
        illustrations = illustrate(subjects, workers=workers, progress=progress)
    page = run_page(plan, fingerprint, folds, found, ranked=ranked, worst=worst, illustrations=illustrations, note=note)
    write_page(out, page)
    return out


def _raw_cases(raw: Path) -> tuple[dict[str, CaseFiles], str | None]:
    """The cases of the dataset by id, and what to say where it cannot be opened."""
    try:
        return {case.id: case for case in open_dataset(raw, partial=True).cases}, None
    except Autoseg3dError:
        return {}, "No pictures: the dataset is not where it was when the run was planned. Give its folder with --scans."


def _subjects(
    shown: Sequence[str], files: dict[str, CaseFiles], found: Validated, labels: LabelTable, geometry: GeometryChoice, *, viewer: bool
) -> list[Subject]:
    voxels = viewer_voxels(len(shown)) if viewer else None
    return [
        Subject(
            id=case,
            files=files[case],
            prediction=found.predictions[case],
            reference=files[case].label,
            labels=labels,
            geometry=geometry,
            viewer_voxels=voxels,
        )
        for case in shown
        if case in files
    ]


def _of_batch(folder: Path, out: Path, *, scans: Path | None, viewer: bool, workers: int, progress: Progress | None) -> Path:
    cases = read_batch(folder)
    labels = label_table(cases)
    inputs = find_inputs(cases, scans)
    segmented = [case for case in cases if case.output is not None]
    subjects = []
    for case in segmented:
        assert labels is not None
        assert case.output is not None
        files = inputs.get(case.case)
        if scans is None or files is not None:
            voxels = viewer_voxels(len(segmented)) if viewer and files is not None else None
            subjects.append(Subject(case.case, files, case.output, None, labels, viewer_voxels=voxels))
    illustrations = illustrate(subjects, workers=workers, progress=progress)
    for case in segmented:
        if scans is not None and case.case not in inputs:
            illustrations[case.case] = Illustration(fault="the scan that was segmented is not in the folder of scans")
    write_page(out, batch_page(cases, labels, illustrations=illustrations, notes=_notes(scans, viewer=viewer)))
    return out


def _notes(scans: Path | None, *, viewer: bool) -> list[str]:
    """What the page lacks."""
    if scans is None:
        return ["Pictures show outlines only: the records do not say where the scans are. Add --scans FOLDER to see them on the scans."]
    return [] if viewer or viewer_scripts() is not None else [HOW_TO_GET]
