"""ModelPackage: a trained model as it is read, every byte checked against the manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from autoseg3d import files
from autoseg3d.errors import ModelError, ReadError
from autoseg3d.package.card import facts
from autoseg3d.package.contents import Contents
from autoseg3d.package.manifest import FINGERPRINT, MANIFEST, PLAN, POSTPROCESSING, SELECTION, FoldRecord, Manifest
from autoseg3d.package.selection import Selection
from autoseg3d.package.sources import ArchiveSource, FolderSource, Source, altered, check_file, read_checked, reading_errors
from planners.contract import Contract
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.postprocessing import Postprocessing, PostprocessingTable

if TYPE_CHECKING:
    from torch import Tensor

_Kind = TypeVar("_Kind", bound=Contract)
_MAX_JSON = 256 * 2**20


@dataclass(frozen=True)
class ModelPackage:
    """A verified model package.

    source       where its bytes come from
    manifest     hashes and folds
    sha256       hash of the manifest, and so of all that is in the package: the identity of the model
    contents     its plan, fingerprint, postprocessing and selection
    """

    source: Source
    manifest: Manifest
    sha256: str
    contents: Contents

    @property
    def plan(self) -> Plan:
        """What preprocessing and prediction need, the label table among it."""
        return self.contents.plan

    @property
    def fingerprint(self) -> Fingerprint:
        """What the model was trained on."""
        return self.contents.fingerprint

    @property
    def selection(self) -> Selection | None:
        """What `autoseg3d select` chose, None where it was not run."""
        return self.contents.selection

    def postprocessing(self, configurations: tuple[str, ...]) -> Postprocessing | None:
        """What is applied to a prediction of these configurations (fused, where several), None for nothing."""
        return self.contents.postprocessing.of(configurations)

    @property
    def location(self) -> Path:
        """The folder or file it was opened from."""
        return self.source.location

    @property
    def configurations(self) -> tuple[str, ...]:
        """The plan's configurations that have at least one trained fold."""
        return tuple(name for name in self.plan.configurations if self.folds(name))

    def folds(self, configuration: str) -> tuple[str, ...]:
        """The trained folds of a configuration: "0", "1", … in order, then "full"."""
        present = [record.fold for record in self.manifest.folds if record.configuration == configuration]
        return tuple(sorted(present, key=lambda fold: (not fold.isdigit(), int(fold) if fold.isdigit() else 0)))

    def fold(self, configuration: str, fold: str) -> FoldRecord:
        """What the manifest says of one fold. Raises ModelError naming what there is."""
        for record in self.manifest.folds:
            if (record.configuration, record.fold) == (configuration, fold):
                return record
        there = ", ".join(f"{record.configuration} fold {record.fold}" for record in self.manifest.folds) or "nothing trained yet"
        raise ModelError(
            "the model package has no such fold",
            code="E_MODEL_FOLD",
            file=self.location,
            wanted=f"{configuration} fold {fold}",
            got=there,
            remedy="Choose among these, or train it",
        )

    def load_weights(self, configuration: str, fold: str) -> dict[str, Tensor]:
        """The float32 weights of one fold, on the CPU; the hash is checked again on the very bytes that are used.

        Raises ModelError where the fold is not there or its file is altered, not valid, not float32 or not finite.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        name = self.fold(configuration, fold).file
        data = read_checked(self.source, name, self.manifest.files[name])
        try:
            weights: dict[str, Tensor] = load(data)
        except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(f"weights cannot be read: {error}", code="E_MODEL_WEIGHTS", file=self.location, field=name) from error
        check_weights(weights, self.location, name)
        return weights

    def describe(self) -> tuple[tuple[str, str], ...]:
        """What the model is, as pairs (what, value) for people."""
        return (("file", str(self.location)), *facts(self.contents, self.manifest), ("sha256", self.sha256))


def check_weights(weights: dict[str, Tensor], location: Path, name: str) -> None:
    """Raises ModelError unless there are weights and all of them are finite float32."""
    import torch

    def finite(tensor: Tensor) -> bool:
        """A finite sum is enough, and quick; finite numbers may yet have an infinite one."""
        return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())

    wrong = [key for key, tensor in weights.items() if tensor.dtype != torch.float32 or not finite(tensor)]
    if wrong or not weights:
        raise ModelError(
            "weights must be finite float32 numbers",
            code="E_MODEL_WEIGHTS",
            file=location,
            field=name,
            got=", ".join(wrong[:5]) or "no weights at all",
            remedy="Train the fold again",
        )


def open_package(path: Path | str) -> ModelPackage:
    """The package in a folder, in the `model` folder of a run, or in a .a3d file, with every file verified.

    Raises ModelError: E_MODEL_MISSING (nothing there), E_MODEL_ALTERED, E_MODEL_FILE_MISSING, E_MODEL_EXTRA_FILE,
    E_MODEL_NAME, E_MODEL_ZIP, E_MODEL_VERSION, E_MODEL_JSON.
    """
    source = find_source(Path(path))
    for _ in range(5):
        manifest_data = read_manifest_bytes(source)
        try:
            return _verified(source, manifest_data)
        except ModelError:
            # A fold may have been added between reading the manifest and the rest; only a still manifest convicts.
            if read_manifest_bytes(source) == manifest_data:
                raise
    raise ModelError("the model package is being changed all the time", file=source.location, remedy="Try again once training is done")


def find_source(path: Path) -> Source:
    """The package at `path`: a folder, a run with a model in it, or a file. Raises ModelError where there is none."""
    if path.is_file():
        return ArchiveSource(path)
    for folder in (path, path / "model"):
        if (folder / MANIFEST).is_file():
            return FolderSource(folder)
    raise ModelError(
        "no model here",
        code="E_MODEL_MISSING",
        file=path,
        wanted="a .a3d file, or a folder with a manifest.json, or a run with a trained fold",
        remedy="Check the path, or train a fold first",
    )


def read_manifest_bytes(source: Source) -> bytes:
    """The manifest as it is stored; its hash is the identity of the package."""
    if source.size(MANIFEST) > _MAX_JSON:
        raise altered(source.location, MANIFEST)
    with reading_errors(source.location), source.open(MANIFEST) as file:
        return file.read(_MAX_JSON)


def read_manifest(source: Source, data: bytes) -> Manifest:
    """The manifest in `data`. Raises ModelError where it is of another version or not valid."""
    try:
        value = files.parse_json(data, file=source.location / MANIFEST)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version != 1:
            raise ModelError(
                "this model was made by a newer version of the program",
                code="E_MODEL_VERSION",
                file=source.location,
                wanted="schema_version 1",
                got=version,
                remedy="Update autoseg3d",
            )
        return files.as_contract(value, Manifest, file=source.location / MANIFEST)
    except ReadError as error:
        raise _bad_json(error) from error


def _bad_json(error: ReadError) -> ModelError:
    return ModelError(
        error.what,
        code="E_MODEL_JSON",
        file=error.file,
        field=error.field,
        wanted=error.wanted,
        got=error.got,
        remedy="Copy the package anew, whole",
    )


def _verified(source: Source, manifest_data: bytes) -> ModelPackage:
    manifest = read_manifest(source, manifest_data)
    names = source.names()
    if extra := sorted(names - set(manifest.files)):
        raise ModelError(
            "the model package holds files that its manifest does not know",
            code="E_MODEL_EXTRA_FILE",
            file=source.location,
            got=", ".join(extra[:5]),
            remedy="Remove them, or copy the package anew",
        )
    for name, record in manifest.files.items():
        check_file(source, name, record)
    return ModelPackage(
        source=source,
        manifest=manifest,
        sha256=hashlib.sha256(manifest_data).hexdigest(),
        contents=Contents(
            plan=_contract(source, manifest, PLAN, Plan),
            fingerprint=_contract(source, manifest, FINGERPRINT, Fingerprint),
            postprocessing=_optional(source, manifest, POSTPROCESSING, PostprocessingTable) or PostprocessingTable(),
            selection=_optional(source, manifest, SELECTION, Selection),
        ),
    )


def _optional(source: Source, manifest: Manifest, name: str, kind: type[_Kind]) -> _Kind | None:
    return _contract(source, manifest, name, kind) if name in manifest.files else None


def _contract(source: Source, manifest: Manifest, name: str, kind: type[_Kind]) -> _Kind:
    if manifest.files[name].size > _MAX_JSON:
        raise altered(source.location, name)
    data = read_checked(source, name, manifest.files[name])
    try:
        return files.as_contract(files.parse_json(data, file=source.location / name), kind, file=source.location / name)
    except ReadError as error:
        raise _bad_json(error) from error
