"""Model packages: whole or refused, added to by several processes, packed the same every time, never executed."""

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg3d.errors import Autoseg3dError, ModelError, UsageError
from autoseg3d.package import (
    Estimate,
    FoldRecord,
    LabelEstimate,
    Selection,
    add_fold,
    create_package,
    open_package,
    pack,
    set_licence,
    set_postprocessing,
)
from autoseg3d.package.card import scores_of
from planners.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, LabelObservation
from planners.labels import label_table
from planners.plan import Configuration, Decision, NetworkPlan, Plan, Stage, TrainingPlan
from planners.postprocessing import DropSmall, KeepLargest, Postprocessing, PostprocessingTable


def make_fingerprint() -> Fingerprint:
    return Fingerprint(
        dataset_name="Liver | pilot",
        channel_names=("CT",),
        labels=label_table({"background": 0, "liver": 1, "lesion": 2}),
        num_training=2,
        cases=tuple(
            CaseFingerprint(
                id=f"case_{i}", shape=(40, 50, 60), shape_after_crop=(40, 50, 60), spacing_mm=(2.0 + i, 1, 1), orientation="RAS",
                relative_size_after_crop=1,
            )
            for i in range(2)
        ),
        intensities=(IntensityStatistics(mean=50, median=50, std=10, min=0, max=100, percentile_00_5=1, percentile_99_5=99),),
        median_relative_size_after_crop=1,
    )  # fmt: skip


def make_plan(*configurations: str, epochs: int = 1000, spacing: float = 1.0) -> Plan:
    stage = Stage(features=4, kernel=(3, 3, 3), stride=(1, 1, 1), blocks=1)
    network = NetworkPlan(architecture="unet", stages=(stage, stage.model_copy(update={"stride": (2, 2, 2)})), decoder_blocks=(1,))
    configuration = Configuration(
        spacing_mm=(spacing, 1, 1), median_shape=(40, 50, 60), patch_size=(16, 16, 16), batch_size=2, network=network,
        normalization=("ct",), use_mask_for_norm=(False,),
    )  # fmt: skip
    fingerprint = make_fingerprint()
    return Plan(
        planner="standard", dataset_name=fingerprint.dataset_name, orientation="canonical", axis_order=(0, 1, 2), mirror_axes=(0, 1, 2),
        channel_names=("CT",), labels=fingerprint.labels, intensities=fingerprint.intensities,
        configurations=dict.fromkeys(configurations or ("3d_fullres",), configuration), training=TrainingPlan(epochs=epochs),
    )  # fmt: skip


def make_weights(seed: int = 0, size: int = 50) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn((4, size), generator=generator), "a.bias": torch.randn(4, generator=generator)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "model"
    create_package(folder, make_plan(), make_fingerprint())
    for fold in ("1", "0", "full"):
        add_fold(folder, configuration="3d_fullres", fold=fold, weights=make_weights(), scores={"dice": 0.9, "per label": {"liver": 0.95}})
    return folder


def code(call: Callable[[], object]) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        call()
    return caught.value.code


# what is put in comes out


def test_round_trip(model: Path) -> None:
    package = open_package(model)
    assert package.plan == make_plan()
    assert package.fingerprint == make_fingerprint()
    assert package.folds("3d_fullres") == ("0", "1", "full")
    assert package.folds("2d") == ()
    assert package.configurations == ("3d_fullres",)
    loaded = package.load_weights("3d_fullres", "1")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in make_weights().items())
    assert package.fold("3d_fullres", "0").scores == {"dice": 0.9, "per label": {"liver": 0.95}}


@pytest.mark.parametrize("place", ["model", "run", "archive"])
def test_three_places_give_one_package(model: Path, tmp_path: Path, place: str) -> None:
    path = {"model": model, "run": model.parent, "archive": pack(model, tmp_path / "m.a3d")}[place]
    package = open_package(path)
    assert package.sha256 == open_package(model).sha256
    assert torch.equal(package.load_weights("3d_fullres", "full")["a.bias"], make_weights()["a.bias"])


