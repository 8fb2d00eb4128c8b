"""The saved state of a fold: everything an interrupted run needs to go on bit for bit.

Two files per state: tensors as safetensors and, renamed into place last, a JSON record with the SHA-256 of the tensors
and of itself. The two newest states are kept; a broken newest one is passed over and said.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autoseg3d.errors import Autoseg3dError, ModelError, ReadError
from autoseg3d.files import read_json, replacing, sha256, sweep, write_text
from planners.contract import Contract, readable_json
from planners.plan import TrainingPlan

KEPT = 2
_NAME = re.compile(r"state-(\d{8})\.json")


class Identity(Contract):
    """What a state belongs to: a run with another plan, other data or another split must not go on from it."""

    configuration: str
    fold: str
    plan_hash: str
    data_hash: str
    split_hash: str


class Environment(Contract):
    """What computes; a change is allowed on resuming, but ends bit-for-bit equality, so it is said."""

    version: str
    torch: str
    device: str
    precision: str
    threads: int
    augmentation: str
    processes: int = 1


class Progress(BaseModel):
    """The counters of the training loop, the only mutable record of a run.

    step              steps of this attempt, each one training batch, skipped ones included
    epoch             finished epochs of this attempt
    step_in_epoch     steps of the running epoch
    elapsed           seconds of the training loop up to here, over all sessions and attempts
    attempt_start     `elapsed` when this attempt began
    first_rate        learning rate of the first step of the running epoch
    validation_batch  validation batches consumed in this attempt
    iterations, validation_iterations   length of an epoch; 0 until it is known
    part              samples of a batch that are worked on at once; 0 until it is known
    step_seconds      measured before the first step
    forecast_seconds  of training and whole-case validation, as told before the first step
    loss_sum, norm_sum, counted         sums over the finite steps of the running epoch
    skipped           steps of the running epoch left out as not finite; total_skipped of the whole run
    bad_in_a_row      consecutive skipped steps
    ema               moving average of the pseudo-Dice; best_ema its highest value, at best_epoch
    fall_from, fall_at  step, and share of the limit, from which the rate of a "plateau" run falls; None before it
    log               one record per finished epoch of all attempts
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    attempt: int = 1
    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    elapsed: float = 0.0
    attempt_start: float = 0.0
    first_rate: float = 0.0
    validation_batch: int = 0
    iterations: int = 0
    part: int = 0
    validation_iterations: int = 0
    step_seconds: float = 0.0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    counted: int = 0
    skipped: int = 0
    total_skipped: int = 0
    bad_in_a_row: int = 0
    ema: float | None = None
    best_ema: float | None = None
    best_epoch: int | None = None
    fall_from: int | None = None
    fall_at: float = 0.0
    forecast_seconds: float = 0.0
    log: list[dict[str, Any]] = Field(default_factory=list)


class StateRecord(Contract):
    """The JSON half of a saved state."""

    schema_version: Literal[2] = 2
    phase: Literal["training", "trained"]
    identity: Identity
    environment: Environment
    training: TrainingPlan
    progress: dict[str, Any]
    tensors_sha256: str = ""


@dataclass(frozen=True)
class State:
    """A state as read back: the record, its tensors (on the CPU), and what had to be said on the way."""

    record: StateRecord
    tensors: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()


def save_state(folder: Path, record: StateRecord, tensors: dict[str, torch.Tensor]) -> Path:
    """Writes a state to `folder`, whole or not at all, and removes all but the two newest. Returns the record's path.

    Raises StorageError where the disk is full or failing; the states written before stay as they are.
    """
    number = max((_number(path) for path in _records(folder)), default=0) + 1
    path = folder / f"state-{number:08d}.json"
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path.with_suffix(".safetensors")) as temporary:
        _write_tensors(contiguous, temporary)
        digest = sha256(temporary)
    content = record.model_copy(update={"tensors_sha256": digest}).model_dump(mode="json")
    write_text(path, readable_json({**content, "record_sha256": _digest(content)}))
    _remove_older(folder, keep=KEPT)
    return path


def load_state(folder: Path) -> State | None:
    """The newest whole state in `folder`; None where no state was ever written.

    A broken newest state is passed over with a note. Raises ModelError where there are states but none is whole.
    """
    faults = []
    for path in sorted(_records(folder), key=_number, reverse=True):
        try:
            record, tensors = _read(path)
        except (Autoseg3dError, SafetensorError, OSError) as error:
            faults.append(f"{path.name} is broken and was passed over: {error}")
            continue
        return State(record, tensors, tuple(faults))
    if faults:
        remedy = "Restore the folder from a backup, or begin the fold anew with --restart"
        raise ModelError(f"no saved state of this fold can be read. {'; '.join(faults)}", file=folder, code="E_STATE", remedy=remedy)
    return None


def forget_older(folder: Path) -> None:
    """Removes all states but the newest, for a run that is finished."""
    _remove_older(folder, keep=1)


def _read(path: Path) -> tuple[StateRecord, dict[str, torch.Tensor]]:
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("record_sha256", None) != _digest(content):
        raise ReadError("the record was changed after it was written", file=path, code="E_STATE")
    try:
        record = StateRecord.model_validate(content)
        Progress.model_validate(record.progress)
    except ValidationError as error:
        raise ReadError(f"written by another version: {error.errors()[0]['msg']}", file=path, code="E_STATE") from error
    tensors = path.with_suffix(".safetensors")
    if not tensors.exists() or sha256(tensors) != record.tensors_sha256:
        raise ReadError("the tensors are missing or were changed after they were written", file=tensors, code="E_STATE")
    return record, {name: tensor.clone() for name, tensor in load_file(tensors).items()}


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # safetensors tells of a full disk in words only; given its number back, it is named like any other.
        if number := re.search(r"(?:os error|Os \{ code:) (\d+)", str(error)):
            raise OSError(int(number.group(1)), str(error)) from error
        raise


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _records(folder: Path) -> list[Path]:
    return [path for path in folder.glob("state-*.json") if _NAME.fullmatch(path.name)]


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else 0


def _remove_older(folder: Path, *, keep: int) -> None:
    """Records go before their tensors, so that a kill in between leaves no record without tensors."""
    kept = {path.stem for path in sorted(_records(folder), key=_number)[-keep:]}
    for pattern in ("state-*.json", "state-*.safetensors"):
        for path in folder.glob(pattern):
            if path.stem not in kept:
                path.unlink(missing_ok=True)
    sweep(folder)
