"""Whether results still are what their records say: every hash of a record computed anew and compared.

Without the scans and the model a record can only be held against its outputs and against itself: its key is the hash of
the inputs, models and options that it states. With them, it is known that nothing was exchanged since; and with
`predict`, that the same labels come out again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from autoseg3d import files
from autoseg3d.errors import Autoseg3dError, DataError, UsageError
from autoseg3d.io import CaseFiles, find_scans, read_volume
from autoseg3d.package import ModelPackage, open_package
from autoseg3d.prediction.batch import predict_scans
from autoseg3d.prediction.options import PredictOptions
from autoseg3d.prediction.records import RESULTS_JSON, CaseRecord, ModelRecord, hash_inputs, key_of, model_key

State = Literal["equal", "different", "missing", "not checked"]


@dataclass(frozen=True)
class Check:
    """One comparison.

    case   the case of the record, or the record's file name where it cannot be read
    what   what was compared: "record", "inputs", "model", "output NAME", "prediction"
    state  "not checked" where what it takes was not given
    said   what was found
    """

    case: str
    what: str
    state: State
    said: str


def verify_records(records: Path, *, scans: Path | None = None, models: Sequence[Path] = (), predict: bool = False) -> tuple[Check, ...]:
    """Compares one record (CASE.json), or all of an output folder, with what is on disk.

    Args:
        records: the record, its outputs beside it; or the folder.
        scans: where the input scans are now; compared by name and content.
        models: the models that were used, in any order.
        predict: compute the labels anew, on the record's device, and compare them; takes `scans` and `models`.

    Raises UsageError where there is no record or where `predict` lacks something, ModelError for a damaged model.
    """
    if predict and (scans is None or not models):
        raise UsageError(
            "to predict again takes the scans and the models", field="predict", remedy="Name them: --scans SCANS --model MODEL"
        )
    known = _Known([open_package(model) for model in models], scans)
    return tuple(check for path in _record_files(records) for check in _verify(path, known, predict=predict))


class _Known:
    """The models by hash, and the scans by case."""

    def __init__(self, packages: Sequence[ModelPackage], scans: Path | None) -> None:
        self.packages = {package.sha256: package for package in packages}
        self.folder = scans
        self._scans: dict[int, dict[str, CaseFiles]] = {}

    def scan(self, record: CaseRecord) -> CaseFiles | None:
        """The scan of that name, None where there is none."""
        assert self.folder is not None
        channels = len(record.channel_names) or 1
        if channels not in self._scans:
            self._scans[channels] = {scan.id: scan for scan in find_scans(self.folder, num_channels=channels)}
        return self._scans[channels].get(record.case)


def _record_files(records: Path) -> list[Path]:
    if records.is_file():
        return [records]
    found = sorted(path for path in records.glob("*.json") if path.name != RESULTS_JSON)
    if not found:
        raise UsageError("there is no record", file=records, wanted="CASE.json, or a folder of predictions", remedy="Check the path")
    return found


def _verify(path: Path, known: _Known, *, predict: bool) -> Iterator[Check]:
    try:
        record = files.read_contract(path, CaseRecord)
    except (Autoseg3dError, OSError) as error:
        yield Check(path.name, "record", "different", f"cannot be read: {error}")
        return
    case = record.case
    yield Check(case, "record", *_itself(record))
    for output in record.outputs:
        yield Check(case, f"output {output.name}", *_output(path.parent / output.name, output.sha256))
    yield Check(case, "inputs", *_inputs(record, known))
    for model in record.models:
        yield Check(case, "model", *_model(model, known))
    if predict:
        yield Check(case, "prediction", *_again(record, path.parent, known))


def _itself(record: CaseRecord) -> tuple[State, str]:
    """Whether the record's key is that of the inputs, models and options which it states."""
    models = [model_key(model.sha256, model.configuration, model.folds) for model in record.models]
    try:
        key = key_of(record.inputs, models, PredictOptions.model_validate(record.options).relevant())
    except ValidationError:
        return "different", "it states options that this version does not know"
    if key != record.key:
        return "different", "inputs, models or options in it were changed: they do not give its key"
    return "equal", "its key is that of its inputs, models and options"


def _output(path: Path, sha256: str) -> tuple[State, str]:
    try:
        found = files.sha256(path)
    except OSError:
        return "missing", "not beside the record"
    return ("equal", "the bytes that were written") if found == sha256 else ("different", "changed since it was written")


def _inputs(record: CaseRecord, known: _Known) -> tuple[State, str]:
    if known.folder is None:
        return "not checked", "name the scans to compare them"
    scan = known.scan(record)
    if scan is None:
        return "missing", f"no scan of this name in {known.folder}"
    try:
        found = hash_inputs(scan)
    except DataError as error:
        return "missing", str(error)
    if found == record.inputs:
        return "equal", f"the same {len(found)} files"
    changed = sorted(name for name in found.keys() | record.inputs.keys() if found.get(name) != record.inputs.get(name))
    return "different", f"changed since: {', '.join(changed[:5])}"


def _model(model: ModelRecord, known: _Known) -> tuple[State, str]:
    if not known.packages:
        return "not checked", "name the model to compare it"
    package = known.packages.get(model.sha256)
    if package is None:
        return "different", f"none of the models given is the one that was used ({model.sha256[:12]}…)"
    changed = sorted(
        name
        for name, sha256 in model.weights.items()
        if name not in package.manifest.files or package.manifest.files[name].sha256 != sha256
    )
    return ("different", f"other weights: {', '.join(changed)}") if changed else ("equal", "the model that was used")


def _again(record: CaseRecord, folder: Path, known: _Known) -> tuple[State, str]:
    packages = [known.packages[model.sha256] for model in record.models if model.sha256 in known.packages]
    scan = known.scan(record)
    if scan is None or len(packages) != len(record.models):
        return "not checked", "the scan or a model is not there"
    # Only the labels are compared; what was written beside them is held against its hash.
    chosen: dict[str, Any] = {**record.options, "save_probabilities": False, "uncertainty": False}
    unique = list({package.sha256: package for package in packages}.values())
    name = next(output.name for output in record.outputs if output.name.endswith(".nii.gz"))
    with tempfile.TemporaryDirectory(prefix="autoseg3d-verify-") as scratch:
        result = predict_scans([scan], unique, scratch, PredictOptions.model_validate(chosen))[0]
        if result.output is None:
            return "different", f"the prediction fails now: {result.cause}"
        if files.sha256(result.output) == files.sha256(folder / name):
            return "equal", "the same bytes come out again"
        now, then = (np.asarray(read_volume(path, labels=True).array) for path in (result.output, folder / name))
    if now.shape != then.shape:
        return "different", f"another shape comes out: {now.shape} instead of {then.shape}"
    return "different", f"{int((now != then).sum())} of {now.size} voxels come out with another label"
