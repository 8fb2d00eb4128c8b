"""--from: what fits is taken over and told, what differs is met in a way that is told, and nothing else changes."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Run, full_resolution, made_run, train

from autoseg3d.errors import InterruptedByUserError, ModelError, UsageError
from autoseg3d.files import read_contract
from autoseg3d.networks import build
from autoseg3d.package import open_package, pack
from autoseg3d.run import RunFolder
from autoseg3d.training.state import load_state
from autoseg3d.training.transfer import Loaded, Start, find_start
from planners.labels import label_table
from planners.plan import Plan

NAME = "3d_fullres"
STATISTICS = ("MR",)


@pytest.fixture(scope="module")
def source(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with fold 0 trained."""
    made = made_run(raw, tmp_path_factory.mktemp("source") / "run")
    train(made, epochs=1, iterations=10)
    return made


@pytest.fixture
def start(source: Run) -> Start:
    return find_start(source[0], configuration=NAME, fold="0", dataset_name="Spheres")


def adopted(start: Start, plan: Plan) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Loaded]:
    """Weights before and after, and what was told."""
    network = build(plan.configurations[NAME].network, plan.in_channels(NAME), plan.labels.num_classes, seed=7)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loaded = start.adopt(network, plan, NAME)
    return before, dict(network.state_dict()), loaded


def test_an_equal_network_is_taken_over_whole(start: Start, source: Run) -> None:
    _, after, loaded = adopted(start, source[2])
    weights = start.package.load_weights(NAME, "0")
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert (loaded.taken, loaded.anew, loaded.unused, loaded.input, loaded.reasons) == (loaded.total, (), (), (), ())
    assert "100% of the weights" in str(loaded)


def test_other_labels_get_a_new_head_even_where_shapes_agree(start: Start, source: Run) -> None:
    other = source[2].model_copy(update={"labels": label_table({"background": 0, "liver": 1, "spleen": 2})})
    before, after, loaded = adopted(start, other)
    heads = [name for name in after if name.startswith("decoder.heads.")]
    assert heads
    assert set(loaded.anew) == set(heads)
    assert all(torch.equal(before[name], after[name]) for name in heads)
    assert "the model segments bright, dim and this network liver, spleen" in str(loaded)


def test_a_label_of_the_same_name_keeps_its_row_and_a_new_one_begins_anew(start: Start, source: Run) -> None:
    other = source[2].model_copy(update={"labels": label_table({"background": 0, "Dim": 1, "liver": 2, "bright": 3})})
    before, after, loaded = adopted(start, other)
    weights = start.package.load_weights(NAME, "0")
    heads = [name for name in after if name.startswith("decoder.heads.")]
    for name in heads:
        background, bright, dim = weights[name]
        assert torch.equal(after[name], torch.stack((background, dim, before[name][2], bright)))
    assert loaded.anew == ()
    assert "the heads keep Dim, bright; anew begins liver" in str(loaded)


def test_overlapping_labels_are_not_met_by_labels_that_exclude_each_other(start: Start, source: Run) -> None:
    regions = label_table({"background": 0, "bright": [1, 2], "dim": 2}, [1, 2])
    before, after, loaded = adopted(start, source[2].model_copy(update={"labels": regions}))
    assert all(torch.equal(before[name], after[name]) for name in loaded.anew)
    assert loaded.anew
    assert "the heads begin anew" in str(loaded)


def test_channels_are_met_by_name_or_by_their_mean(start: Start, source: Run) -> None:
    plan = source[2]
    wide = full_resolution().model_copy(update={"normalization": ("zscore",) * 2, "use_mask_for_norm": (False,) * 2})
    changes = {"channel_names": ("CT", "mr"), "intensities": plan.intensities * 2, "configurations": {NAME: wide}}
    _, after, loaded = adopted(start, plan.model_copy(update=changes))
    first = next(name for name in after if name.endswith("conv.weight"))
    given = start.package.load_weights(NAME, "0")[first]
    assert torch.equal(after[first], given.repeat(1, 2, 1, 1, 1))  # one channel there, so its mean is itself
    assert loaded.input == ("input channel 'ct' from the mean over mr", "input channel 'mr' from the channel of the same name")
    assert loaded.anew == ()


def test_another_number_of_stages_keeps_the_encoder_and_begins_the_decoder_anew(start: Start, source: Run) -> None:
    network = full_resolution().network
    deeper = network.model_copy(update={"stages": (*network.stages, network.stages[-1]), "decoder_blocks": (1, 1, 1)})
    chosen = full_resolution().model_copy(update={"network": deeper})
    before, after, loaded = adopted(start, source[2].model_copy(update={"configurations": {NAME: chosen}}))
    assert "3 stages and this network 4" in str(loaded)
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("decoder."))
    assert {name for name in loaded.anew if name.startswith("encoder.")} == {n for n in after if n.startswith("encoder.stages.3.")}


def test_a_network_that_nothing_fits_is_refused(start: Start, source: Run) -> None:
    network = full_resolution().network
    stages = tuple(stage.model_copy(update={"features": 3 * stage.features}) for stage in network.stages)
    chosen = full_resolution().model_copy(update={"network": network.model_copy(update={"stages": stages})})
    with pytest.raises(ModelError, match="nothing of this model fits"):
        adopted(start, source[2].model_copy(update={"configurations": {NAME: chosen}}))


def test_a_fold_started_from_a_file_goes_on_after_a_break_and_is_told_on_the_card(source: Run, raw: Path, tmp_path: Path) -> None:
    model = pack(source[0], tmp_path / "model.a3d")
    run = made_run(raw, tmp_path / "run")
    wishes: dict[str, Any] = {"epochs": 2, "iterations": 3, "start_from": model, "freeze": "encoder", "learning_rate": 1e-4}

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(InterruptedByUserError):
        train(run, watch=stop, **wishes)
    folder = run[0] / "folds" / NAME / "fold_0"
    assert read_contract(folder / "start.json", Loaded).fold == "0"
    result = train(run, mode="resume")  # neither the model nor the wishes need be named again
    assert result.training.freeze == "encoder"
    assert result.training.learning_rate == 1e-4
    assert result.started_from is not None
    assert result.started_from.startswith("Spheres 3d_fullres fold 0")
    assert result.started_from in RunFolder(run[0]).model.joinpath("card.md").read_text()
    state = load_state(folder / "state")
    assert state is not None
    known = open_package(model).load_weights(NAME, "0")
    moved = {name for name, tensor in known.items() if not torch.equal(state.tensors[f"network.{name}"], tensor)}
    assert moved
    assert not any(name.startswith("encoder.") for name in moved)
    with pytest.raises(UsageError, match="not otherwise changed"):
        train(run, mode="resume", learning_rate=0.5)


def test_a_leak_is_told(source: Run, raw: Path, tmp_path: Path) -> None:
    run = made_run(raw, tmp_path / "run")
    events: list[dict[str, Any]] = []
    train(run, "1", epochs=1, iterations=1, start_from=source[0], watch=events.append)
    assert any("scores of this fold will flatter" in event["message"] for event in events if event["event"] == "alarm")


def test_there_must_be_something_to_freeze(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to freeze"):
        train(made_run(raw, tmp_path / "run"), freeze="encoder")
