"""RunFolder: what lies where in the folder of a run, and the record of how it was planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg3d import files
from autoseg3d.errors import UsageError
from planners.budget import PlanningError
from planners.contract import Contract
from planners.fingerprint import Fingerprint
from planners.plan import Plan
from planners.reading import read_plan


class RunRecord(Contract):
    """How a run was planned: where the raw data lies and what the person asked for.

    raw        absolute path of the dataset folder
    excluded   ids of cases left out
    geometry   which orientation of a NIfTI header to believe, see io
    command    the options of `autoseg3d plan`, for the record
    """

    schema_version: Literal[1] = 1
    software_version: str
    raw: str
    excluded: tuple[str, ...] = ()
    geometry: str = "auto"
    command: dict[str, str | int | float | None]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one dataset's plan, trainings and model.

    RUN/ run.json fingerprint.json plan.json plan.md splits.json cache/ folds/<configuration>/fold_<k>/ model/
    """

    path: Path

    @property
    def plan_file(self) -> Path:
        """plan.json, written last: where it is, the folder is a run."""
        return self.path / "plan.json"

    @property
    def model(self) -> Path:
        """The folder of the model package."""
        return self.path / "model"

    @property
    def cache(self) -> Path:
        """The folder of prepared cases; may be deleted at any time."""
        return self.path / "cache"

    def plan(self) -> Plan:
        """The plan. Raises UsageError where there is none, UsageError naming the field where it is not valid."""
        if not self.plan_file.is_file():
            raise UsageError("no plan.json here", file=self.path, remedy="Make one: autoseg3d plan RAW --run " + str(self.path))
        try:
            return read_plan(files.read_json(self.plan_file))
        except PlanningError as error:
            raise UsageError(
                error.reason, code="E_FIELD", file=self.plan_file, field=error.field, got=error.got, remedy=error.remedy
            ) from error

    def fingerprint(self) -> Fingerprint:
        """The fingerprint the plan was made from."""
        return files.read_contract(self.path / "fingerprint.json", Fingerprint)

    def record(self) -> RunRecord:
        """Where the raw data lies and how the run was planned."""
        return files.read_contract(self.path / "run.json", RunRecord)

    def write(self, *, record: RunRecord, fingerprint: Fingerprint, plan: Plan, splits_json: str, plan_text: str) -> None:
        """Writes all files of a plan, plan.json last. Where the disk fails, the plan that was there before stays."""
        contents = {
            "fingerprint.json": fingerprint.to_json(),
            "splits.json": splits_json,
            "plan.md": plan_text,
            "run.json": record.to_json(),
            self.plan_file.name: plan.to_json(),
        }
        files.write_together({self.path / name: text.encode() for name, text in contents.items()})
