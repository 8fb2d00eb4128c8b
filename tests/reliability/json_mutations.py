"""JSON files as people, other programs and attackers spoil them, and the readers that must not be surprised by any of it."""

from __future__ import annotations

import copy
import json
import random
import shutil
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from small_datasets import write_blobs

from autoseg3d import api
from autoseg3d.api.planning import PlanWishes, Reading, read_any_fingerprint
from autoseg3d.doctor.golden import write_golden_package
from autoseg3d.errors import Autoseg3dError, DatasetError
from autoseg3d.files import read_contract
from autoseg3d.networks import build
from autoseg3d.package import open_package
from autoseg3d.prediction import PredictOptions
from autoseg3d.prediction.verification import verify_records
from autoseg3d.run import RunFolder
from autoseg3d.training import FoldResult
from autoseg3d.training.splits import read_splits, splits_from_nnunet
from autoseg3d.training.state import Environment, Identity, Progress, StateRecord, load_state, save_state
from planners.plan import TrainingPlan

SECONDS = 10.0

# Written into the text as they stand: no Python value gives them.
_RAW = ("NaN", "-Infinity", "1e999", "-1e999", "1" * 5000, "0x10", "undefined", "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000)
_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 1.5, -0.0, 1e308, 1e-320, 10**30, -(2**63), 2**31, "", " ", "1", "../../../evil", "/etc/passwd",
    "C:\\evil", "$HOME", "os.system", "\ud800", "\x00", "\u202egnp", "x" * 5000, [], {}, [[]], [1, 2], [1, 2, 3], ["a"], {"a": 1}, [None],
)  # fmt: skip


def mutated(value: Any, rng: random.Random) -> bytes:
    """One to three changes to a JSON value, or to its text."""
    value = copy.deepcopy(value)
    raw: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(value, rng, raw)
    text = json.dumps(value, indent=rng.choice((None, 2))).replace("@again@", "")
    for number, words in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', words)
    data = text.encode()
    return _spoilt(data, rng) if rng.random() < 0.25 else data


def _changed(value: Any, rng: random.Random, raw: list[str]) -> Any:
    holder, key = rng.choice(list(_places(value)) or [(None, None)])
    if holder is None:
        return rng.choice(_VALUES)
    kind = rng.randrange(9)
    if kind <= 2:
        holder[key] = copy.deepcopy(rng.choice(_VALUES))
    elif kind == 3:
        raw.append(rng.choice(_RAW))
        holder[key] = f"@raw{len(raw) - 1}@"
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(holder, dict):
        holder[f"@again@{key}"] = copy.deepcopy(holder[key])
    elif kind == 6 and isinstance(holder, dict):
        holder[rng.choice(("new", str(key).upper(), f"{key} ", "", "../evil", "__class__"))] = holder.pop(key)
    elif kind == 7 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * rng.choice((-1, 0, 0.5, 1000, 10**9, 10**18)) + rng.choice((0, 1))
    else:  # something that belongs elsewhere, or one level too deep
        holder[key] = copy.deepcopy(rng.choice((value, [holder[key]], {"a": holder[key]}, *_leaves(value))))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value inside."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _leaves(value: Any) -> list[Any]:
    return [holder[key] for holder, key in _places(value)]


