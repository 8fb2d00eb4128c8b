"""Batches: one bad scan never stops the others, nothing is half written, a rerun does only what is missing."""

import csv
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tiny import case, noise, plan, random_network, write_package, write_scan

from autoseg3d.errors import Autoseg3dError, DataError, LockedError, ReadError, StorageError
from autoseg3d.files import lock, read_contract, sha256
from autoseg3d.io import CaseFiles, find_scans
from autoseg3d.package import add_fold, open_package
from autoseg3d.prediction import CaseRecord, CaseResult, PredictOptions, Predictor, exit_code, predict_scans
from autoseg3d.prediction.records import failure, hash_inputs, key_of

OPTIONS = PredictOptions(device="cpu", precision="fp32", mirror=False)
SHAPE = (12, 14, 16)
SCAN = CaseFiles("a", (Path("DOE^JANE") / "a.nii.gz",))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_package(tmp_path / "run" / "model", plan(), ("0", "2"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for i in range(3):
        write_scan(folder / f"scan_{i}.nii.gz", noise(SHAPE, seed=i))
    return folder


def run(scans: Path, model: Path, out: Path, options: PredictOptions = OPTIONS) -> list[CaseResult]:
    return predict_scans(find_scans(scans, num_channels=1), model, out, options, source=scans)


def code(*arguments: Path, options: PredictOptions = OPTIONS) -> str:
    with pytest.raises(Autoseg3dError) as caught:
        run(*arguments, options=options)
    return caught.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*.nii.gz"))}


# what a batch leaves behind


def test_outputs_records_and_tables(scans: Path, model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = predict_scans(find_scans(scans, num_channels=1), model.parent, tmp_path / "out", OPTIONS, progress=lambda *a: told.append(a))
    assert [result.case for result in found] == ["scan_0", "scan_1", "scan_2"]
    assert exit_code(found) == 0
    assert ("scans", 3, 3) in told
    assert any(what == "windows" for what, _, _ in told)
    expected = Predictor(
        plan(), "3d_fullres", [random_network(plan(), seed=s) for s in (0, 2)], device="cpu", precision="fp32", mirror=False
    )
    for i, result in enumerate(found):
        assert result.output == tmp_path / "out" / f"scan_{i}.nii.gz"
        labels = np.asarray(nibabel.load(result.output).dataobj).transpose(2, 1, 0)
        assert (labels == expected.predict(case(noise(SHAPE, seed=i))).labels).all()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "scan_0.json",
        "scan_0.nii.gz",
        "scan_1.json",
        "scan_1.nii.gz",
        "scan_2.json",
        "scan_2.nii.gz",
        "results.json",
        "results.csv",
        ".lock",
    }


def test_the_record_says_how_it_came_to_be(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, model, tmp_path / "out")
    record = read_contract(tmp_path / "out" / "scan_1.json", CaseRecord)
    package = open_package(model)
    assert record.inputs == {"scan_1.nii.gz": sha256(scans / "scan_1.nii.gz")}
    assert record.outputs[0].sha256 == sha256(tmp_path / "out" / "scan_1.nii.gz")
    assert record.models[0].sha256 == package.sha256
    assert record.models[0].weights["weights/3d_fullres/fold_2.safetensors"] == sha256(model / "weights/3d_fullres/fold_2.safetensors")
    assert (record.models[0].folds, record.models[0].missing_folds) == (("0", "2"), ("1", "3", "4"))
    assert (record.options["step"], record.options["mirror"], record.models[0].configuration) == (0.5, False, "3d_fullres")
    assert (record.precision, record.device, record.class_order) == ("fp32", "cpu", ("background", "left", "right"))
    assert record.grid == {"shape_zyx": list(SHAPE), "spacing_zyx_mm": [1.0, 1.0, 1.0], "orientation": "RAS"}
    assert set(record.seconds) == {"read", "preprocess", "predict", "write", "network", "export"}
    assert record.peak_bytes > 10**7
    assert record.software["torch"] == torch.__version__


def test_nothing_of_the_patient_gets_through(scans: Path, model: Path, tmp_path: Path) -> None:
    """A name in the scan's header, and folders named after a patient, are in no output."""
    named = tmp_path / "DOE^JANE" / "scans"
    shutil.copytree(scans, named)
    run(named, model, tmp_path / "out", OPTIONS.model_copy(update={"save_probabilities": True}))
    for path in (tmp_path / "out").iterdir():
        data = path.read_bytes()
        if path.suffix == ".gz":
            assert nibabel.load(path).header["descrip"].tobytes().strip(b"\0") == b""
        assert b"SECRET" not in data
        assert b"DOE" not in data
        assert str(tmp_path).encode() not in data


def test_tables_of_results(scans: Path, model: Path, tmp_path: Path) -> None:
    (scans / "scan_1.nii.gz").write_bytes(b"rubbish")
    found = run(scans, model, tmp_path / "out")
    assert exit_code(found) == 3
    summary = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["status"] for row in summary["cases"]] == [result.status for result in found]
    assert (summary["total"], summary["failed"]) == (3, 1)
    failed = summary["cases"][1]
    assert failed["code"] == found[1].code
    assert "scan_1" in failed["cause"]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["scan_0", "scan_1", "scan_2"]
    assert rows[1]["reasons"].count(f"{found[1].code}:") == 1, "the code is told once"
    assert rows[0]["output"] == "scan_0.nii.gz"


def test_probabilities_beside_the_labels(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, model, tmp_path / "out", OPTIONS.model_copy(update={"save_probabilities": True}))
    run(scans, model, tmp_path / "plain")
    with np.load(tmp_path / "out" / "scan_0.npz") as archive:
        labels = np.asarray(nibabel.load(tmp_path / "out" / "scan_0.nii.gz").dataobj).transpose(2, 1, 0)
        assert (archive["probabilities"].argmax(0) == labels).mean() > 0.9999
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
    assert [output.name for output in read_contract(tmp_path / "out" / "scan_0.json", CaseRecord).outputs] == [
        "scan_0.nii.gz",
        "scan_0.npz",
    ]


def test_flagged_scans_are_to_be_reviewed(model: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "scans" / "thick.nii.gz", noise(SHAPE), np.diag([1.0, 1.0, 9.0, 1.0]))
    [result] = run(tmp_path / "scans", model, tmp_path / "out")
    assert result.status == "review"
    assert any(reason.startswith("SPACING: voxels of 9 mm") for reason in result.reasons)
    assert exit_code([result]) == 0


def test_sheared_scans_come_back_on_their_own_grid(model: Path, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    path = write_scan(tmp_path / "scans" / "tilted.nii.gz", noise(SHAPE), affine)
    [result] = run(
        tmp_path / "scans", model, tmp_path / "out", OPTIONS.model_copy(update={"save_probabilities": True, "uncertainty": True})
    )
    assert result.status == "review"
    assert result.output is not None
    labels, scan, entropies = (nibabel.load(file) for file in (result.output, path, tmp_path / "out" / "tilted_entropy.nii.gz"))
    for image in (labels, entropies):
        assert image.shape == scan.shape
        assert (image.affine == scan.affine).all()
    probabilities = np.load(tmp_path / "out" / "tilted.npz")["probabilities"]
    np.testing.assert_array_equal(probabilities.argmax(axis=0), np.asarray(labels.dataobj).T)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)


# bad scans


def test_bad_scans_do_not_stop_the_others(scans: Path, model: Path, tmp_path: Path) -> None:
    clean = run(scans, model, tmp_path / "clean")
    good = (scans / "scan_0.nii.gz").read_bytes()
    (scans / "a_cut.nii.gz").write_bytes(good[: len(good) // 2])
    (scans / "b_empty.nii.gz").write_bytes(b"")
    (scans / "c_text.nii.gz").write_bytes(b"this is not a scan")
    write_scan(scans / "d_nan.nii.gz", np.full(SHAPE, np.nan))
    write_scan(scans / "e_constant.nii.gz", np.ones(SHAPE))
    write_scan(scans / "f_4d.nii.gz", noise(SHAPE))
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4))
    nibabel.save(volume, scans / "f_4d.nii.gz")
    (scans / "g_link.nii.gz").symlink_to(scans / "nowhere.nii.gz")
    results = run(scans, model, tmp_path / "out")
    assert [result.status for result in results[:7]] == ["failed"] * 7
    assert all(result.code and result.code.startswith("E_") and result.code != "E_INTERNAL" for result in results[:7])
    assert [result.case for result in results[7:]] == [result.case for result in clean]
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert exit_code(results) == 3
    assert not list((tmp_path / "out").glob("[a-g]_*"))


def test_faults_known_beforehand_and_faults_nobody_foresaw(
    scans: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list(find_scans(scans, num_channels=1))
    files[0] = CaseFiles("scan_0", files[0].images, fault=DataError("incomplete", code="E_CHANNEL"))
    real = Predictor.prepare

    def prepare(self: Predictor, scan: object, **more: object) -> object:
        if scan.id == "scan_1":  # type: ignore[attr-defined]
            raise KeyError("surprise")
        return real(self, scan, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "prepare", prepare)
    results = predict_scans(files, model, tmp_path / "out", OPTIONS)
    assert [result.status for result in results][:2] == ["failed", "failed"]
    assert results[0].code == "E_CHANNEL"
    assert (results[1].code, results[1].cause) == ("E_INTERNAL", "KeyError: 'surprise'")
    assert results[2].status != "failed"


def test_memory_that_runs_out_is_told_as_such() -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")):
        assert failure(SCAN, error, 0).code == "E_MEMORY"
    assert failure(SCAN, RuntimeError("other\nlines"), 0).cause == "RuntimeError: other lines"


def test_a_failure_names_files_without_their_folders() -> None:
    for error in (ReadError("cut short", file=SCAN.images[0]), OSError(5, "failed", str(SCAN.images[0].absolute()))):
        cause = failure(SCAN, error, 0).cause
        assert cause is not None
        assert "a.nii.gz" in cause
        assert "DOE" not in cause


# what is refused before anything is computed


def test_an_output_among_the_inputs_is_refused(scans: Path, model: Path, tmp_path: Path) -> None:
    before = sorted(scans.iterdir())
    for out in (scans, scans / "out", scans / ".." / "scans" / "deep" / "out"):
        assert code(scans, model, out) == "E_OUT_IN_INPUT"
    (tmp_path / "link").symlink_to(scans)
    assert code(scans, model, tmp_path / "link") == "E_OUT_IN_INPUT"
    one = scans / "scan_0.nii.gz"
    assert code(one, model, scans) == "E_OUT_IN_INPUT"
    assert sorted(scans.iterdir()) == before
    assert run(one, model, scans / "out")[0].status != "failed"


def test_an_output_that_cannot_be_written_is_refused(scans: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert code(scans, model, tmp_path / "file") == "E_OUT"
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert code(scans, model, tmp_path / "closed") == "E_READ_ONLY"


def test_names_that_would_collide_are_refused(scans: Path, model: Path, tmp_path: Path) -> None:
    path = scans / "scan_0.nii.gz"
    for ids, wanted in ((("a", "A"), "E_DUP_ID"), (("../evil",), "E_CASE_ID"), (("results",), "E_CASE_ID"), ((".hidden",), "E_CASE_ID")):
        with pytest.raises(Autoseg3dError) as caught:
            predict_scans([CaseFiles(name, (path,)) for name in ids], model, tmp_path / "out", OPTIONS)
        assert caught.value.code == wanted
    assert not (tmp_path / "out").exists()


def test_faults_of_the_model_concern_the_whole_batch(scans: Path, model: Path, tmp_path: Path) -> None:
    assert code(scans, model, tmp_path / "out", options=OPTIONS.model_copy(update={"folds": ("4",)})) == "E_MODEL_FOLD"
    assert code(scans, model, tmp_path / "out", options=OPTIONS.model_copy(update={"configurations": ("2d",)})) == "E_MODEL_FOLD"
    data = bytearray((model / "plan.json").read_bytes())
    data[10] ^= 1
    (model / "plan.json").write_bytes(data)
    assert code(scans, model, tmp_path / "out") == "E_MODEL_ALTERED"


def test_one_process_at_a_time(scans: Path, model: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "out"), pytest.raises(LockedError):
        run(scans, model, tmp_path / "out")


# reruns


def test_a_rerun_does_only_what_is_missing(scans: Path, model: Path, tmp_path: Path) -> None:
    first = run(scans, model, tmp_path / "out")
    bytes_before = contents(tmp_path / "out")
    again = run(scans, model, tmp_path / "out")
    assert [result.reused for result in again] == [True] * 3
    assert [(r.case, r.status, r.flags) for r in again] == [(r.case, r.status, r.flags) for r in first]
    (tmp_path / "out" / "scan_1.nii.gz").unlink()
    cut = bytes_before["scan_2.nii.gz"]
    (tmp_path / "out" / "scan_2.nii.gz").write_bytes(cut[: len(cut) // 2])
    assert [result.reused for result in run(scans, model, tmp_path / "out")] == [True, False, False]
    assert contents(tmp_path / "out") == bytes_before


def test_what_makes_an_output_stale(scans: Path, model: Path, tmp_path: Path) -> None:
    def reused(options: PredictOptions = OPTIONS) -> list[bool]:
        return [result.reused for result in run(scans, model, tmp_path / "out", options)]

    run(scans, model, tmp_path / "out")
    assert reused(OPTIONS.model_copy(update={"slab_limit_bytes": 10**6})) == [True] * 3
    assert reused(OPTIONS.model_copy(update={"step": 0.6})) == [False] * 3
    assert reused(OPTIONS) == [False] * 3
    write_scan(scans / "scan_1.nii.gz", noise(SHAPE, seed=9))
    assert reused() == [True, False, True]
    (tmp_path / "out" / "scan_0.json").write_text("{}")
    assert reused() == [False, True, True]
    add_fold(model, configuration="3d_fullres", fold="1", weights=random_network(plan(), seed=5).state_dict())
    assert reused() == [False] * 3


def test_header_and_voxel_files_are_both_inputs(tmp_path: Path) -> None:
    header = b"ObjectType = Image\nDimSize = 1 1 1\nElementDataFile = voxels.raw\n"
    for name, data in (("s.mhd", header), ("voxels.raw", b"v"), ("s.raw", b"other")):
        (tmp_path / name).write_bytes(data)
    scan = CaseFiles("s", (tmp_path / "s.mhd",))
    assert hash_inputs(scan) == {"s.mhd": hashlib.sha256(header).hexdigest(), "voxels.raw": hashlib.sha256(b"v").hexdigest()}
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"1")
    assert hash_inputs(CaseFiles("d", (series,))) == {"1.dcm": hashlib.sha256(b"1").hexdigest()}
    assert key_of({"a": "1", "b": "2"}, ["m"], {"o": 1}) == key_of({"b": "2", "a": "1"}, ["m"], {"o": 1})
    assert key_of({"a": "1"}, ["m"], {"o": 1}) != key_of({"a": "1"}, ["m"], {"o": 2})


def _predict(scans: Path, model: Path, out: Path) -> None:
    torch.set_num_threads(1)
    run(scans, model, out)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_any_moment_a_rerun_gives_the_same_bytes(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, model, tmp_path / "clean")
    expected, rng = contents(tmp_path / "clean"), np.random.default_rng(0)
    for round_number in range(4):
        out = tmp_path / f"out_{round_number}"
        worker = multiprocessing.get_context("fork").Process(target=_predict, args=(scans, model, out))
        worker.start()
        time.sleep(float(rng.uniform(0.05, 0.5)))
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        finished = {path.name for path in out.glob("scan_*.nii.gz") if path.with_name(path.name.replace(".nii.gz", ".json")).exists()}
        for name in contents(out):
            assert contents(out)[name] == expected[name]
        results = run(scans, model, out)
        assert contents(out) == expected
        assert not list(out.glob(".tmp-*"))
        assert {f"{result.case}.nii.gz" for result in results if result.reused} == finished


def _predict_with_little_disk(scans: Path, model: Path, out: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    try:
        run(scans, model, out)
    except StorageError as error:
        os._exit(40 + error.exit_code)
    os._exit(0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file-size limit")
def test_a_full_disk_stops_and_leaves_nothing_half_done(scans: Path, model: Path, tmp_path: Path) -> None:
    """A real limit on the size of files stands for the full disk: the label map does not fit, small files do."""
    worker = multiprocessing.get_context("fork").Process(target=_predict_with_little_disk, args=(scans, model, tmp_path / "out"))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 44
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert not list((tmp_path / "out").glob(".tmp-*"))
    assert exit_code(run(scans, model, tmp_path / "out")) == 0
