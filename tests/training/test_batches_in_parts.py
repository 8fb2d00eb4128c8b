"""A batch in parts gives the step of the whole batch: gradients, losses and what is counted; and parts are made where memory runs out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from spheres import Spheres, plan, sit

from autoseg3d.errors import InterruptedByUserError
from autoseg3d.patches import PatchSource
from autoseg3d.training.engine import Engine
from autoseg3d.training.loading import Batch
from autoseg3d.training.memory import fitting_part, halved, out_of_memory
from autoseg3d.training.state import load_state
from planners.labels import LabelTable, label_table
from planners.plan import Plan, TrainingPlan

TRAINING = TrainingPlan(optimizer="adamw", learning_rate=1e-3, ema_decay=0.9)
IGNORING = label_table({"background": 0, "bright": 1, "dim": 2, "ignore": 3})


def changed(*, batch_size: int = 5, batch_dice: bool = False, labels: LabelTable | None = None) -> Plan:
    """The plan of the spheres with another batch or other labels."""
    made = plan(TRAINING)
    update = {"batch_size": batch_size, "batch_dice": batch_dice}
    configuration = made.configurations["3d_fullres"].model_copy(update=update)
    return made.model_copy(update={"configurations": {"3d_fullres": configuration}, "labels": labels or made.labels})


def engine(made: Plan, part: int, *, precision: str = "fp32") -> Engine:
    engine = Engine(made, "3d_fullres", TRAINING, device=torch.device("cpu"), precision=precision, seed=3)
    engine.part = part
    return engine


def batch(made: Plan) -> Batch:
    images, labels = PatchSource(Spheres(), ["case_0", "case_1", "case_2"], made, "3d_fullres", augment=False, seed=0).batch(0, 0)
    if made.labels.ignore is not None:
        labels[:2, :9] = 3  # unevenly annotated, so that parts differ
    return images, labels


@pytest.mark.parametrize("part", [1, 2, 4])
@pytest.mark.parametrize("batch_dice", [False, True], ids=["dice per sample", "dice per batch"])
@pytest.mark.parametrize("labels", [None, IGNORING], ids=["all annotated", "some ignored"])
def test_parts_add_up_to_the_step_of_the_whole_batch(part: int, batch_dice: bool, labels: LabelTable | None) -> None:
    made = changed(batch_dice=batch_dice, labels=labels)
    whole, parted = engine(made, 5), engine(made, part)
    given = batch(made)
    torch.testing.assert_close(parted.gradients(*given), whole.gradients(*given), rtol=1e-5, atol=1e-6)
    for (name, a), (_, b) in zip(whole.network.named_parameters(), parted.network.named_parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    (loss, counts), (parted_loss, parted_counts) = whole.evaluate(*given), parted.evaluate(*given)
    torch.testing.assert_close(parted_loss, loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(parted_counts, counts)


def test_dice_over_the_batch_is_not_the_mean_of_dices_over_its_parts() -> None:
    """Were the sums over the whole batch not known to its parts, the step would be another one."""
    made = changed(batch_dice=True)
    given = batch(made)
    exact = engine(made, 5).gradients(*given)
    alone = [engine(changed(batch_size=1, batch_dice=True), 1).gradients(given[0][i : i + 1], given[1][i : i + 1]) for i in range(5)]
    assert abs(float(torch.stack(alone).mean() - exact)) > 1e-4  # a hundred times what the test above allows


class Dropping(torch.nn.Module):
    """A network in which a layer draws random numbers."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.drop, self.seen = network, torch.nn.Dropout3d(0.5), list[torch.Tensor]()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dropped = self.drop(images + 3)
        self.seen.append((dropped == 0).flatten(1).all(1))
        return self.network(dropped)  # type: ignore[no-any-return]


def test_both_passes_over_the_parts_draw_the_same_random_numbers() -> None:
    made = changed(batch_dice=True)
    ours = engine(made, 2)
    ours.network = network = Dropping(ours.network)
    ours.gradients(*batch(made))
    assert len(network.seen) == 6
    assert all(torch.equal(a, b) for a, b in zip(network.seen[:3], network.seen[3:], strict=True))
    assert len({bool(x) for seen in network.seen for x in seen}) == 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_float16_scales_its_loss_and_steps_back_where_a_gradient_overflows(optimizer: str) -> None:
    training = TRAINING.model_copy(update={"optimizer": optimizer})
    ours = Engine(plan(training), "3d_fullres", training, device=torch.device("cpu"), precision="fp16", seed=3)
    given = batch(plan(training))
    assert ours.scale is not None
    ours.scale[0] = 2.0**40
    before = [parameter.detach().clone() for parameter in ours.network.parameters()]
    result = ours.step(*given, rate=1e-3, steps=0)
    assert result.skipped
    assert result.rescaled
    assert ours.scale.tolist() == [2.0**39, 0]
    assert all(torch.equal(a, b) for a, b in zip(before, ours.network.parameters(), strict=True))
    ours.scale[0] = 2.0**10
    result = ours.step(*given, rate=1e-3, steps=1)
    assert not result.skipped
    assert ours.scale.tolist() == [2.0**10, 1]
    exact = Engine(plan(training), "3d_fullres", training, device=torch.device("cpu"), precision="fp32", seed=3)
    assert result.gradient_norm == pytest.approx(exact.step(*given, rate=1e-3, steps=0).gradient_norm, rel=0.02)
    ours.scale[1] = 1999
    ours.step(*given, rate=1e-3, steps=2)
    assert ours.scale.tolist() == [2.0**11, 0]