def _spoilt(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    kind = rng.randrange(8)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return b"\xef\xbb\xbf" + data
    if kind == 3:
        return data.decode(errors="replace").encode("utf-16")
    if kind == 4:
        return data[:at] + rng.choice((b"\0", b"\xff\xfe", b",", b"}", b'"', b"//", b"\n\n")) + data[at:]
    if kind == 5:
        return data + rng.choice((b"garbage", b"{}", b"\0" * 100, data))
    if kind == 6:
        return rng.choice((b"", b" ", b"null", b"[]", b"{}", b'"text"', b"1", b"<html></html>"))
    return data[:at] + rng.randbytes(8) + data[at + 8 :]


@dataclass(frozen=True)
class Subject:
    """A kind of JSON file.

    path    where it lies; its content there is good
    use     reads it and does with it what the program would; raises the program's own errors only
    """

    name: str
    path: Path
    use: Callable[[], object]


def subjects(folder: Path) -> list[Subject]:
    """Every kind of JSON file that people edit, that travels, or that is read again later, made in `folder`."""
    raw, run, model, out = write_blobs(folder / "raw", 5), folder / "run", folder / "model", folder / "out"
    api.plan(raw, run, wishes=PlanWishes(planner="nnunet"), reading=Reading(workers=1))
    write_golden_package(model)
    ids = [f"c{i:02d}" for i in range(5)]
    made = RunFolder(run)
    found = [
        Subject("dataset.json", raw / "dataset.json", lambda: _survey(raw)),
        Subject("plan.json", made.plan_file, lambda: _built(made)),
        Subject("fingerprint.json", run / "fingerprint.json", lambda: _planned(run / "fingerprint.json")),
        Subject("splits.json", run / "splits.json", lambda: [read_splits(run / "splits.json").fold(fold, ids) for fold in ("0", "full")]),
        Subject("run.json", run / "run.json", lambda: made.record().to_json()),
        Subject("manifest.json", model / "manifest.json", lambda: open_package(model).describe()),
    ]
    return [*found, _record(folder, out, model), _state(folder / "state"), _result(folder / "result.json"), *_of_nnunet(folder, ids)]


def _survey(raw: Path) -> None:
    """A check lists faults in place of raising them."""
    found = api.check(raw, reading=Reading(workers=1))
    if found.faults:
        raise DatasetError("faults in the dataset", found.faults, file=raw / "dataset.json")


def _built(run: RunFolder) -> None:
    """The plan's networks, without their weights."""
    plan = run.plan()
    plan.to_json()
    with torch.device("meta"):
        for name, configuration in plan.configurations.items():
            build(configuration.network, plan.in_channels(name), plan.labels.num_classes)


def _planned(path: Path) -> None:
    fingerprint = read_any_fingerprint(path)
    api.plan_fingerprint(fingerprint, wishes=PlanWishes(planner="nnunet")).to_json()


def _record(folder: Path, out: Path, model: Path) -> Subject:
    from faulty_scans import sound

    (folder / "scans").mkdir()
    sound(0)(folder / "scans" / "a")
    api.predict(folder / "scans", model, out, options=PredictOptions(device="cpu", precision="fp32", mirror=False))
    return Subject("CASE.json", out / "a.json", lambda: verify_records(out, scans=folder / "scans", models=[model]))


def _state(folder: Path) -> Subject:
    record = StateRecord(
        phase="training",
        identity=Identity(configuration="3d_fullres", fold="0", plan_hash="p", data_hash="d", split_hash="s"),
        environment=Environment(version="0", torch="0", device="cpu", precision="fp32", threads=1, augmentation="torch"),
        training=TrainingPlan(),
        progress=Progress().model_dump(),
    )
    path = save_state(folder, record, {"weight": torch.from_numpy(np.zeros(3, np.float32))})
    return Subject("state.json", path, lambda: load_state(folder))


def _result(path: Path) -> Subject:
    result = FoldResult(
        configuration="3d_fullres", fold="0", chosen="final", dice={"organ": 0.9}, mean_dice=0.9, cases=1, steps=2, epochs=1,
        seconds=1.5, skipped=0, attempts=1, training=TrainingPlan(), weights_sha256="0" * 64,
    )  # fmt: skip
    path.write_text(result.to_json())
    return Subject("result.json", path, lambda: read_contract(path, FoldResult))


def _of_nnunet(folder: Path, ids: list[str]) -> list[Subject]:
    splits, statistics = folder / "splits_final.json", folder / "dataset_fingerprint.json"
    splits.write_text(json.dumps([{"train": ids[:4], "val": ids[4:]}, {"train": ids[1:], "val": ids[:1]}]))
    intensities = {key: float(i) for i, key in enumerate(("percentile_00_5", "min", "mean", "median", "std", "percentile_99_5", "max"))}
    content = {
        "spacings": [[3.0, 1.5, 1.5]] * 5,
        "shapes_after_crop": [[8, 12, 14]] * 5,
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "median_relative_size_after_cropping": 0.9,
    }
    statistics.write_text(json.dumps(content))
    described = shutil.copy(folder / "raw" / "dataset.json", folder / "described.json")

    def plan() -> None:
        fingerprint = read_any_fingerprint(statistics, Path(described))
        api.plan_fingerprint(fingerprint, wishes=PlanWishes(planner="nnunet")).to_json()

    return [
        Subject("splits_final.json", splits, lambda: splits_from_nnunet(splits, ids)),
        Subject("dataset_fingerprint.json", statistics, plan),
    ]


def verdict(subject: Subject, data: bytes) -> str:
    """What becomes of a file with this content: "valid", "refused", or a sentence about what went wrong."""
    good = subject.path.read_bytes()
    subject.path.write_bytes(data)
    try:
        with _limited():
            subject.use()
    except Autoseg3dError as error:
        said = str(error)
        # Of a model the folder is named too; whichever file it is, it must be told from the others.
        named = subject.path.name in said or subject.path.parent.name in said
        faults = getattr(error, "faults", ()) or (error,)
        told = all(fault.what and fault.code not in ("", "E_INTERNAL") for fault in faults)
        return "refused" if named and told else f"refused without file or cause: {said[:300]}"
    except _TooLongError:
        return f"took longer than {SECONDS:g} s"
    except Exception as error:  # this is what must not happen
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        subject.path.write_bytes(good)
    return "valid"


class _TooLongError(BaseException):
    """Not an Exception, so that no reader takes it for a fault of the file."""


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: types.FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
