"""What lies in the folder of a batch of predictions: its table of results, the record of each case, and the scans if given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg3d.errors import Autoseg3dError, ReadError
from autoseg3d.files import read_contract, read_json
from autoseg3d.io import CaseFiles, find_scans
from autoseg3d.prediction.flags import Flag
from autoseg3d.prediction.records import RESULTS_JSON, CaseRecord, hash_inputs
from planners.labels import LabelTable


@dataclass(frozen=True)
class Segmented:
    """One scan of a batch.

    status  "done", "review" or "failed"; a failed one has a code, a cause and a remedy, and no record
    record  how its label map came to be, None where it failed
    """

    case: str
    status: str
    code: str | None = None
    cause: str | None = None
    remedy: str | None = None
    output: Path | None = None
    record: CaseRecord | None = None

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Why a person should check it."""
        return self.record.flags if self.record is not None else ()


def read_batch(out: Path) -> tuple[Segmented, ...]:
    """The cases of results.json, in its order. Raises ReadError where it is not what prediction writes."""
    document = read_json(out / RESULTS_JSON)
    try:
        return tuple(_case(out, row) for row in document["cases"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        remedy = "Run autoseg3d predict again; finished cases are kept"
        raise ReadError(f"not the results of a prediction: {error}", file=out / RESULTS_JSON, code="E_FIELD", remedy=remedy) from error


def _case(out: Path, row: dict[str, object]) -> Segmented:
    case, status = str(row["case"]), str(row["status"])
    if status == "failed":
        code, cause, remedy = (None if row.get(name) is None else str(row[name]) for name in ("code", "cause", "remedy"))
        return Segmented(case, status, code=code, cause=plain_cause(cause or "", code=code or "", remedy=remedy), remedy=remedy)
    name = Path(str(row["output"])).name
    try:
        record = read_contract(out / f"{case}.json", CaseRecord)
    except Autoseg3dError:
        record = None
    if not (out / name).is_file() or record is None:
        what = "the label map or its record is not there any more"
        return Segmented(case, "failed", code="E_MISSING", cause=what, remedy="Run autoseg3d predict again; finished cases are kept")
    return Segmented(case, status, output=out / name, record=record)


def plain_cause(text: str, *, code: str, remedy: str | None) -> str:
    """What an error says, without its code, its case, the folders of its file and its remedy, all of which stand elsewhere."""
    text = text.removeprefix(f"{code}: ")
    text = re.sub(r"^(?:case [^,:]*(?:, |: ))?(?:file (?:(?:(?!: ).)*[/\\])?)?", "", text)
    return text.rstrip(".").removesuffix(f". {remedy.rstrip('.')}" if remedy else "")


def label_table(cases: Sequence[Segmented]) -> LabelTable | None:
    """The labels of the batch; None where nothing was segmented."""
    return next((case.record.labels for case in cases if case.record is not None and case.record.labels is not None), None)


def find_inputs(cases: Sequence[Segmented], scans: Path | None) -> dict[str, CaseFiles]:
    """The scan of each segmented case among those at `scans`, where it is, by its hashes, the very one that was segmented."""
    records = {case.case: case.record for case in cases if case.record is not None}
    if scans is None or not records:
        return {}
    channels = max(1, len(next(iter(records.values())).channel_names))
    found = {scan.id: scan for scan in find_scans(scans, num_channels=channels) if scan.fault is None}
    return {case: found[case] for case, record in records.items() if case in found and _same(found[case], record)}


def _same(scan: CaseFiles, record: CaseRecord) -> bool:
    try:
        return hash_inputs(scan) == record.inputs
    except Autoseg3dError:
        return False
