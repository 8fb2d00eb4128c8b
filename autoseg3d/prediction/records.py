"""What is written beside a label map: the record of how it came to be, and the table of a whole batch.

OUT/<case>.json is the commit mark of a case: it is written after the label map and states its hash. A rerun takes a
case as finished when its inputs, the model, the options and the output are, by their hashes, what the record says.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from pydantic import Field

import autoseg3d
from autoseg3d import files
from autoseg3d.errors import Autoseg3dError, ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.io import CaseFiles
from autoseg3d.io.parts import parts
from autoseg3d.prediction.attempts import out_of_memory
from autoseg3d.prediction.findings import LabelFinding
from autoseg3d.prediction.flags import Flag
from planners.contract import Contract, readable_json
from planners.labels import LabelTable

RESULTS_JSON, RESULTS_CSV = "results.json", "results.csv"
Status = Literal["done", "review", "failed"]


class OutputFile(Contract):
    """One file that a prediction wrote, by name in the output folder."""

    name: str
    sha256: str


class ModelRecord(Contract):
    """The model behind a prediction.

    sha256         of the package's manifest, which holds the hash of every weight file
    folds          fused, and `missing_folds` of the cross-validation that are not trained
    """

    sha256: str
    dataset_name: str
    plan: str
    fingerprint: str
    configuration: str
    folds: tuple[str, ...]
    missing_folds: tuple[str, ...]
    weights: dict[str, str]


class StepRecord(Contract):
    """A step of postprocessing in words, and the connected parts and the volume that it removed."""

    step: str
    parts: int = Field(ge=0)
    removed_ml: float = Field(ge=0)


class CaseRecord(Contract):
    """The audit record of one label map. File names and hashes only: no paths, no text fields of headers.

    key         hash of inputs, model and options; equal keys make equal outputs
    inputs      name and SHA-256 of every input file
    models      one per member of an ensemble, averaged with equal weights
    options     all options after defaults; `choices` what was decided for this scan by memory or time
    labels      what the values of the label map mean; `channel_names` of the scan's images (both absent in older records)
    findings    volume, place and edge of every label, and how far folds agree where that was asked for
    postprocessing   steps of the model that were applied to the labels, and what each removed
    seconds     wall-clock time of each step; reading may have run beside the networks of the case before
    reading_limit_seconds   how long reading might have taken, by the size of the files; None where a limit was asked for
    peak_bytes  largest memory of the process while it worked on this case (since its start where the system cannot tell);
                `forecast_bytes` what was expected, on a CPU
    """

    schema_version: Literal[1] = 1
    case: str
    key: str
    status: Literal["done", "review"]
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]
    inputs: dict[str, str]
    grid: dict[str, Any]
    models: tuple[ModelRecord, ...]
    options: dict[str, Any]
    choices: tuple[str, ...] = ()
    class_order: tuple[str, ...]
    labels: LabelTable | None = None
    channel_names: tuple[str, ...] = ()
    findings: tuple[LabelFinding, ...] = ()
    postprocessing: tuple[StepRecord, ...] = ()
    outputs: tuple[OutputFile, ...]
    precision: str
    device: str
    bf16_agreement: float | None
    software: dict[str, str]
    started_utc: str
    ended_utc: str
    seconds: dict[str, float]
    reading_limit_seconds: float | None = None
    peak_bytes: int = Field(ge=0)
    forecast_bytes: int | None = None


@dataclass(frozen=True)
class CaseResult:
    """What became of one scan of a batch.

    status   "done", "review" (done, with flags) or "failed"
    code     stable name of the failure, None where there is none; `cause` and `remedy` in words
    output   the label map, None where the case failed
    reused   whether an earlier run had finished it
    """

    case: str
    status: Status
    flags: tuple[Flag, ...] = ()
    code: str | None = None
    cause: str | None = None
    remedy: str | None = None
    output: Path | None = None
    seconds: float = 0.0
    reused: bool = False

    @property
    def remedies(self) -> tuple[str, ...]:
        """What to do: about the failure, or about each kind of flag."""
        if self.status == "failed":
            return (self.remedy,) if self.remedy else ()
        return tuple(dict.fromkeys(flag.remedy for flag in self.flags))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a person should look: the failure, or one sentence per flag."""
        if self.status == "failed":
            cause = self.cause or ""
            return (cause if cause.startswith(f"{self.code}:") else f"{self.code}: {cause}",)
        return tuple(f"{flag.code}: {flag.reason}" for flag in self.flags)

    def as_row(self) -> dict[str, Any]:
        """The result as plain values for results.json."""
        return {
            "case": self.case,
            "status": self.status,
            "code": self.code,
            "cause": self.cause,
            "remedy": self.remedy,
            "flags": [{**flag.model_dump(), "remedy": flag.remedy} for flag in self.flags],
            "output": self.output.name if self.output else None,
            "seconds": round(self.seconds, 3),
            "reused": self.reused,
        }