def test_a_processor_works_on_large_patches_a_few_at_a_time_where_no_loss_joins_them() -> None:
    large = plan(TRAINING, patch=80, batch_size=4)
    joined = large.configurations["3d_fullres"].model_copy(update={"batch_dice": True})
    ignoring = large.model_copy(update={"labels": IGNORING})
    parts = [
        Engine(made, "3d_fullres", TRAINING, device=torch.device("cpu"), precision="fp32", seed=0).part
        for made in (large, ignoring, large.model_copy(update={"configurations": {"3d_fullres": joined}}))
    ]
    assert parts == [2, 4, 4]


def test_errors_of_memory_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as info:
        torch.empty(2**50)
    assert out_of_memory(info.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert [halved(n) for n in (9, 5, 2)] == [5, 3, 1]


def test_a_batch_that_cannot_fit_is_never_tried_whole() -> None:
    made = changed(batch_size=4)
    assert fitting_part(made, "3d_fullres", TRAINING, samples=4, device=torch.device("cpu"), dtype=torch.float32) == 4
    huge = made.configurations["3d_fullres"].model_copy(update={"patch_size": (4096, 4096, 4096)})
    made = made.model_copy(update={"configurations": {"3d_fullres": huge}})
    assert fitting_part(made, "3d_fullres", TRAINING, samples=4, device=torch.device("cpu"), dtype=torch.float32) == 1


def _greedy(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Before every layer: asks for more memory than there is where more than two samples come at once."""
    if torch.is_grad_enabled() and isinstance(inputs[0], torch.Tensor) and len(inputs[0]) > 2:
        torch.empty(2**50)


def _run_short_of_memory_from_epoch_1(folder: Path, *, stop: bool = False) -> list[dict[str, Any]]:
    """Trains; memory is short once the first epoch is done. May be stopped after the second one and taken up again."""
    events: list[dict[str, Any]] = []
    hooks: list[Any] = []

    def watch(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "epoch" and event["epoch"] == 0:
            hooks.append(torch.nn.modules.module.register_module_forward_pre_hook(_greedy))
        if event["event"] == "epoch" and event["epoch"] == 1 and stop:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        sit(folder, made=plan(batch_size=5), watch=watch)
    except InterruptedByUserError:
        sit(folder, made=plan(batch_size=5), watch=events.append)
    finally:
        for hook in hooks:
            hook.remove()
    return events


def test_memory_that_runs_out_while_training_is_met_with_smaller_parts_which_are_resumed(tmp_path: Path) -> None:
    events = _run_short_of_memory_from_epoch_1(tmp_path / "short")
    assert [event["message"] for event in events if event["event"] == "alarm"] == [
        "Memory ran out: batches are worked on in parts of 3 from now on; the results stay the same",
        "Memory ran out: batches are worked on in parts of 2 from now on; the results stay the same",
    ]
    sit(tmp_path / "plenty", made=plan(batch_size=5))
    short, plenty = _log(tmp_path / "short"), _log(tmp_path / "plenty")
    assert [record["part"] for record in short] == [5, 2, 2]
    assert [record["part"] for record in plenty] == [5, 5, 5]
    for a, b in zip(short, plenty, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], abs=1e-3)
    _run_short_of_memory_from_epoch_1(tmp_path / "stopped", stop=True)
    first, second = (load_state(tmp_path / name / "state") for name in ("short", "stopped"))
    assert first is not None
    assert second is not None
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import psutil, torch
from spheres import TRAINING, plan, sit
torch.set_num_threads(1)
process, folder = psutil.Process(), Path(sys.argv[1])
training = TRAINING.model_copy(update={"epochs": 1, "iterations": 1, "validation_iterations": 0})
taken = []

def step(name, size, limit=None):
    def watch(event):
        print(event.get("message", ""), flush=True)
        taken.append(process.memory_info().vms)
    sit(folder / name, training=training, watch=watch, made=plan(training, patch=60, batch_size=size))

# oneDNN never again makes code in a thread in which it once found no room for it, so it makes all of it first.
for size in (1, 2, 4):
    step(str(size), size)
free = process.memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (free + 6 * (max(taken) - free) // 10, -1))
step("short", 4)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not keep to RLIMIT_AS")
def test_a_batch_that_the_operating_system_allows_no_memory_for_is_worked_on_in_parts(tmp_path: Path) -> None:
    """It allows six tenths of what the same batch took before."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))}
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Found out by the trial step, or by the first real one, which may come to find less room.
    assert done.stdout.count("worked on in parts") == 1
    (short,), (plenty,) = _log(tmp_path / "short"), _log(tmp_path / "4")
    assert short["part"] < plenty["part"] == 4
    assert short["loss"] == pytest.approx(plenty["loss"], abs=1e-5)
