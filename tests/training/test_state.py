"""Saved states: bit for bit, two kept, a broken one passed over, all broken refused."""

from pathlib import Path

import pytest
import torch

from autoseg3d.errors import ModelError, StorageError
from autoseg3d.training.state import Environment, Identity, Progress, State, StateRecord, forget_older, load_state, save_state
from planners.plan import TrainingPlan


def record(step: int) -> StateRecord:
    progress = Progress(step=step, loss_sum=0.1 + 0.2, ema=1 / 3, log=[{"epoch": 0, "loss": 2 / 3}])
    return StateRecord(
        phase="training",
        identity=Identity(configuration="3d_fullres", fold="0", plan_hash="p", data_hash="d", split_hash="s"),
        environment=Environment(version="1", torch="2", device="cpu", precision="fp32", threads=1, augmentation="torch"),
        training=TrainingPlan(),
        progress=progress.model_dump(mode="json"),
    )


def tensors(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"weights": torch.randn(3, 5, generator=generator), "step": torch.tensor(float(step)), "rng": torch.get_rng_state()}


def saved(folder: Path, *steps: int) -> list[Path]:
    return [save_state(folder, record(step), tensors(step)) for step in steps]


def loaded(folder: Path) -> State:
    state = load_state(folder)
    assert state is not None
    return state


def test_nothing_saved_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state") is None


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    state = loaded(tmp_path)
    assert state.record.model_copy(update={"tensors_sha256": ""}) == record(7)
    assert Progress.model_validate(state.record.progress).loss_sum == 0.1 + 0.2
    wanted = tensors(7)
    assert {name: tensor.numpy().tobytes() for name, tensor in state.tensors.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in wanted.items()
    }
    assert state.notes == ()


def test_two_states_are_kept_and_one_after_the_end(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "state-00000003.json",
        "state-00000003.safetensors",
        "state-00000004.json",
        "state-00000004.safetensors",
    ]
    forget_older(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000004.json", "state-00000004.safetensors"]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["bit", "half", "empty", "gone"])
def test_a_broken_newest_state_is_passed_over(tmp_path: Path, suffix: str, damage: str) -> None:
    newest = saved(tmp_path, 1, 2)[-1].with_suffix(suffix)
    data = bytearray(newest.read_bytes())
    if damage == "gone":
        newest.unlink()
    else:
        data[len(data) // 2] ^= 1
        newest.write_bytes({"bit": bytes(data), "half": bytes(data[: len(data) // 2]), "empty": b""}[damage])
    state = loaded(tmp_path)
    assert Progress.model_validate(state.record.progress).step == 1
    if (suffix, damage) != (".json", "gone"):  # a record that is gone was never committed
        assert len(state.notes) == 1
        assert "state-00000002.json" in state.notes[0]


def test_every_state_broken_is_refused(tmp_path: Path) -> None:
    for path in saved(tmp_path, 1, 2):
        path.with_suffix(".safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="--restart"):
        load_state(tmp_path)


def test_left_overs_of_a_kill_are_cleaned_away(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / ".tmp-abc.safetensors").write_bytes(b"half")
    (tmp_path / "state-00000002.safetensors").write_bytes(b"no record yet")
    assert Progress.model_validate(loaded(tmp_path).record.progress).step == 1
    saved(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 4
    assert Progress.model_validate(loaded(tmp_path).record.progress).step == 2


def test_a_failing_disk_leaves_the_states_as_they_were(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    saved(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="E_DISK_FULL"):
            save_state(tmp_path, record(2), {"big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
