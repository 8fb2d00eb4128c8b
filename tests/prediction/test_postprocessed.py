"""What a model says about removing parts is done by default, once, on the scan's own grid, and stands in the record."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from tiny import configuration, noise, plan, write_package, write_scan

from autoseg3d.files import read_contract
from autoseg3d.io import find_scans
from autoseg3d.ops.components import count_components
from autoseg3d.package import Estimate, Selection, open_package, set_postprocessing
from autoseg3d.prediction import CaseRecord, PredictOptions, predict_scans
from planners.postprocessing import DropSmall, KeepLargest, Postprocessing, PostprocessingTable

OPTIONS = PredictOptions(device="cpu", precision="fp32", mirror=False)
BOTH = plan({"3d_fullres": configuration(), "2d": configuration((1, 8, 8))})
STEPS = (KeepLargest(values=(1,)), DropSmall(values=(2,), minimal_ml=0.05))
NOTHING = Estimate(cases=0, labels=())


def _entry(*configurations: str) -> Postprocessing:
    return Postprocessing(configurations=configurations, steps=STEPS, reason="test")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_package(tmp_path / "model", BOTH, ("3",))
    set_postprocessing(folder, PostprocessingTable(entries=(_entry("3d_fullres"),)))
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Stored with its axes turned and 0.5 mm wide voxels, so that grid and volume are not those of the network."""
    affine = np.array([[0, 0, 1.0, 0], [-0.5, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    write_scan(tmp_path / "scans" / "a.nii.gz", noise((14, 16, 24)), affine=affine)
    return tmp_path / "scans"


def _predict(scan: Path, model: Path, out: Path, **changes: object) -> tuple[np.ndarray, CaseRecord]:
    predict_scans(find_scans(scan, num_channels=1), model, out, OPTIONS.model_copy(update=changes), source=scan)
    image = nibabel.load(out / "a.nii.gz")
    return np.asarray(image.dataobj), read_contract(out / "a.json", CaseRecord)


def test_parts_are_removed_unless_asked_not_to_be(scan: Path, model: Path, tmp_path: Path) -> None:
    raw, told_nothing = _predict(scan, model, tmp_path / "raw", postprocess=False)
    cleaned, told = _predict(scan, model, tmp_path / "cleaned")
    assert told_nothing.postprocessing == ()
    assert count_components(raw == 1) > 1 == count_components(cleaned == 1)
    assert set(np.unique(cleaned[raw != cleaned])) == {0}
    largest, small = told.postprocessing
    assert largest.parts == count_components(raw == 1) - 1
    assert largest.removed_ml == pytest.approx(0.001 * ((raw == 1).sum() - (cleaned == 1).sum()))
    assert small.step == "parts of right smaller than 0.05 mL are removed"
    assert told.findings[0].volume_ml == pytest.approx(0.001 * (cleaned == 1).sum())


def test_a_label_that_is_removed_whole_makes_a_person_look(scan: Path, model: Path, tmp_path: Path) -> None:
    entry = _entry("3d_fullres").model_copy(update={"steps": (DropSmall(values=(1,), minimal_ml=1000),)})
    set_postprocessing(model, PostprocessingTable(entries=(entry,)))
    labels, record = _predict(scan, model, tmp_path / "out")
    assert not (labels == 1).any()
    assert record.status == "review"
    assert [flag.reason for flag in record.flags if flag.code == "EMPTIED"] == ["postprocessing removed all that was predicted of left"]
    assert all(flag.remedy for flag in record.flags)


def test_it_is_meant_for_one_configuration_and_not_for_others_or_for_an_ensemble(scan: Path, model: Path, tmp_path: Path) -> None:
    for configurations in (("2d",), ("2d", "3d_fullres")):
        _, record = _predict(scan, model, tmp_path / "-".join(configurations), configurations=configurations)
        assert record.postprocessing == ()


def test_several_models_are_averaged_without_postprocessing(scan: Path, model: Path, tmp_path: Path) -> None:
    other = write_package(tmp_path / "other", BOTH, ("1",))
    predict_scans(find_scans(scan, num_channels=1), [open_package(model), open_package(other)], tmp_path / "out", OPTIONS, source=scan)
    assert read_contract(tmp_path / "out" / "a.json", CaseRecord).postprocessing == ()


@pytest.mark.parametrize("chosen", [("2d",), ("3d_fullres", "2d")])
def test_what_select_chose_is_predicted_with_by_default(chosen: tuple[str, ...], scan: Path, model: Path, tmp_path: Path) -> None:
    selection = Selection(
        configurations=chosen, postprocessing=_entry(*chosen), folds={}, cases=(), plain=NOTHING, chosen=NOTHING, nested=NOTHING,
        nested_choices=(), candidates=(), choice="test", rule="test",
    )  # fmt: skip
    set_postprocessing(model, PostprocessingTable(entries=(selection.postprocessing,)), selection=selection)
    _, record = _predict(scan, model, tmp_path / "out")
    assert tuple(one.configuration for one in record.models) == chosen
    assert len(record.postprocessing) == 2
    _, record = _predict(scan, model, tmp_path / "asked", configurations=("3d_fullres",))
    assert [one.configuration for one in record.models] == ["3d_fullres"]