def test_packing_twice_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first = pack(model, tmp_path / "first.a3d").read_bytes()
    for path in model.rglob("*"):
        os.utime(path, (0, 0))
    assert pack(model.parent, tmp_path / "second.a3d").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "first.a3d") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert not any("lock" in name for name in archive.namelist())


def test_weights_are_kept_as_float32_of_their_own(model: Path) -> None:
    shared = torch.arange(8.0, dtype=torch.float64)
    add_fold(model, configuration="3d_fullres", fold="2", weights={"a": shared, "b": shared, "t": shared.reshape(2, 4).T.bfloat16()})
    loaded = open_package(model).load_weights("3d_fullres", "2")
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert loaded["t"].tolist() == shared.reshape(2, 4).T.tolist()


def test_scores_that_json_cannot_hold(model: Path) -> None:
    scores = {"dice": float("nan"), "labels": {"lesion": np.nan, "liver": np.float64(0.5)}, "bf16_agreement": 0.9995, "epochs": 12}
    add_fold(model, configuration="3d_fullres", fold="3", weights=make_weights(), scores=scores)
    record = open_package(model).fold("3d_fullres", "3")
    assert record.scores == {"dice": None, "labels": {"lesion": None, "liver": 0.5}, "bf16_agreement": 0.9995, "epochs": 12.0}
    assert scores_of(record, "bf16_agreement") == 0.9995
    assert scores_of(record, "dice") is None


def test_the_card_tells_what_it_is(model: Path) -> None:
    text = (model / "card.md").read_text()
    assert "| mirrored copies | flipped along network axes 0, 1, 2 and their combinations |" in text
    for part in (
        "Liver \\| pilot",
        "| segments | liver, lesion |",
        "| 1 liver | volumes not recorded |",
        "1 to 99 (99 % of voxels), mean 50, sd 10",
        "none stated",
        "2 to 3, 1 to 1, 1 to 1 mm",
        "3d_fullres fold full",
        "dice 0.9",
        "not a medical device",
    ):
        assert part in text
    described = dict(open_package(model).describe())
    assert described["orientations seen"] == "RAS"
    assert len(described["sha256"]) == 64
    for name, record in open_package(model).manifest.files.items():
        assert name == "card.md" or f"{record.sha256}  {name}" in text


def test_the_card_tells_the_scores_of_a_trained_fold(model: Path) -> None:
    scores = {"dice": {"liver": 0.95, "lesion": None}, "mean_dice": 0.95, "cases": 12, "steps": 100, "chosen": "final"}
    add_fold(model, configuration="3d_fullres", fold="0", weights=make_weights(), scores=scores)
    assert dict(open_package(model).describe())["3d_fullres fold 0"] == "0.950 over 12 held-out cases (liver 0.950)"


def make_selection(postprocessing: Postprocessing) -> Selection:
    labels = (LabelEstimate(label_name="liver", cases=2, dice=0.9, low=0.85, high=0.95), LabelEstimate(label_name="lesion", cases=0))
    estimate = Estimate(cases=2, dice=0.9, low=0.85, high=0.95, labels=labels)
    return Selection(
        configurations=("3d_fullres",), postprocessing=postprocessing, folds={"3d_fullres": ("0", "1")}, cases=("a", "b"),
        plain=estimate, chosen=estimate, nested=estimate, nested_choices=(), candidates=(), choice="test", rule="test",
    )  # fmt: skip


def test_what_was_chosen_after_training_is_part_of_the_model(model: Path, tmp_path: Path) -> None:
    plain = open_package(model)
    assert plain.postprocessing(("3d_fullres",)) is None
    assert plain.selection is None
    entry = Postprocessing(configurations=("3d_fullres",), steps=(KeepLargest(values=(1,)),), reason="test")
    set_postprocessing(model, PostprocessingTable(entries=(entry,)), selection=make_selection(entry))
    set_licence(model.parent, "CC BY 4.0")
    add_fold(model, configuration="3d_fullres", fold="2", weights=make_weights())
    chosen = open_package(pack(model, tmp_path / "m.a3d"))
    assert chosen.sha256 != plain.sha256
    assert chosen.postprocessing(("3d_fullres",)) == entry
    assert chosen.selection == make_selection(entry)
    described = dict(chosen.describe())
    assert described["licence"] == "CC BY 4.0"
    assert described["postprocessing of 3d_fullres"] == "only the largest connected part of liver is kept"
    assert described["mean Dice of the choice"].startswith("0.900 (95 % interval 0.850 to 0.950), 2 cases")
    assert described["Dice of lesion"] == "not defined in any case"