def failure(scan: CaseFiles, error: Exception, seconds: float) -> CaseResult:
    """The result of a scan that raised `error`, expected or not; its files are named without the folders they lie in."""
    if isinstance(error, Autoseg3dError):
        cause = _one_line(_without_folders(str(error), scan))
        return CaseResult(scan.id, "failed", code=error.code, cause=cause, remedy=error.remedy, seconds=seconds)
    exhausted = out_of_memory(error)
    code = "E_MEMORY" if exhausted else "E_INTERNAL"
    remedy = "Close other programs or use a machine with more memory" if exhausted else "Please report this with the scan's shape"
    cause = _one_line(_without_folders(f"{type(error).__name__}: {error}", scan))
    return CaseResult(scan.id, "failed", code=code, cause=cause, remedy=remedy, seconds=seconds)


def _without_folders(text: str, scan: CaseFiles) -> str:
    """A text in which the files of a scan stand by their names: folders are often called like patients, and results travel."""
    # Not Path.resolve, which raises on a link that leads to itself.
    parents = {folder for path in scan.images for folder in (path.parent, path.absolute().parent, Path(os.path.realpath(path)).parent)}
    for folder in sorted(map(str, parents - {Path(), Path(Path().absolute().anchor)}), key=len, reverse=True):
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def exit_code(results: Sequence[CaseResult]) -> int:
    """0 where every case was predicted, 3 where any failed."""
    return 3 if any(result.status == "failed" for result in results) else 0


def write_results(out: Path, results: Sequence[CaseResult], *, total: int) -> None:
    """results.json and results.csv of the cases so far, out of `total`; each appears whole."""
    counts = {status: sum(result.status == status for result in results) for status in ("done", "review", "failed")}
    rows = [result.as_row() for result in results]
    summary = {"schema_version": 1, "software_version": autoseg3d.__version__, "total": total, **counts, "cases": rows}
    files.write_text(out / RESULTS_JSON, readable_json(summary))
    table = io.StringIO()
    columns = ["case", "status", "code", "reasons", "what_to_do", "output", "seconds", "reused"]
    writer = csv.DictWriter(table, columns, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        writer.writerow({**result.as_row(), "reasons": "; ".join(result.reasons), "what_to_do": "; ".join(result.remedies)})
    files.write_text(out / RESULTS_CSV, table.getvalue())


def hash_inputs(scan: CaseFiles) -> dict[str, str]:
    """Name and SHA-256 of every file of a scan; files that a header file only names count too. Raises ReadError."""
    found: dict[str, str] = {}
    for path in scan.images:
        try:
            hashes = {
                part.name if part.name not in found else f"{part.parent.name}/{part.name}": files.sha256(part) for part in parts(path)
            }
        except OSError as error:
            raise ReadError(
                f"cannot be read: {error.strerror}", file=path, case=scan.id, code="E_MISSING", remedy="Check the path"
            ) from error
        found |= hashes
    return found


def model_key(sha256: str, configuration: str, folds: Sequence[str]) -> str:
    """One model of a prediction in the words of `key_of`."""
    return f"{sha256} {configuration} {','.join(folds)}"


def key_of(inputs: dict[str, str], models: Sequence[str], options: dict[str, Any]) -> str:
    """Hash of all that an output depends on."""
    content = readable_json({"inputs": dict(sorted(inputs.items())), "models": list(models), "options": options})
    return hashlib.sha256(content.encode()).hexdigest()


def finished(out: Path, case: str, key: str) -> CaseRecord | None:
    """The record of an earlier run that made exactly this output, if the output is still what it was."""
    try:
        record = files.read_contract(out / f"{case}.json", CaseRecord)
        whole = all(files.sha256(out / output.name) == output.sha256 for output in record.outputs)
    except (Autoseg3dError, OSError):
        return None
    return record if whole and record.key == key and record.case == case else None


def grid_facts(geometry: Geometry) -> dict[str, Any]:
    """The scan's grid in the words of a record."""
    return {
        "shape_zyx": list(geometry.shape),
        "spacing_zyx_mm": [float(np.round(v, 6)) for v in geometry.spacing_mm],
        "orientation": geometry.orientation,
    }


def software_facts() -> dict[str, str]:
    """Versions of what computed, and the kind of machine; nothing that names it."""
    return {
        "autoseg3d": autoseg3d.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda or "none",
        "system": f"{platform.system()} {platform.machine()}",
    }


def now_utc() -> str:
    """The time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_bytes() -> int:
    """The largest resident memory that this process ever had."""
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):
        return int(info.peak_wset)
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest) * (1 if platform.system() == "Darwin" else 1024)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:2000]
