"""Probabilities of held-out cases: beside the label maps, made up for later, and good for choosing an ensemble."""

from pathlib import Path

import numpy as np
from runs import full_resolution, made_run, train

from autoseg3d.io import read_volume
from autoseg3d.package import open_package
from autoseg3d.select import select_run
from autoseg3d.training.folder import fold_folder


def test_probabilities_lie_beside_the_label_maps_and_can_be_made_up_for(raw: Path, tmp_path: Path) -> None:
    run = made_run(raw, tmp_path / "run")
    first = train(run, iterations=2, epochs=1, threads=1)
    folder = fold_folder(run[0], "3d_fullres", "0")
    assert not list(folder.validation.glob("*.npz"))
    again = train(run, mode="resume", validation_probabilities=True, threads=1)
    assert again.weights_sha256 == first.weights_sha256
    assert again.dice == first.dice
    maps = sorted(folder.validation.glob("*.nii.gz"))
    assert len(maps) == first.cases == 2
    for path in maps:
        labels = read_volume(path, labels=True).array
        found = np.load(folder.probabilities(path.name.split(".")[0]))["probabilities"]
        assert found.shape == (3, *labels.shape)
        assert np.array_equal(found.argmax(axis=0), labels)
    before = {path: path.stat().st_mtime_ns for path in folder.validation.iterdir()}
    train(run, mode="resume", validation_probabilities=True, threads=1)
    assert {path: path.stat().st_mtime_ns for path in folder.validation.iterdir()} == before


def test_two_trained_configurations_can_be_chosen_together(raw: Path, tmp_path: Path) -> None:
    names = ("3d_fullres", "other")
    run = made_run(raw, tmp_path / "run", configurations=dict.fromkeys(names, full_resolution()))
    for i, name in enumerate(names):
        for fold in ("0", "1", "2"):
            train(run, fold, configuration=name, iterations=10, epochs=1, threads=1, validation_probabilities=True, seed=i)
    selection = select_run(run[0])
    assert {candidate.name for candidate in selection.candidates if candidate.kind == "ensemble"} == {"3d_fullres + other"}
    assert len(selection.cases) == 6
    assert open_package(run[0]).selection == selection
