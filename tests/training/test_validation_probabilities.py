"""Probabilities of held-out cases: beside the label maps, made up for later, and good for choosing an ensemble."""

from pathlib import Path

import numpy as np
from runs import full_resolution, made_run, train, write_spheres

from autoseg3d.geometry import Geometry
from autoseg3d.io import read_volume, write_image, write_labels
from autoseg3d.package import open_package
from autoseg3d.select import select_run
from autoseg3d.training.folder import fold_folder
from autoseg3d.training.splits import read_splits


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


def test_a_sheared_case_has_its_probabilities_on_its_own_grid_and_is_not_validated_again(tmp_path: Path) -> None:
    raw = write_spheres(tmp_path / "raw", 4)
    leaning = np.diag([-1.0, 1.0, 1.0, 1.0])
    leaning[0, 1] = 0.2
    for path in (raw / "imagesTr" / "case_0_0000.nii.gz", raw / "labelsTr" / "case_0.nii.gz"):
        array = read_volume(path, labels=path.parent.name == "labelsTr").array
        write = write_labels if path.parent.name == "labelsTr" else write_image
        write(path, array, Geometry.from_affine(array.shape, leaning))
    run = made_run(raw, tmp_path / "run", folds=2)
    fold = next(str(i) for i, split in enumerate(read_splits(run[0] / "splits.json").folds) if "case_0" in split.validation)
    train(run, fold, iterations=2, epochs=1, threads=1, validation_probabilities=True)
    folder = fold_folder(run[0], "3d_fullres", fold)
    labels = read_volume(folder.validation / "case_0.nii.gz", labels=True)
    assert np.array_equal(np.load(folder.probabilities("case_0"))["probabilities"].argmax(axis=0), labels.array)
    assert np.allclose(labels.geometry.matrix, leaning)
    said = []
    train(run, fold, mode="resume", validation_probabilities=True, threads=1, watch=lambda event: said.append(event["message"]))
    assert said == [f"Fold {fold} of 3d_fullres is finished already"]
