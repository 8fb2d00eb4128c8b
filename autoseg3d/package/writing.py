"""Making a model package: create it, add folds to it from any number of processes, pack it into one file."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autoseg3d
from autoseg3d import files
from autoseg3d.errors import ModelError, UsageError
from autoseg3d.package.card import card
from autoseg3d.package.contents import Contents
from autoseg3d.package.manifest import CARD, FINGERPRINT, MANIFEST, PLAN, POSTPROCESSING, SELECTION, FileRecord, FoldRecord, Manifest
from autoseg3d.package.model import check_weights, open_package, read_manifest, read_manifest_bytes
from autoseg3d.package.selection import Selection
from autoseg3d.package.sources import FolderSource, is_scratch, pending, read_checked
from planners.contract import Contract
from planners.fingerprint import Fingerprint
from planners.plan import Plan, TrainingPlan
from planners.postprocessing import PostprocessingTable

if TYPE_CHECKING:
    from torch import Tensor

_WAIT_SECONDS = 600.0


def create_package(folder: Path | str, plan: Plan, fingerprint: Fingerprint) -> None:
    """Makes a package without folds, or keeps the one that is there if it was made from the same plan.

    Plans that differ only in their training recipe or in the reasons they state count as the same. Raises ModelError
    (E_MODEL_OTHER_PLAN) where folds of another plan are in the folder, LockedError where another process holds it.
    """
    folder = Path(folder)
    with files.lock(folder, wait_seconds=_WAIT_SECONDS):
        manifest = _manifest(folder)
        if manifest is not None and manifest.folds:
            _refuse_other_plan(folder, manifest, plan)
            return
        empty = Manifest.model_construct(software_version=autoseg3d.__version__, files={}, folds=())
        _commit(folder, Contents(plan, fingerprint), empty, {PLAN: plan.to_json().encode(), FINGERPRINT: fingerprint.to_json().encode()})


def add_fold(
    folder: Path | str, *, configuration: str, fold: str, weights: Mapping[str, Tensor], scores: Mapping[str, Any] | None = None
) -> None:
    """Adds one trained network to a package, in place of one of the same configuration and fold.

    Several processes may do so at once: each waits for its turn. The weights are kept as float32.

    Args:
        folder: a package made by `create_package`.
        configuration: a configuration of the package's plan.
        fold: "0", "1", … or "full".
        weights: the state dict of the network.
        scores: what training measured, numbers or words or one level of tables of numbers; see FoldRecord.

    Raises ModelError where there is no package, the configuration is unknown or the weights are not finite,
    LockedError after ten minutes of waiting, StorageError where the disk is full: the package is then as it was.
    """
    from safetensors.torch import save

    folder = Path(folder)
    tensors = {name: tensor.detach().to(device="cpu").float().contiguous().clone() for name, tensor in weights.items()}
    record = FoldRecord(configuration=configuration, fold=fold, scores=_finite(scores or {}))
    check_weights(tensors, folder, record.file)
    data = save(tensors)
    with files.lock(folder, wait_seconds=_WAIT_SECONDS):
        package = open_package(folder)
        if configuration not in package.plan.configurations:
            known = ", ".join(package.plan.configurations)
            raise ModelError("the plan has no such configuration", file=folder, wanted=known, got=configuration)
        others = [known for known in package.manifest.folds if known.file != record.file]
        folds = sorted([*others, record], key=lambda known: (known.configuration, known.fold.rjust(5)))
        manifest = package.manifest.model_copy(update={"folds": tuple(folds), "software_version": autoseg3d.__version__})
        _commit(folder, package.contents, manifest, {record.file: data})


def set_postprocessing(folder: Path | str, table: PostprocessingTable, *, selection: Selection | None = None) -> None:
    """Puts what is applied after prediction into a package, in place of what was there, and what `select` found out.

    Without `selection` the one that is there stays. Raises ModelError where there is no package or where the table names
    label values or configurations that the plan does not know; LockedError and StorageError as `add_fold`.
    """
    folder = Path(folder)
    with files.lock(folder, wait_seconds=_WAIT_SECONDS):
        package = open_package(folder)
        _refuse_unknown(folder, table, package.plan)
        contents = replace(package.contents, postprocessing=table, selection=selection or package.selection)
        changed = {POSTPROCESSING: table.to_json().encode()}
        if selection is not None:
            changed[SELECTION] = selection.to_json().encode()
        _commit(folder, contents, package.manifest, changed)


def set_licence(folder: Path | str, licence: str) -> None:
    """States in a package (or in that of a run) what others may do with the model. Raises ModelError where there is none."""
    package = open_package(folder)
    with files.lock(package.location, wait_seconds=_WAIT_SECONDS):
        package = open_package(package.location)
        _commit(package.location, package.contents, package.manifest.model_copy(update={"licence": licence}), {})


def pack(folder: Path | str, out: Path | str) -> Path:
    """One .a3d file of a package folder (or of a run that has one): the same package gives the same bytes.

    Raises ModelError where the package is damaged or has no fold, UsageError where `out` lies inside it.
    """
    out = Path(out)
    package = open_package(folder)
    if not package.manifest.folds:
        raise ModelError("there is no trained fold to pack", code="E_MODEL_EMPTY", file=package.location, remedy="Train one first")
    if out.resolve().is_relative_to(package.location.resolve()):
        raise UsageError("the file would lie inside the model itself", field="out", got=out, remedy="Choose another folder")
    manifest = read_manifest_bytes(package.source)
    if hashlib.sha256(manifest).hexdigest() != package.sha256:
        raise ModelError("the model package is being changed", file=package.location, remedy="Try again once training is done")
    with files.replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _store(archive, MANIFEST, manifest)
        for name, record in sorted(package.manifest.files.items()):
            _store(archive, name, read_checked(package.source, name, record))
    return out


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr, entry.create_system = 0o100644 << 16, 3
    archive.writestr(entry, data)


def _manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST
    return read_manifest(FolderSource(folder), path.read_bytes()) if path.is_file() else None


def _refuse_other_plan(folder: Path, manifest: Manifest, plan: Plan) -> None:
    known = open_package(folder).plan
    if _for_prediction(known) != _for_prediction(plan):
        trained = ", ".join(f"{fold.configuration} fold {fold.fold}" for fold in manifest.folds)
        raise ModelError(
            "the model folder holds networks trained with another plan",
            code="E_MODEL_OTHER_PLAN",
            file=folder,
            got=trained,
            remedy="Train into a new run folder, or move this model folder away",
        )


def _refuse_unknown(folder: Path, table: PostprocessingTable, plan: Plan) -> None:
    names = {name for entry in table.entries for name in entry.configurations} - set(plan.configurations)
    values = {value for entry in table.entries for step in entry.steps for value in step.values} - set(plan.labels.values)
    if names or values:
        raise ModelError(
            "the postprocessing speaks of what the plan does not know",
            code="E_POSTPROCESSING",
            file=folder,
            wanted=f"configurations {sorted(plan.configurations)}, label values {list(plan.labels.values)}",
            got=[*sorted(names), *sorted(values)],
            remedy="Choose it anew: autoseg3d select RUN",
        )


def _for_prediction(plan: Plan) -> Contract:
    """The plan without what only concerns how training goes."""
    return plan.model_copy(update={"training": TrainingPlan(), "decisions": ()})


def _commit(folder: Path, contents: Contents, manifest: Manifest, changed: dict[str, bytes]) -> None:
    """Puts `changed` files into a package, whose folds and licence are those of `manifest`, all at once.

    `contents` is what the package's records say once they are in.

    The new files are laid beside the package, then the manifest that names them replaces the old one, then they move
    into place. Where this process dies before the manifest, the package is what it was; where it dies after,
    readers find the files where they wait, and the next writer moves them.
    """
    _clean(folder)
    records = {**manifest.files, **{name: _record(data) for name, data in changed.items()}}
    told = card(contents, manifest.model_copy(update={"files": records})).encode()
    changed, records = {**changed, CARD: told}, {**records, CARD: _record(told)}
    for name, data in changed.items():
        files.write_bytes(pending(folder, name, records[name]), data)
    complete = Manifest.model_validate(manifest.model_dump() | {"files": records})
    files.write_text(folder / MANIFEST, complete.to_json())
    _settle(folder, complete)


def _record(data: bytes) -> FileRecord:
    return FileRecord(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _settle(folder: Path, manifest: Manifest) -> None:
    """Moves files that wait beside the package into their places."""
    for name, record in manifest.files.items():
        waiting = pending(folder, name, record)
        if waiting.is_file():
            with files.storage_errors(folder / name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(waiting, folder / name)


def _clean(folder: Path) -> None:
    """Finishes what an earlier writer left undone and removes its scratch files; called under the lock."""
    manifest = _manifest(folder)
    if manifest is not None:
        _settle(folder, manifest)
    for root, _, names in os.walk(folder):
        for name in names:
            if is_scratch(name) and not name.startswith(".lock"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(Path(root) / name)


def _finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with None for numbers that are not finite, which JSON cannot hold (Dice of a label that never occurs)."""
    return {name: _finite(value) if isinstance(value, Mapping) else _finite_value(value) for name, value in scores.items()}


def _finite_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