@pytest.mark.parametrize(
    "entry",
    [
        Postprocessing(configurations=("2d",), reason="no such configuration"),
        Postprocessing(steps=(DropSmall(values=(1, 3), minimal_ml=1.0),), reason="no such value"),
    ],
)
def test_a_postprocessing_of_something_else_is_refused_and_nothing_changes(model: Path, entry: Postprocessing) -> None:
    before = open_package(model).sha256
    assert code(lambda: set_postprocessing(model, PostprocessingTable(entries=(entry,)))) == "E_POSTPROCESSING"
    assert open_package(model).sha256 == before


def test_a_changed_postprocessing_convicts_the_package(model: Path) -> None:
    set_postprocessing(model, PostprocessingTable())
    (model / "postprocessing.json").write_text((model / "postprocessing.json").read_text() + " ")
    assert code(lambda: open_package(model)) == "E_MODEL_ALTERED"


def test_the_card_tells_how_large_the_labels_were(tmp_path: Path) -> None:
    seen = [{"liver": LabelObservation(voxels=10, volume_ml=ml), "lesion": LabelObservation(voxels=0, volume_ml=0)} for ml in (1.0, 3.0)]
    whole = make_fingerprint()
    cases = tuple(case.model_copy(update={"labels": labels}) for case, labels in zip(whole.cases, seen, strict=True))
    create_package(tmp_path, make_plan(), whole.model_copy(update={"cases": cases}))
    described = dict(open_package(tmp_path).describe())
    assert described["1 liver"] == "in 2 of 2 cases; 2 mL (median; 5 to 95 %: 1.1 to 2.9 mL)"
    assert described["2 lesion"] == "in none of 2 cases"


