"""Bounds of memory and time, several models, and what uncertainty adds: in batches, as a person runs them."""

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tiny import LABELS, REGIONS, case, configuration, noise, plan, random_network, write_package, write_scan

from autoseg3d.errors import UsageError
from autoseg3d.files import read_contract
from autoseg3d.io import CaseFiles, find_scans
from autoseg3d.package import open_package
from autoseg3d.prediction import CaseRecord, CaseResult, PredictOptions, Predictor, predict_scans, run_members
from autoseg3d.prediction.attempts import Attempt
from autoseg3d.prediction.memory import forecast, keep_within, resident_bytes
from autoseg3d.prediction.pace import choose_pace
from planners.labels import label_table

OPTIONS = PredictOptions(device="cpu", precision="fp32", mirror=False)
SHAPE = (12, 14, 16)
CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_package(tmp_path / "model", plan(), ("0", "2"))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for i in range(3):
        write_scan(tmp_path / "scans" / f"scan_{i}.nii.gz", noise(SHAPE, seed=i))
    return tmp_path / "scans"


def run(scans: Path, model: object, out: Path, options: PredictOptions = OPTIONS) -> list[CaseResult]:
    return predict_scans(find_scans(scans, num_channels=1), model, out, options, source=scans)  # type: ignore[arg-type]


def labels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)


def record(out: Path, name: str) -> CaseRecord:
    return read_contract(out / f"{name}.json", CaseRecord)


# memory


def large(features: int = 4) -> Predictor:
    return Predictor(plan(), "3d_fullres", [random_network(plan(), seed=seed) for seed in range(features)], device="cpu", precision="fp32")


def test_a_bound_is_kept_by_bands_or_refused_with_what_is_needed() -> None:
    scan, predictor, base = case(np.zeros((200, 400, 400)) + noise((1, 400, 1))), large(), 10**8
    free = forecast(scan, [predictor], base=base, slab_limit_bytes=2 * 2**30)
    limit = free.peak - 10 * 2**20
    told, bound = keep_within(limit, scan, [predictor], base=base, slab_limit_bytes=2 * 2**30)
    assert told.peak <= limit
    assert bound < 4 * 3 * 8 * 400 * 400
    assert "bands of at most" in told.choices[0]
    assert keep_within(free.peak, scan, [predictor], base=base, slab_limit_bytes=2 * 2**30)[0] == free
    with pytest.raises(UsageError, match=r"E_MAX_MEMORY.*wanted at least 0\.\d+ GB; got 0\.19 GB") as caught:
        keep_within(2 * 10**8, scan, [predictor], base=base, slab_limit_bytes=2 * 2**30)
    needed = float(str(caught.value).split("wanted at least ")[1].split(" GB")[0])
    keep_within(int((needed + 0.01) * 2**30), scan, [predictor], base=base, slab_limit_bytes=2 * 2**30)


def test_memory_does_not_grow_with_classes_once_features_are_fewer() -> None:
    tables = [label_table({"background": 0, **{f"label {k}": k for k in range(1, count)}}) for count in (25, 105)]
    scan, peaks = case(noise((40, 40, 40))), []
    for table in tables:
        chosen = plan(labels=table)
        predictor = Predictor(chosen, "3d_fullres", [random_network(chosen)], device="cpu", precision="fp32")
        peaks.append(forecast(scan, [predictor], base=0, slab_limit_bytes=2**31).network)
    assert peaks[1] < 1.1 * peaks[0]


def test_a_batch_within_a_bound_gives_the_same_and_says_what_it_forecast(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, model, tmp_path / "free")
    bound = resident_bytes() + 2**30
    run(scans, model, tmp_path / "bound", OPTIONS.model_copy(update={"max_memory_bytes": bound}))
    for i in range(3):
        assert (tmp_path / "free" / f"scan_{i}.nii.gz").read_bytes() == (tmp_path / "bound" / f"scan_{i}.nii.gz").read_bytes()
        told = record(tmp_path / "bound", f"scan_{i}").forecast_bytes
        assert told is not None
        assert told < bound
    results = run(scans, model, tmp_path / "small", OPTIONS.model_copy(update={"max_memory_bytes": 10**7}))
    assert [result.code for result in results] == ["E_MAX_MEMORY"] * 3
    assert "at least" in (results[0].cause or "")


