"""Cascades: the next stage learns from held-out predictions of the stage before, and predicts as it was trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from runs import Run, full_resolution, made_run, train, write_spheres

from autoseg3d.errors import UsageError
from autoseg3d.files import lock
from autoseg3d.io import load_case, open_dataset, read_volume, write_labels
from autoseg3d.package import open_package, pack
from autoseg3d.prediction import Predictor
from autoseg3d.preprocessing import prepare, preprocess
from autoseg3d.run import RunFolder
from autoseg3d.training.cascade import CascadeStore, with_previous_stage
from autoseg3d.training.splits import read_splits
from planners.plan import Configuration

CASES = 4


@pytest.fixture(scope="module")
def small_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spheres(tmp_path_factory.mktemp("Dataset003_Few"), CASES)


def stages() -> dict[str, Configuration]:
    full = full_resolution()
    coarse = full.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0), "patch_size": (8, 8, 8)})
    return {"3d_lowres": coarse, "3d_cascade_fullres": full.model_copy(update={"previous_stage": "3d_lowres"})}


@pytest.fixture(scope="module")
def run(small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A planned cascade in two folds, its first stage at twice the spacing and trained."""
    made = made_run(small_raw, tmp_path_factory.mktemp("runs") / "run", folds=2, configurations=stages())
    with pytest.raises(UsageError, match="fold 0, 1 not finished") as refused:
        train(made, configuration="3d_cascade_fullres")
    assert refused.value.code == "E_PREVIOUS_STAGE"
    assert "--configuration 3d_lowres --fold all" in str(refused.value)
    for fold in ("0", "1"):
        train(made, fold, configuration="3d_lowres", epochs=2)
    return made


def cascade_store(run: Run) -> CascadeStore:
    folder, dataset, plan = run
    store = prepare(dataset, plan, "3d_cascade_fullres", folder / "cache")
    splits = read_splits(folder / "splits.json")
    return with_previous_stage(RunFolder(folder), plan, "3d_cascade_fullres", splits, store, cases=store.ids)


def test_each_case_comes_from_the_fold_that_held_it_out_and_as_prediction_would_bring_it(run: Run) -> None:
    folder, dataset, plan = run
    store = cascade_store(run)
    for k, split in enumerate(read_splits(folder / "splits.json").folds):
        for case in split.validation:
            path = folder / "folds" / "3d_lowres" / f"fold_{k}" / "validation" / f"{case}.nii.gz"
            files = next(known for known in dataset.cases if known.id == case)
            loaded = load_case(files, labels=plan.labels).case
            predicted = type(loaded)(loaded.id, loaded.image, loaded.geometry, read_volume(path, labels=True).array)
            np.testing.assert_array_equal(store.previous(case), preprocess(predicted, plan, "3d_cascade_fullres").labels)


def test_a_patch_ends_in_the_one_hot_channels_of_its_place(run: Run) -> None:
    store = cascade_store(run)
    case = store.ids[0]
    image, labels = store.read(case, (-3, 5, 10), (8, 9, 14))
    plain, same = store.store.read(case, (-3, 5, 10), (8, 9, 14))
    np.testing.assert_array_equal(image[:1], plain)
    np.testing.assert_array_equal(labels, same)
    padded = np.pad(store.previous(case), 16)[13:21, 21:30, 26:40]
    for channel, value in zip(image[1:], (1, 2), strict=True):
        np.testing.assert_array_equal(channel, padded == value)


def test_a_trained_cascade_predicts_from_its_package_what_it_was_validated_with(run: Run, tmp_path: Path) -> None:
    folder, dataset, _ = run
    result = train(run, "0", configuration="3d_cascade_fullres", epochs=2)
    assert result.cases == 2
    assert result.mean_dice is not None
    pack(folder, tmp_path / "model.a3d")
    package = open_package(tmp_path / "model.a3d")
    predictor = Predictor.from_package(package, "3d_cascade_fullres", ["0"], device="cpu", precision="fp32")
    assert predictor.previous is not None
    for case in read_splits(folder / "splits.json").folds[0].validation:
        files = next(known for known in dataset.cases if known.id == case)
        again = predictor.predict(load_case(files, labels=None).case).labels
        known = read_volume(folder / "folds" / "3d_cascade_fullres" / "fold_0" / "validation" / f"{case}.nii.gz", labels=True).array
        # The scan is normalised from float32 here and stored as float16 there: single voxels at an edge may differ.
        assert (again != known).mean() < 0.002


def test_a_changed_prediction_is_not_used(run: Run) -> None:
    folder, *_ = run
    validation = folder / "folds" / "3d_lowres" / "fold_1" / "validation"
    path = next(validation.glob("*.nii.gz"))
    before, volume = path.read_bytes(), read_volume(path, labels=True)
    before_store = cascade_store(run)
    try:
        write_labels(path, np.zeros_like(volume.array), volume.geometry)
        with pytest.raises(UsageError, match=rf"1 cases have no prediction of 3d_lowres: {path.name[:6]}"):
            cascade_store(run)
    finally:
        path.write_bytes(before)
    assert cascade_store(run).content_hash == before_store.content_hash
    made = folder / "folds" / "3d_cascade_fullres" / "previous_stage"
    (made / f"{before_store.ids[0]}.npy").write_bytes(b"cut off")
    assert cascade_store(run).content_hash == before_store.content_hash
    assert json.loads((made / "made.json").read_text())["cases"].keys() == set(before_store.ids)
    with lock(made):
        pass


def test_where_there_are_regions_the_next_stage_is_handed_the_label_values(tmp_path: Path) -> None:
    """Three regions of two values: what overlaps is one channel per value, as in nnU-Net."""
    raw = write_spheres(tmp_path / "Dataset004_Regions", CASES)
    text = json.loads((raw / "dataset.json").read_text())
    text |= {"labels": {"background": 0, "either": [1, 2], "bright": [1], "dim": [2]}, "regions_class_order": [1, 1, 2]}
    (raw / "dataset.json").write_text(json.dumps(text))
    folder, dataset, plan = made_run(raw, tmp_path / "run", folds=2, configurations=stages())
    regions: Run = (folder, dataset, plan.model_copy(update={"labels": open_dataset(raw).labels}))
    for fold in ("0", "1"):
        train(regions, fold, configuration="3d_lowres", epochs=1, iterations=2)
    result = train(regions, "0", configuration="3d_cascade_fullres", epochs=1, iterations=2)
    assert set(result.dice) == {"either", "bright", "dim"}
    store = cascade_store(regions)
    image, _ = store.read(store.ids[0], (0, 0, 0), (20, 20, 20))
    assert len(image) == 3 == regions[2].in_channels("3d_cascade_fullres")
    predictor = Predictor.from_package(open_package(folder), "3d_cascade_fullres", ["0"], device="cpu", precision="fp32")
    case = read_splits(folder / "splits.json").folds[0].validation[0]
    found = predictor.predict(load_case(next(known for known in dataset.cases if known.id == case), labels=None).case).labels
    known = read_volume(folder / "folds" / "3d_cascade_fullres" / "fold_0" / "validation" / f"{case}.nii.gz", labels=True).array
    assert (found != known).mean() < 0.002
