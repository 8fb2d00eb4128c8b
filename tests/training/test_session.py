"""A run learns, and goes on bit for bit however it was interrupted: kills, signals, broken states, any number of workers."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spheres import TRAINING, Spheres, sit

from autoseg3d.errors import InterruptedByUserError, ModelError, StorageError, UsageError
from autoseg3d.training import log
from autoseg3d.training.first_bias import PATCHES
from autoseg3d.training.options import TrainOptions
from autoseg3d.training.state import State, load_state
from planners.plan import TrainingPlan

RESUME = TrainOptions(mode="resume")
OFTEN = TrainOptions(mode="resume", save_every_seconds=0.02)


def state_of(folder: Path) -> State:
    state = load_state(folder / "state")
    assert state is not None
    return state


def outcome(folder: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, Any]]:
    """All tensors as bytes, the log without times, and the counters without times."""
    state = state_of(folder)
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()}
    lines = [log.untimed(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert lines == [log.untimed(record) for record in state.record.progress["log"]]
    counters = {k: v for k, v in state.record.progress.items() if k not in ("elapsed", "step_seconds", "forecast_seconds", "log")}
    return tensors, lines, counters


def assert_same(folder: Path, reference: Path) -> None:
    ours, theirs = outcome(folder), outcome(reference)
    assert ours[1:] == theirs[1:]
    assert ours[0].keys() == theirs[0].keys()
    assert [name for name in ours[0] if ours[0][name] != theirs[0][name]] == []


def test_the_spheres_are_learnt(tmp_path: Path) -> None:
    began, events = time.process_time(), []
    training = TRAINING.model_copy(update={"epochs": 6, "iterations": 30, "validation_iterations": 4})
    session = sit(tmp_path, training=training, options=TrainOptions(), watch=events.append)
    last = session.progress.log[-1]
    assert last["mean_dice"] > 0.8
    assert time.process_time() - began < 20
    assert last["learning_rate"] < 0.2 * TRAINING.learning_rate
    assert session.progress.log[0]["loss"] > last["loss"] + 0.5
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    kinds = [event["event"] for event in events]
    assert kinds[0] == "forecast"
    assert kinds.count("epoch") == 6
    assert "alarm" not in kinds


def test_a_log_line_says_what_a_watcher_needs(uninterrupted: Path) -> None:
    line = json.loads((uninterrupted / "log.jsonl").read_text().splitlines()[1])
    assert line["epoch"] == 1
    assert line["step"] == 14
    assert line["dice"].keys() == {"bright", "dim"}
    assert 0.1 * line["mean_dice"] + 0.9 * state_of(uninterrupted).record.progress["log"][0]["ema_dice"] == pytest.approx(line["ema_dice"])
    assert line["timing"].keys() == {"time", "elapsed", "seconds", "samples_per_second", "parts", "memory_bytes"}
    assert line["timing"]["parts"].keys() >= {"waiting", "forward", "loss", "backward", "optimizer", "validation"}


def _newest(folder: Path) -> int:
    return max((int(path.stem[-8:]) for path in (folder / "state").glob("state-*.json")), default=0)


def _killed(folder: Path) -> None:
    """A child that dies somewhere in a sitting. Forked, so that it need not load torch anew."""
    torch.set_num_threads(1)
    sit(folder, options=OFTEN)


def test_twenty_kills_change_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    rng = random.Random(20)
    context = multiprocessing.get_context("fork")
    at: list[int] = []
    for _ in range(20):
        states = 0 if not at else _newest(tmp_path)
        child = context.Process(target=_killed, args=(tmp_path,))
        child.start()
        # Somewhere after the next state or two, so that the run gets on: while training, writing, renaming.
        deadline = time.monotonic() + 20
        while _newest(tmp_path) <= states and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        child.kill()
        child.join()
        at.append(int(state_of(tmp_path).record.progress["step"]))
        assert child.exitcode == -signal.SIGKILL or at[-1] == 21
    assert len(set(at)) > 5, f"the kills fell at steps {at}"
    sit(tmp_path, options=OFTEN)
    assert_same(tmp_path, uninterrupted)


def test_a_worker_process_changes_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    sit(tmp_path, options=TrainOptions(workers=1))
    assert_same(tmp_path, uninterrupted)


def test_two_workers_and_a_kill_of_the_whole_program_change_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    script = Path(__file__).parent / "spheres.py"
    command = [sys.executable, str(script), str(tmp_path), "0.02", "2", TRAINING.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "state" / "state-00000004.json").exists() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    sit(tmp_path, options=RESUME)
    assert_same(tmp_path, uninterrupted)


def test_sigterm_saves_and_the_run_goes_on(tmp_path: Path, uninterrupted: Path) -> None:
    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedByUserError, match="SIGTERM"):
        sit(tmp_path, watch=watch)
    assert state_of(tmp_path).record.progress["step"] == 14
    assert state_of(tmp_path).record.phase == "training"
    sit(tmp_path)
    assert_same(tmp_path, uninterrupted)


class _Alarming(Spheres):
    """Sends SIGINT to this process when it is read for the n-th time once the first bias is known: in the loop, also in validation."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self._left = n + PATCHES

    def read(self, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().read(*arguments)


@pytest.mark.parametrize("reads", [11, 20, 26, 33])
def test_a_signal_anywhere_changes_nothing(tmp_path: Path, uninterrupted: Path, reads: int) -> None:
    with pytest.raises(InterruptedByUserError, match="SIGINT"):
        sit(tmp_path, store=_Alarming(reads))
    assert state_of(tmp_path).record.progress["step"] < 21
    sit(tmp_path)
    assert_same(tmp_path, uninterrupted)


def test_a_broken_newest_state_is_passed_over_and_said(tmp_path: Path, uninterrupted: Path) -> None:
    with pytest.raises(InterruptedByUserError):
        sit(tmp_path, options=OFTEN, store=_Alarming(28))
    newest = sorted((tmp_path / "state").glob("*.safetensors"))[-1]
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(bytes(data))
    events: list[dict[str, Any]] = []
    sit(tmp_path, watch=events.append)
    assert any(event["event"] == "note" and newest.stem in event["message"] for event in events)
    assert_same(tmp_path, uninterrupted)


def test_a_finished_run_is_not_trained_again_but_can_be_made_longer(tmp_path: Path, uninterrupted: Path) -> None:
    sit(tmp_path)
    before = outcome(tmp_path)
    events: list[dict[str, Any]] = []
    sit(tmp_path, watch=events.append)
    assert outcome(tmp_path) == before
    assert not any(event["event"] == "epoch" for event in events)
    longer = sit(tmp_path, recipe=TRAINING.model_copy(update={"epochs": 4}))
    assert longer.progress.step == 28
    assert [record["epoch"] for record in longer.progress.log] == [0, 1, 2, 3]
    assert [log.untimed(record) for record in longer.progress.log[:3]] == before[1]


def test_without_being_told_a_begun_fold_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InterruptedByUserError):
        sit(tmp_path, store=_Alarming(11))
    step = state_of(tmp_path).record.progress["step"]
    with pytest.raises(UsageError, match=r"--resume .* --restart"):
        sit(tmp_path, options=TrainOptions())
    assert state_of(tmp_path).record.progress["step"] == step
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    with pytest.raises(ModelError, match="gone"):
        sit(tmp_path, options=RESUME)
    session = sit(tmp_path, options=TrainOptions(mode="restart"))
    assert [record["epoch"] for record in session.progress.log] == [0, 1, 2]


