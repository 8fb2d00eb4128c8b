"""Several processes train as one does: the same losses and weights, one writer; one that dies ends the others, and the run goes on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runs import Run, made_run
from spheres import Spheres, plan, sit

from autoseg3d.errors import StoppedError, UsageError
from autoseg3d.patches import PatchSource
from autoseg3d.training.options import TrainOptions
from autoseg3d.training.ranks import Ranks, join
from autoseg3d.training.state import State, load_state
from planners.plan import Plan

OFTEN = TrainOptions(mode="resume", save_every_seconds=0.02)


def _made(batch_dice: bool) -> Plan:
    made = plan(batch_size=3)
    configuration = made.configurations["3d_fullres"].model_copy(update={"batch_dice": batch_dice})
    return made.model_copy(update={"configurations": {"3d_fullres": configuration}})


def _process(folder: Path, rank: int, made: Plan, die_at: int | None) -> None:
    """One of two processes; its batches are worked on one sample at a time where it is the first. Exits with 4 where stopped."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == die_at and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sit(folder / "run", options=OFTEN, made=made, ranks=join(), watch=watch)
    except StoppedError as error:
        sys.exit(4 if error.code == "E_PEER" else 5)


def _two(folder: Path, made: Plan, *, die_at: int | None = None) -> list[int | None]:
    (folder / "meet").unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(folder, rank, made, die_at)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


def _state(folder: Path) -> State:
    state = load_state(folder / "state")
    assert state is not None
    return state


@pytest.mark.parametrize("batch_dice", [False, True], ids=["dice per sample", "dice per batch"])
def test_two_processes_follow_the_loss_curve_of_one(tmp_path: Path, batch_dice: bool) -> None:
    """Three samples per batch, so two for one process and one for the other. Only the order of float32 sums differs."""
    made = _made(batch_dice)
    assert _two(tmp_path, made) == [0, 0]
    sit(tmp_path / "alone", made=made)
    two, one = _state(tmp_path / "run"), _state(tmp_path / "alone")
    assert two.record.environment.processes == 2
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3
    for a, b in zip(two.record.progress["log"], one.record.progress["log"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-4)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], abs=1e-3)
        assert a["dice"] == pytest.approx(b["dice"], abs=5e-3)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=5e-3)


def test_a_process_that_is_killed_ends_the_other_which_saves_and_both_go_on(tmp_path: Path) -> None:
    made = _made(False)
    began = time.monotonic()
    assert _two(tmp_path, made, die_at=1) == [4, -signal.SIGKILL]
    assert time.monotonic() - began < 30
    assert _state(tmp_path / "run").record.phase == "training"
    assert 14 <= _state(tmp_path / "run").record.progress["step"] <= 15
    assert _two(tmp_path, made) == [0, 0]
    (tmp_path / "through").mkdir()
    assert _two(tmp_path / "through", made) == [0, 0]
    resumed, through = _state(tmp_path / "run"), _state(tmp_path / "through" / "run")
    assert all(torch.equal(resumed.tensors[name], through.tensors[name]) for name in through.tensors)


def test_the_shares_of_a_batch_are_its_samples() -> None:
    made = plan(batch_size=5)
    whole, *shares = (
        PatchSource(Spheres(), ["case_0", "case_1"], made, "3d_fullres", augment=True, seed=0, share=share)
        for share in ((0, 1), (0, 2), (1, 2))
    )
    images, labels = whole.batch(2, 7)
    for rank, share in enumerate(shares):
        mine = share.batch(2, 7)
        assert torch.equal(mine[0], images[rank::2])
        assert torch.equal(mine[1], labels[rank::2])


def test_one_process_agrees_with_itself() -> None:
    alone = join()
    assert (alone.rank, alone.count, alone.leads) == (0, 1, True)
    assert alone.leaders(1.5, 2.5) == (1.5, 2.5)
    assert alone.sum(torch.ones(2)).tolist() == [1, 1]
    assert alone.leader_first(lambda: "done") == "done"


def test_more_processes_than_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--nproc-per-node 2"):
        sit(tmp_path, ranks=Ranks(0, 3))


def test_torchrun_trains_a_fold_from_the_command_line(raw: Path, tmp_path: Path) -> None:
    run: Run = made_run(raw, tmp_path / "run")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "autoseg3d"]
    wishes = ["--fold", "0", "--epochs", "2", "--iterations", "3", "--device", "cpu", "--precision", "fp32", "--workers", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [*launch, "train", str(run[0]), *wishes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next: autoseg3d predict") == 1
    assert done.stderr.count("2 processes") == 1
    folder = run[0] / "folds" / "3d_fullres" / "fold_0"
    assert (folder / "result.json").is_file()
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