def _run_out(predictor: Predictor, image: np.ndarray, target: Path, spare: int) -> None:
    """In a process of its own: less address space than a batch of 64 windows needs, and enough for one."""
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
    prediction = predictor.predict(case(image))
    np.savez(target, labels=prediction.labels, notes=np.array(prediction.notes))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_real_lack_of_memory_leads_to_smaller_pieces_and_the_same_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = plan(configuration((32, 32, 32)))
    predictor = Predictor(chosen, "3d_fullres", [random_network(chosen)], device="cpu", precision="fp32", mirror=False)
    image = noise((32, 160, 160))  # all windows at one height, so that a batch is full
    wanted = predictor.predict(case(image)).labels
    monkeypatch.setattr(predictor, "attempts", lambda: [Attempt(CPU, 64, CPU), Attempt(CPU, 1, CPU)])
    target = tmp_path / "found.npz"
    worker = multiprocessing.get_context("fork").Process(target=_run_out, args=(predictor, image, target, 100 * 2**20))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0
    with np.load(target) as found:
        assert (found["labels"] == wanted).mean() >= 0.99999
        assert len(found["notes"]) == 1
        assert "ran out of memory with 64 windows at a time" in str(found["notes"][0])


# time


@pytest.mark.skipif(sys.platform == "win32", reason="needs a named pipe")
def test_a_scan_that_never_ends_is_given_up_and_the_others_go_on(scans: Path, model: Path, tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for a network drive that hangs."""
    (tmp_path / "drive").mkdir()
    os.mkfifo(tmp_path / "drive" / "hangs.nii.gz")
    files = [CaseFiles("hangs", (tmp_path / "drive" / "hangs.nii.gz",)), *find_scans(scans, num_channels=1)]
    options = OPTIONS.model_copy(update={"timeout_seconds": 8.0})  # on a busy machine the sound ones take seconds too
    begun = time.monotonic()
    results = predict_scans(files, model, tmp_path / "out", options)
    assert time.monotonic() - begun < 60
    assert (results[0].status, results[0].code) == ("failed", "E_TIMEOUT")
    assert "--timeout" in (results[0].remedy or "")
    assert all(result.status != "failed" for result in results[1:])
    run(scans, model, tmp_path / "free")
    for i in range(3):
        assert (tmp_path / "out" / f"scan_{i}.nii.gz").read_bytes() == (tmp_path / "free" / f"scan_{i}.nii.gz").read_bytes()
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_networks_are_stopped_between_windows(model: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "scans" / "big.nii.gz", noise((70, 70, 70)))
    options = OPTIONS.model_copy(update={"timeout_seconds": 3.0, "step": 0.1, "mirror": True})
    [result] = run(tmp_path / "scans", model, tmp_path / "out", options)
    assert (result.status, result.code) == ("failed", "E_TIMEOUT")
    assert result.seconds < 15


def test_the_time_to_spend_chooses_how_thoroughly(model: Path) -> None:
    package, scan = open_package(model), case(noise((40, 40, 40)))
    predictor = Predictor.from_package(package, device="cpu", precision="fp32")
    prepared = [predictor.prepare(scan)]
    [most], words = choose_pace([predictor], prepared, seconds=1e6)
    assert (most.mirror, most.step, len(most.networks)) == (True, 0.5, 2)
    assert words.startswith("mirrored copies, step 0.5: ")
    [least], words = choose_pace([predictor], prepared, seconds=1e-9)
    assert (least.mirror, least.step, len(least.networks)) == (False, 0.75, 1)
    assert "there is no faster way" in words
    assert least.run(prepared[0]).labels.shape == (40, 40, 40)
    [plain], _ = choose_pace([predictor.variant(mirror=False)], prepared, seconds=1e6)
    assert not plain.mirror


def test_a_pace_chosen_in_a_batch_is_recorded(scans: Path, model: Path, tmp_path: Path) -> None:
    run(scans, model, tmp_path / "out", OPTIONS.model_copy(update={"mirror": True, "seconds_per_case": 3600.0}))
    assert record(tmp_path / "out", "scan_0").choices[0].startswith("mirrored copies, step 0.5")
    assert [
        r.reused for r in run(scans, model, tmp_path / "out", OPTIONS.model_copy(update={"mirror": True, "seconds_per_case": 3600.0}))
    ] == [True] * 3


# several models


def test_models_and_configurations_are_averaged(scans: Path, tmp_path: Path) -> None:
    two = plan({"2d": configuration((1, 16, 16), slicewise=True), "3d_fullres": configuration(spacing=(1.5, 1.0, 0.8))})
    first, other = write_package(tmp_path / "first", two, ("0",)), write_package(tmp_path / "other", plan(axis_order=(2, 1, 0)), ("1",))
    run(scans, [first, other], tmp_path / "models")
    run(scans, first, tmp_path / "both", OPTIONS.model_copy(update={"configurations": ("2d", "3d_fullres")}))
    for out, chosen in (
        ("models", [(open_package(first), "3d_fullres"), (open_package(other), "3d_fullres")]),
        ("both", [(open_package(first), "2d"), (open_package(first), "3d_fullres")]),
    ):
        made = [Predictor.from_package(p, name, device="cpu", precision="fp32", mirror=False) for p, name in chosen]
        scan = case(noise(SHAPE, seed=1))
        wanted = run_members(made, [p.prepare(scan) for p in made], spill_folder=tmp_path).labels
        assert (labels(tmp_path / out / "scan_1.nii.gz") == wanted).all()
        assert [m.configuration for m in record(tmp_path / out, "scan_1").models] == [name for _, name in chosen]
        assert not list((tmp_path / out).glob(".tmp-*"))


def test_models_that_mean_other_things_are_refused(scans: Path, model: Path, tmp_path: Path) -> None:
    renamed = write_package(tmp_path / "renamed", plan(labels=label_table({"background": 0, "left": 1, "heart": 2})))
    regions = write_package(tmp_path / "regions", plan(labels=REGIONS))
    for other, wanted in ((renamed, "wanted left = 1, right = 2; got left = 1, heart = 2"), (regions, "got whole = 1\\+2 painted 1")):
        with pytest.raises(UsageError, match=f"E_ENSEMBLE.*{wanted}"):
            run(scans, [model, other], tmp_path / "out")


# uncertainty


@pytest.mark.parametrize("table", [LABELS, REGIONS], ids=["labels", "regions"])
def test_entropies_are_those_of_the_probabilities(scans: Path, tmp_path: Path, table: object) -> None:
    model = write_package(tmp_path / "m", plan(labels=table), ("0", "2"))  # type: ignore[arg-type]
    run(scans, model, tmp_path / "out", OPTIONS.model_copy(update={"uncertainty": True, "save_probabilities": True}))
    run(scans, model, tmp_path / "plain")
    assert (labels(tmp_path / "out" / "scan_0.nii.gz") == labels(tmp_path / "plain" / "scan_0.nii.gz")).all()
    with np.load(tmp_path / "out" / "scan_0.npz") as archive:
        p = archive["probabilities"].astype(np.float64).clip(1e-12, 1 - 1e-12)
    if table is LABELS:
        wanted = -(p * np.log(p)).sum(axis=0) / np.log(len(p))
    else:
        wanted = (-(p * np.log2(p) + (1 - p) * np.log2(1 - p))).max(axis=0)
    volume = nibabel.load(tmp_path / "out" / "scan_0_entropy.nii.gz")
    assert (volume.affine == nibabel.load(scans / "scan_0.nii.gz").affine).all()
    assert np.abs(labels(tmp_path / "out" / "scan_0_entropy.nii.gz") - wanted).max() < 1e-4
    told = record(tmp_path / "out", "scan_0")
    assert [output.name for output in told.outputs] == ["scan_0.nii.gz", "scan_0.npz", "scan_0_entropy.nii.gz"]
    found = told.findings[0]
    assert found.fold_dice is not None
    assert found.fold_volumes_ml is not None
    assert found.fold_volumes_ml[0] <= found.fold_volumes_ml[1]
    assert record(tmp_path / "plain", "scan_0").findings[0].fold_dice is None


def test_a_scan_may_not_have_the_name_of_another_ones_entropies(scans: Path, model: Path, tmp_path: Path) -> None:
    write_scan(scans / "scan_0_entropy.nii.gz", noise(SHAPE))
    with pytest.raises(Exception, match="E_CASE_ID"):
        run(scans, model, tmp_path / "out", OPTIONS.model_copy(update={"uncertainty": True}))
    assert len(run(scans, model, tmp_path / "out")) == 4


# overlap


def test_scans_beside_each_other_give_what_each_gives_alone(scans: Path, model: Path, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"save_probabilities": True})
    run(scans, model, tmp_path / "together", options)
    for i in range(3):
        alone = tmp_path / f"alone_{i}"
        predict_scans([scan for scan in find_scans(scans, num_channels=1) if scan.id == f"scan_{i}"], model, alone, options)
        for name in (f"scan_{i}.nii.gz", f"scan_{i}.npz"):
            assert (tmp_path / "together" / name).read_bytes() == (alone / name).read_bytes()
