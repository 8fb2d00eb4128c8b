"""The bias that heads begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from spheres import TRAINING, Spheres, plan, sit

from autoseg3d.networks import build
from autoseg3d.patches import PatchSource
from autoseg3d.training.first_bias import class_frequencies, first_bias, set_bias
from planners.labels import label_table

TARGET = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 3]])


def test_frequencies_of_labels_and_of_regions() -> None:
    labels = label_table({"background": 0, "a": 1, "b": 2, "c": 3})
    assert class_frequencies([TARGET, TARGET], labels).tolist() == [4 / 8, 2 / 8, 1 / 8, 1 / 8]
    regions = label_table({"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, [1, 2])
    assert class_frequencies([TARGET], regions).tolist() == [4 / 8, 2 / 8]


def test_voxels_that_are_ignored_or_outside_the_body() -> None:
    ignoring = label_table({"background": 0, "a": 1, "b": 2, "ignore": 3})
    assert class_frequencies([TARGET], ignoring).tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert class_frequencies([torch.tensor([-1, -1, 0, 1])], label_table({"background": 0, "a": 1})).tolist() == [3 / 4, 1 / 4]


def test_every_head_begins_with_what_a_network_that_knows_nothing_should_say() -> None:
    made = plan()
    source = PatchSource(Spheres(), Spheres().ids, made, "3d_fullres", augment=False, seed=0)
    bias = first_bias(source, made.labels)
    network = build(made.configurations["3d_fullres"].network, 1, made.labels.num_classes)
    set_bias(network, bias)
    heads = [parameter for name, parameter in network.named_parameters() if "heads" in name and name.endswith("bias")]
    assert len(heads) > 1
    assert all(torch.equal(head, bias) for head in heads)
    seen = torch.cat([source.batch(0, step)[1] for step in range(32 // made.configurations["3d_fullres"].batch_size)])
    assert torch.softmax(bias, 0).tolist() == pytest.approx([float((seen == k).float().mean()) for k in range(3)], abs=1e-5)


def test_a_class_that_no_patch_shows_is_possible_all_the_same() -> None:
    labels = label_table({"background": 0, "a": 1, "b": 2, "c": 3, "never": 4})
    made = plan().model_copy(update={"labels": labels})
    source = PatchSource(Spheres(), Spheres().ids, made, "3d_fullres", augment=False, seed=0)
    assert first_bias(source, labels).min() == pytest.approx(-9.21, abs=0.01)


@pytest.mark.parametrize("kind", ["zero", "frequencies"])
def test_training_begins_with_the_bias_that_the_recipe_names(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg3d.training.session.Session._run", lambda session: None)
    session = sit(tmp_path, training=TRAINING.model_copy(update={"first_bias": kind}))
    averaged = session.engine.weights("averaged")
    for name, tensor in session.engine.weights("final").items():
        if "heads" in name and name.endswith("bias"):
            assert bool(tensor.any()) == (kind == "frequencies")
            assert torch.equal(averaged[name], tensor)