def test_another_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterruptedByUserError):
        sit(tmp_path, store=_Alarming(11))
    with pytest.raises(UsageError, match="the plan changed"):
        sit(tmp_path, training=TRAINING.model_copy(update={"learning_rate": 0.5}))


def test_a_timed_run_keeps_its_time_over_a_break(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"seconds": 3.0, "epochs": 1000})

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["timing"]["elapsed"] > 1.2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedByUserError):
        sit(tmp_path, training=training, watch=watch)
    before = state_of(tmp_path).record.progress
    assert 1.2 < before["elapsed"] < 2.5
    session = sit(tmp_path, training=training)
    # Of both sittings together: had the second one begun its three seconds anew, there would be more than four.
    assert session.progress.elapsed == pytest.approx(3.0, abs=0.4)
    rates = [record["learning_rate"] for record in session.progress.log]
    assert rates[: len(before["log"])] == [record["learning_rate"] for record in before["log"]]
    assert rates[-1] < 0.1 * TRAINING.learning_rate
    spent = sum(record["timing"]["parts"].get("validation", 0) for record in session.progress.log)
    assert spent < 0.15 * session.progress.elapsed


class _Sick(Spheres):
    """Cases whose voxels are too large for float32."""

    def read(self, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        image, labels = super().read(*arguments)
        return image * np.float32(1e38), labels


def test_a_dead_fold_begins_once_more_and_then_says_why(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    training = TRAINING.model_copy(update={"epochs": 9})
    with pytest.raises(ModelError, match="20 steps in a row"):
        sit(tmp_path, training=training, store=_Sick(), watch=events.append)
    alarms = [event["message"] for event in events if event["event"] == "alarm"]
    assert any("7 steps of this epoch were skipped" in message for message in alarms)
    assert any("begins once more with learning rate 0.0006" in message for message in alarms)
    attempts = [json.loads(line)["attempt"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(set(attempts)) == [1, 2]


def test_a_full_disk_stops_with_the_last_state_whole(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))

    try:
        with pytest.raises(StorageError, match="E_DISK_FULL"):
            sit(tmp_path, options=OFTEN, watch=watch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert state_of(tmp_path).notes == ()


def test_all_cases_without_any_held_out(tmp_path: Path) -> None:
    training = TrainingPlan(epochs=1, iterations=2)
    session = sit(tmp_path, training=training, full=True)
    assert session.progress.log[0]["mean_dice"] is not None
