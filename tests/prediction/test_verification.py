"""Results are held against their records: whatever was changed since is found, whatever was not is confirmed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import case, noise, plan, write_package

from autoseg3d.errors import UsageError
from autoseg3d.io import find_scans, write_image
from autoseg3d.prediction import PredictOptions, predict_scans
from autoseg3d.prediction.verification import verify_records

OPTIONS = PredictOptions(mirror=False, precision="fp32")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, two scans and their results."""
    folder = tmp_path_factory.mktemp("results")
    write_package(folder / "model", plan(), ("0",))
    for name in ("a", "b"):
        scan = case(noise((10, 11, 12), seed=ord(name)))
        write_image(folder / "scans" / f"{name}.nii.gz", scan.image[0], scan.geometry)
    predict_scans(find_scans(folder / "scans", num_channels=1), folder / "model", folder / "out", OPTIONS)
    return folder


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "copy"))


def states(folder: Path, *, predict: bool = False, whole: bool = True) -> dict[tuple[str, str], str]:
    given = {"scans": folder / "scans", "models": [folder / "model"]} if whole else {}
    return {(check.case, check.what): check.state for check in verify_records(folder / "out", predict=predict, **given)}  # type: ignore[arg-type]


def test_untouched_results_are_confirmed_and_come_out_again(results: Path) -> None:
    found = states(results, predict=True)
    assert set(found.values()) == {"equal"}
    assert {what for _, what in found} == {"record", "output a.nii.gz", "output b.nii.gz", "inputs", "model", "prediction"}


def test_without_scans_and_model_the_rest_is_compared(results: Path) -> None:
    found = states(results, whole=False)
    assert {what for (_, what), state in found.items() if state == "not checked"} == {"inputs", "model"}
    assert {state for (_, what), state in found.items() if what not in ("inputs", "model")} == {"equal"}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def edit(field: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "out" / "a.json"
        record = json.loads(path.read_text())
        change(record[field])
        path.write_text(json.dumps(record))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "what", "state"),
    [
        (lambda f: flip_a_byte(f / "out" / "a.nii.gz"), "output a.nii.gz", "different"),
        (lambda f: (f / "out" / "a.nii.gz").unlink(), "output a.nii.gz", "missing"),
        (lambda f: flip_a_byte(f / "scans" / "a.nii.gz"), "inputs", "different"),
        (lambda f: (f / "scans" / "a.nii.gz").unlink(), "inputs", "missing"),
        (edit("options", lambda options: options.update(step=0.25)), "record", "different"),
        (edit("options", lambda options: options.update(step=7)), "record", "different"),
        (edit("inputs", lambda inputs: inputs.update({"a.nii.gz": "0" * 64})), "record", "different"),
    ],
)
def test_whatever_was_changed_is_found(copy: Path, spoil: Callable[[Path], None], what: str, state: str) -> None:
    spoil(copy)
    found = states(copy)
    assert found[("a", what)] == state
    assert all(value == "equal" for (name, _), value in found.items() if name == "b")


def test_another_model_is_noticed(copy: Path) -> None:
    shutil.rmtree(copy / "model")
    write_package(copy / "model", plan(), ("1",))
    assert states(copy)[("a", "model")] == "different"


def test_a_record_that_is_none(copy: Path) -> None:
    (copy / "out" / "a.json").write_text("{}")
    assert states(copy)[("a.json", "record")] == "different"


def test_labels_that_come_out_otherwise_are_counted(copy: Path) -> None:
    """A record of labels that this model never gave, hash and all, is found by predicting again."""
    shutil.copy(copy / "out" / "b.nii.gz", copy / "out" / "a.nii.gz")
    path = copy / "out" / "a.json"
    record, other = json.loads(path.read_text()), json.loads((copy / "out" / "b.json").read_text())
    record["outputs"][0]["sha256"] = other["outputs"][0]["sha256"]
    path.write_text(json.dumps(record))
    checks = verify_records(path, scans=copy / "scans", models=[copy / "model"], predict=True)
    said = {check.what: check for check in checks}
    assert said["output a.nii.gz"].state == "equal"
    assert said["prediction"].state == "different"
    assert "come out with another label" in said["prediction"].said


def test_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no record"):
        verify_records(tmp_path)
    with pytest.raises(UsageError, match="takes the scans and the models"):
        verify_records(tmp_path, predict=True)