def test_reading_needs_no_torch(model: Path) -> None:
    script = (
        "import sys; from autoseg3d.package import open_package; open_package(sys.argv[1]).describe(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, model], check=False).returncode == 0


def test_a_read_only_folder_opens_and_packs(model: Path, tmp_path: Path) -> None:
    for path in (model, *model.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert open_package(pack(model, tmp_path / "m.a3d")).folds("3d_fullres") == ("0", "1", "full")
    finally:
        for path in (model, *model.rglob("*")):
            path.chmod(0o755)


# creating and adding


def test_creating_again_keeps_the_folds(model: Path) -> None:
    create_package(
        model, make_plan(epochs=5).model_copy(update={"decisions": (Decision(field="a", rule="b", reason="c"),)}), make_fingerprint()
    )
    assert open_package(model).folds("3d_fullres") == ("0", "1", "full")


def test_another_plan_is_refused_once_there_are_folds(model: Path, tmp_path: Path) -> None:
    assert code(lambda: create_package(model, make_plan(spacing=2.0), make_fingerprint())) == "E_MODEL_OTHER_PLAN"
    create_package(tmp_path / "new", make_plan(), make_fingerprint())
    create_package(tmp_path / "new", make_plan(spacing=2.0), make_fingerprint())
    assert open_package(tmp_path / "new").plan == make_plan(spacing=2.0)


def test_a_fold_trained_again_takes_the_place_of_the_old_one(model: Path) -> None:
    before = open_package(model)
    add_fold(model, configuration="3d_fullres", fold="1", weights=make_weights(7))
    after = open_package(model)
    assert after.folds("3d_fullres") == before.folds("3d_fullres")
    assert torch.equal(after.load_weights("3d_fullres", "1")["a.bias"], make_weights(7)["a.bias"])
    assert after.sha256 != before.sha256
    assert code(lambda: before.load_weights("3d_fullres", "1")) == "E_MODEL_ALTERED"


def test_what_cannot_be_added(model: Path, tmp_path: Path) -> None:
    before = open_package(model).sha256
    bad = {"a": torch.tensor([1.0, float("nan")])}
    assert code(lambda: add_fold(model, configuration="3d_fullres", fold="2", weights=bad)) == "E_MODEL_WEIGHTS"
    assert code(lambda: add_fold(model, configuration="2d", fold="2", weights=make_weights())) == "E_MODEL"
    assert code(lambda: add_fold(tmp_path / "none", configuration="2d", fold="2", weights=make_weights())) == "E_MODEL_MISSING"
    for fold in ("../0", "-1", "all", ""):
        with pytest.raises(ValueError):
            add_fold(model, configuration="3d_fullres", fold=fold, weights=make_weights())
    assert open_package(model).sha256 == before


def _add(folder: Path, fold: str, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    add_fold(folder, configuration="3d_fullres", fold=fold, weights=make_weights(int(fold)), scores={"dice": 0.1 * int(fold)})


def test_processes_adding_at_once_all_end_up_in_it(tmp_path: Path) -> None:
    create_package(tmp_path, make_plan(), make_fingerprint())
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_add, args=(tmp_path, str(fold), barrier)) for fold in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    package = open_package(tmp_path)
    assert package.folds("3d_fullres") == ("0", "1", "2", "3")
    for fold in range(4):
        assert torch.equal(package.load_weights("3d_fullres", str(fold))["a.weight"], make_weights(fold)["a.weight"])


def _add_for_ever(folder: Path) -> None:
    for seed in range(10_000):
        add_fold(folder, configuration="3d_fullres", fold="0", weights=make_weights(seed, 20_000), scores={"seed": seed})


def test_a_writer_killed_at_any_moment_leaves_a_whole_package(tmp_path: Path) -> None:
    create_package(tmp_path, make_plan(), make_fingerprint())
    add_fold(tmp_path, configuration="3d_fullres", fold="1", weights=make_weights())
    rng = np.random.default_rng(0)
    for _ in range(12):
        worker = multiprocessing.get_context("fork").Process(target=_add_for_ever, args=(tmp_path,))
        worker.start()
        time.sleep(float(rng.uniform(0.02, 0.15)))
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        package = open_package(tmp_path)
        assert package.load_weights("3d_fullres", "1")["a.bias"].tolist() == make_weights()["a.bias"].tolist()
        if "0" in package.folds("3d_fullres"):
            seed = scores_of(package.fold("3d_fullres", "0"), "seed")
            expected = make_weights(int(seed or 0), 20_000)["a.weight"]
            assert torch.equal(package.load_weights("3d_fullres", "0")["a.weight"], expected)
    add_fold(tmp_path, configuration="3d_fullres", fold="2", weights=make_weights())
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith((".tmp-", ".pending-"))]


@pytest.mark.parametrize("failing", range(1, 6))
def test_every_write_may_fail(model: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The N-th rename fails with a full disk: the package is what it was, or what it was to become."""
    before, real, count = open_package(model).sha256, os.replace, 0

    def replace(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        if failing <= 5:
            assert code(lambda: add_fold(model, configuration="3d_fullres", fold="4", weights=make_weights(4))) == "E_DISK_FULL"
    package = open_package(model)
    assert (package.sha256 == before) == (failing <= 3)
    assert ("4" in package.folds("3d_fullres")) == (failing > 3)
    if failing > 3:
        assert torch.equal(package.load_weights("3d_fullres", "4")["a.bias"], make_weights(4)["a.bias"])
    add_fold(model, configuration="3d_fullres", fold="4", weights=make_weights(5))
    assert torch.equal(open_package(model).load_weights("3d_fullres", "4")["a.bias"], make_weights(5)["a.bias"])


# what is refused

FILES = ("plan.json", "fingerprint.json", "card.md", "weights/3d_fullres/fold_0.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_refused(model: Path, name: str) -> None:
    data = bytearray((model / name).read_bytes())
    for position in (0, len(data) // 2, len(data) - 1):
        data[position] ^= 1
        (model / name).write_bytes(data)
        assert code(lambda: open_package(model)) == "E_MODEL_ALTERED"
        data[position] ^= 1
    (model / name).write_bytes(data + b" ")
    assert code(lambda: open_package(model)) == "E_MODEL_ALTERED"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    assert code(lambda: open_package(model)) == "E_MODEL_FILE_MISSING"


@pytest.mark.parametrize("name", ["notes.txt", "weights/3d_fullres/fold_9.safetensors", "weights/evil.pkl", "plan.json.bak"])
def test_a_file_too_many_is_refused(model: Path, name: str) -> None:
    (model / name).write_bytes(b"x")
    assert code(lambda: open_package(model)) == "E_MODEL_EXTRA_FILE"


def test_links_are_refused(model: Path, tmp_path: Path) -> None:
    target = shutil.copy(model / "plan.json", tmp_path / "elsewhere.json")
    (model / "plan.json").unlink()
    (model / "plan.json").symlink_to(target)
    assert code(lambda: open_package(model)) == "E_MODEL_NAME"


def test_no_package_at_all(tmp_path: Path) -> None:
    assert code(lambda: open_package(tmp_path)) == "E_MODEL_MISSING"
    assert code(lambda: open_package(tmp_path / "nothing.a3d")) == "E_MODEL_MISSING"


def edit_manifest(model: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    change(manifest)
    (model / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda m: m.update(schema_version=2), "E_MODEL_VERSION"),
        (lambda m: m.update(schema_version="1; import os"), "E_MODEL_JSON"),
        (lambda m: m.update(format="other"), "E_MODEL_JSON"),
        (lambda m: m.update(extra=1), "E_MODEL_JSON"),
        (lambda m: m.pop("files"), "E_MODEL_JSON"),
        (lambda m: m["files"].pop("plan.json"), "E_MODEL_JSON"),
        (lambda m: m["files"].update({"../../evil": m["files"]["plan.json"]}), "E_MODEL_JSON"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["plan.json"]}), "E_MODEL_JSON"),
        (lambda m: m["files"]["plan.json"].update(size=-1), "E_MODEL_JSON"),
        (lambda m: m["files"]["plan.json"].update(size=10**15), "E_MODEL_ALTERED"),
        (lambda m: m["folds"][0].update(configuration="../x"), "E_MODEL_JSON"),
        (lambda m: m["folds"].append(m["folds"][0]), "E_MODEL_JSON"),
        (lambda m: m["folds"].pop(), "E_MODEL_JSON"),
    ],
)
def test_manifests_that_are_refused(model: Path, change: Callable[[dict], object], wanted: str) -> None:
    edit_manifest(model, change)
    assert code(lambda: open_package(model)) == wanted


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"a": NaN}', b'{"files": {}, "files": {}}', b"\xff\xfe", b"[" * 100_000])
def test_manifests_that_are_no_json_object(model: Path, text: bytes) -> None:
    (model / "manifest.json").write_bytes(text)
    assert code(lambda: open_package(model)) == "E_MODEL_JSON"


def forge(model: Path, name: str, data: bytes) -> None:
    """Replaces a file and corrects the manifest, as an attacker would."""
    (model / name).write_bytes(data)
    edit_manifest(model, lambda m: m["files"][name].update(size=len(data), sha256=hashlib.sha256(data).hexdigest()))


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_a_pickle_in_the_place_of_weights_is_not_executed(model: Path, tmp_path: Path) -> None:
    name = "weights/3d_fullres/fold_0.safetensors"
    forge(model, name, pickle.dumps({"a": Bomb(tmp_path / "executed")}))
    assert code(lambda: open_package(model).load_weights("3d_fullres", "0")) == "E_MODEL_WEIGHTS"
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    forge(model, name, (tmp_path / "weights.pth").read_bytes())
    assert code(lambda: open_package(model).load_weights("3d_fullres", "0")) == "E_MODEL_WEIGHTS"
    assert not (tmp_path / "executed").exists()


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**62) + b"{}",
        safetensors_bytes(b"{"),
        safetensors_bytes({}),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        safetensors_bytes({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, struct.pack("<f", float("inf"))),
    ],
)
def test_weights_that_are_refused(model: Path, data: bytes) -> None:
    forge(model, "weights/3d_fullres/fold_0.safetensors", data)
    assert code(lambda: open_package(model).load_weights("3d_fullres", "0")) == "E_MODEL_WEIGHTS"


def test_a_plan_that_is_not_valid_names_the_field(model: Path) -> None:
    plan = json.loads((model / "plan.json").read_text())
    plan["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 15]
    forge(model, "plan.json", json.dumps(plan).encode())
    with pytest.raises(ModelError, match=r"E_MODEL_JSON.*field configurations\.3d_fullres.*divisible"):
        open_package(model)


def test_an_unknown_fold_names_those_there_are(model: Path) -> None:
    with pytest.raises(ModelError, match="3d_fullres fold 0, 3d_fullres fold 1, 3d_fullres fold full"):
        open_package(model).load_weights("3d_fullres", "4")


def test_nothing_to_pack_and_a_place_inside(model: Path, tmp_path: Path) -> None:
    create_package(tmp_path / "empty", make_plan(), make_fingerprint())
    assert code(lambda: pack(tmp_path / "empty", tmp_path / "m.a3d")) == "E_MODEL_EMPTY"
    with pytest.raises(UsageError):
        pack(model, model / "m.a3d")


# crafted archives


def rewrite(source: Path, target: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            change(new, entry, old.read(entry))
    return target


def renamed(name: str) -> Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]:
    def change(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        archive.writestr(name if entry.filename == "card.md" else entry.filename, data)

    return change


@pytest.mark.parametrize(
    "name",
    ["../card.md", "/card.md", "C:\\card.md", "weights/../card.md", "weights/3d/../fold_0.safetensors", "card.md/", "run.py", "a" * 300,
     "weights/..hidden/fold_0.safetensors", "CARD.MD", "plan.json"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_no_archive_may_hold(model: Path, tmp_path: Path, name: str) -> None:
    path = rewrite(pack(model, tmp_path / "m.a3d"), tmp_path / "bad.a3d", renamed(name))
    assert code(lambda: open_package(path)) == "E_MODEL_ZIP"


def test_compression_bombs_and_links_are_refused(model: Path, tmp_path: Path) -> None:
    good = pack(model, tmp_path / "m.a3d")

    def deflated(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        data = bytes(50_000_000) if entry.filename.startswith("weights") else data
        archive.writestr(entry.filename, data, compress_type=zipfile.ZIP_DEFLATED)

    def linked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        if entry.filename == "card.md":
            entry.external_attr = 0o120777 << 16
        archive.writestr(entry, data)

    for change in (deflated, linked):
        assert code(lambda change=change: open_package(rewrite(good, tmp_path / "bad.a3d", change))) == "E_MODEL_ZIP"


def test_damaged_archives_are_refused(model: Path, tmp_path: Path) -> None:
    """Cut or altered at any place: refused with a clear error, or (in bytes nobody reads) exactly what it was."""
    good, rng = pack(model, tmp_path / "m.a3d").read_bytes(), np.random.default_rng(0)
    whole = open_package(tmp_path / "m.a3d")
    bad = tmp_path / "bad.a3d"
    for _ in range(150):
        data = bytearray(good)
        if rng.random() < 0.3:
            data = data[: int(rng.integers(0, len(data)))]
        else:
            tail = len(good) - 1200 if rng.random() < 0.5 else 0
            data[int(rng.integers(tail, len(data)))] ^= int(rng.integers(1, 256))
        bad.write_bytes(data)
        try:
            package = open_package(bad)
            weights = package.load_weights("3d_fullres", "0")
        except ModelError:
            continue
        assert package.sha256 == whole.sha256
        assert torch.equal(weights["a.bias"], make_weights()["a.bias"])


def test_overlapping_entries_are_refused(model: Path, tmp_path: Path) -> None:
    """A central directory whose entries all point at one large file claims more than the file holds."""
    path = tmp_path / "bad.a3d"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("plan.json", bytes(100_000))
        entry = archive.infolist()[0]
        for fold in range(900):
            copy = zipfile.ZipInfo(f"weights/3d/fold_{fold}.safetensors")
            copy.header_offset, copy.CRC = entry.header_offset, entry.CRC
            copy.compress_size = copy.file_size = entry.file_size
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
    assert code(lambda: open_package(path)) == "E_MODEL_ZIP"


def test_a_fold_knows_its_file() -> None:
    assert FoldRecord(configuration="3d_fullres", fold="0").file == "weights/3d_fullres/fold_0.safetensors"
