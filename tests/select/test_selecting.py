"""select_run: from a run's held-out predictions to a choice in the run and in the model."""

from pathlib import Path

import numpy as np
import pytest
from held_out_runs import eroded, exact, two_plans, with_islands, write_probabilities, write_run

from autoseg3d.errors import Autoseg3dError, DataError, DatasetError, UsageError
from autoseg3d.files import read_contract
from autoseg3d.io.probabilities import open_probabilities
from autoseg3d.package import Selection, open_package
from autoseg3d.select import select_run
from autoseg3d.select.out_of_fold import fuse
from planners.labels import label_table


def test_islands_are_removed_and_the_choice_lies_in_run_and_model(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": with_islands})
    selection = select_run(run)
    assert selection.configurations == ("3d_fullres",)
    assert selection.postprocessing.steps
    assert selection.plain.dice < selection.nested.dice == selection.chosen.dice == 1
    assert len(selection.nested_choices) == 5
    assert len(selection.cases) == 15
    assert read_contract(run / "selection.json", Selection) == selection
    package = open_package(run)
    assert package.selection == selection
    assert package.postprocessing(("3d_fullres",)) == selection.postprocessing
    assert package.postprocessing(("2d",)) is None
    assert selection.postprocessing.sentences(package.plan.labels)[0] in (run / "model" / "card.md").read_text()


def test_choosing_again_gives_the_same_and_keeps_one_entry(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": with_islands}, folds=("0", "1", "2"))
    first = select_run(run)
    assert select_run(run) == first
    assert len(open_package(run).contents.postprocessing.entries) == 1


def test_an_ensemble_needs_probabilities_and_wins_where_errors_differ(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": eroded, "2d": with_islands}, soft=True)
    for path in sorted((run / "folds" / "2d").rglob("*.npz")):
        # Unsure islands, sure elsewhere: the mean of both is right everywhere.
        labels = np.load(path)["probabilities"].argmax(axis=0)
        labels[:2] = 0
        write_probabilities(path, labels, sure=0.9)
    selection = select_run(run)
    kinds = {candidate.kind for candidate in selection.candidates}
    assert "ensemble" in kinds
    assert selection.nested.dice > selection.plain.dice
    next((run / "folds" / "2d").rglob("*.npz")).unlink()
    assert "ensemble" not in {candidate.kind for candidate in select_run(run).candidates}


def test_only_cases_that_all_configurations_predicted_count(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": exact, "2d": eroded})
    (run / "folds" / "2d" / "fold_4" / "result.json").unlink()
    selection = select_run(run)
    assert len(selection.cases) == 12
    assert len(selection.left_out) == 3
    assert set(selection.left_out).isdisjoint(selection.cases)


def _error(run: Path, **options: object) -> Autoseg3dError:
    with pytest.raises(Autoseg3dError) as caught:
        select_run(run, **options)  # type: ignore[arg-type]
    return caught.value


def test_what_cannot_be_chosen_from_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": exact}, folds=("0",))
    assert isinstance(_error(run), UsageError)
    assert "too few cases" in str(_error(run))
    assert "2d" in str(_error(run, configurations=["3d_fullres", "2d"]))
    assert "no such configuration" in str(_error(run, configurations=["4d"]))


def test_a_changed_or_missing_prediction_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": exact}, folds=("0", "1"))
    changed = next((run / "folds").rglob("c*.nii.gz"))
    changed.write_bytes(changed.read_bytes() + b" ")
    error = _error(run)
    assert isinstance(error, DatasetError)
    assert changed.name.split(".")[0] in str(error)
    assert not (run / "selection.json").exists()


def test_predictions_of_other_weights_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"3d_fullres": exact}, folds=("0", "1"))
    record = run / "folds" / "3d_fullres" / "fold_1" / "validation" / "predicted.json"
    record.write_text(record.read_text().replace("3d_fullres 1", "older"))
    assert "other weights" in str(_error(run))


@pytest.mark.parametrize("regions", [False, True])
def test_fused_probabilities_give_what_the_mean_of_all_gives(tmp_path: Path, regions: bool) -> None:
    rng = np.random.default_rng(0)
    table = label_table({"background": 0, "whole": [1, 5], "core": [5]}, [1, 5]) if regions else two_plans().labels
    both = rng.random((2, table.num_classes, 3, 4, 5)).astype(np.float32)
    for i, probabilities in enumerate(both):
        np.savez_compressed(tmp_path / f"{i}.npz", probabilities=probabilities)
    mean = both.mean(axis=0)
    wanted = np.where(mean[1] > 0.5, 5, np.where(mean[0] > 0.5, 1, 0)) if regions else mean.argmax(axis=0)
    assert np.array_equal(fuse([tmp_path / "0.npz", tmp_path / "1.npz"], table, shape=(3, 4, 5)), wanted)
    with pytest.raises(DataError, match="another grid"):
        fuse([tmp_path / "0.npz"], table, shape=(3, 4, 6))


@pytest.mark.parametrize("damage", ["text", "key", "dtype", "range"])
def test_what_is_no_file_of_probabilities_is_refused(tmp_path: Path, damage: str) -> None:
    path, values = tmp_path / "a.npz", np.full((2, 3, 4, 5), 0.5, dtype=np.float32)
    if damage == "text":
        path.write_text("nothing")
    elif damage == "key":
        np.savez(path, other=values)
    else:
        np.savez(path, probabilities=values.astype(np.float64) if damage == "dtype" else values + 1)
    with pytest.raises(DataError, match="probabilities"), open_probabilities(path) as reader:
        list(reader.classes())
