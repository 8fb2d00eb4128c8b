"""Preparing a dataset: once, resumable, shared, safe for several processes, honest about disk and faults."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from small_datasets import STATISTICS, blob_case, describe, small_plan, write_blobs, write_case

from autoseg3d import files
from autoseg3d.errors import DatasetError, StorageError, UsageError
from autoseg3d.io.dataset import Dataset, open_dataset
from autoseg3d.preprocessing import CaseStore, cache_key, prepare
from planners.plan import Plan

PLAN = small_plan(spacing_mm=(2.0, 1.2, 1.3))
KEY = cache_key(PLAN, "3d_fullres")


@pytest.fixture
def blobs(tmp_path: Path) -> Dataset:
    return open_dataset(write_blobs(tmp_path / "raw", 4))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(dataset: Dataset, cache: Path, plan: Plan = PLAN, **options: object) -> tuple[CaseStore, int]:
    """The store, and how many cases were preprocessed for it."""
    done: list[int] = []

    def progress(what: str, _: int, total: int) -> None:
        if what == "preparing cases":
            done.append(total)

    store = prepare(dataset, plan, "3d_fullres", cache, progress=progress, **options)  # type: ignore[arg-type]
    return store, done[0] if done else 0


def changed_times(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(cache.rglob("*.safetensors"))}


def test_a_second_call_finds_everything_done(blobs: Dataset, cache: Path) -> None:
    first, done = run(blobs, cache)
    assert done == 4
    before = changed_times(cache)
    again, done = run(blobs, cache)
    assert done == 0
    assert changed_times(cache) == before
    assert again == first


def test_several_processes_give_the_same_store(blobs: Dataset, cache: Path, tmp_path: Path) -> None:
    alone, _ = run(blobs, cache)
    together, done = run(blobs, tmp_path / "other", workers=2)
    assert done == 4
    assert together.content_hash == alone.content_hash


def test_only_new_and_changed_cases_are_done_again(blobs: Dataset, cache: Path) -> None:
    run(blobs, cache)
    write_case(blobs.root, "c01", *blob_case(np.random.default_rng(50)))
    write_case(blobs.root, "c04", *blob_case(np.random.default_rng(51)))
    describe(blobs.root, count=5)
    store, done = run(open_dataset(blobs.root), cache)
    assert (done, len(store.ids)) == (2, 5)


def test_some_cases_only(blobs: Dataset, cache: Path) -> None:
    store, done = run(blobs, cache, case_ids=["c03", "c01"])
    assert (done, store.ids) == (2, ("c03", "c01"))
    with pytest.raises(UsageError, match="c77"):
        run(blobs, cache, case_ids=["c01", "c77"])


def test_damaged_and_half_made_files_are_made_anew(blobs: Dataset, cache: Path) -> None:
    whole, _ = run(blobs, cache)
    path = cache / KEY / "c02.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    (cache / KEY / ".tmp-left-by-a-kill.safetensors").write_bytes(b"x")
    mended, done = run(blobs, cache)
    assert done == 1
    assert mended.content_hash == whole.content_hash
    assert not list(cache.rglob(".tmp-*"))


def test_equal_preprocessing_is_shared_and_unequal_is_not(blobs: Dataset, cache: Path) -> None:
    run(blobs, cache)
    same = small_plan(spacing_mm=(2.0, 1.2, 1.3), batch_size=7, mirror_axes=(), intensities=(STATISTICS.model_copy(update={"mean": 3.0}),))
    assert run(blobs, cache, same)[1] == 0
    others = [
        small_plan(spacing_mm=(2.0, 1.2, 1.4)),
        small_plan(spacing_mm=(2.0, 1.2, 1.3), orientation="as-stored"),
        small_plan(spacing_mm=(2.0, 1.2, 1.3), normalization=("ct",)),
        small_plan(spacing_mm=(2.0, 1.2, 1.3), use_mask_for_norm=(True,)),
    ]
    assert len({KEY, *(cache_key(plan, "3d_fullres") for plan in others)}) == 5
    assert cache_key(PLAN, "3d_fullres", geometry="sform") != KEY
    slices = [small_plan(slicewise=True, patch_size=(1, 8, 8), spacing_mm=(z, 1.2, 1.3)) for z in (1.0, 5.0)]
    assert cache_key(slices[0], "3d_fullres") == cache_key(slices[1], "3d_fullres")


def test_ct_statistics_are_part_of_the_recipe(cache: Path) -> None:
    ct = [small_plan(normalization=("ct",), intensities=(STATISTICS.model_copy(update={"mean": mean}),)) for mean in (1.0, 2.0)]
    assert cache_key(ct[0], "3d_fullres") != cache_key(ct[1], "3d_fullres")


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_cases_are_all_told_and_the_others_done(blobs: Dataset, cache: Path, workers: int) -> None:
    for case in ("c01", "c03"):
        path = blobs.root / "imagesTr" / f"{case}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError) as caught:
        run(blobs, cache, workers=workers)
    assert [(fault.case, fault.code) for fault in caught.value.faults] == [("c01", "E_TRUNCATED"), ("c03", "E_TRUNCATED")]
    assert sorted(path.stem for path in cache.rglob("*.safetensors")) == ["c00", "c02"]


def test_a_full_disk_is_foreseen(blobs: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(StorageError) as caught:
        run(blobs, cache)
    assert caught.value.code == "E_DISK_FULL"
    assert not list(cache.rglob("*.safetensors"))
    monkeypatch.undo()
    assert run(blobs, cache)[1] == 4


LIMITED = """
import resource, sys
sys.path[:0] = {paths!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from test_preparation import PLAN, prepare, open_dataset, Path, StorageError
try:
    prepare(open_dataset({raw!r}), PLAN, "3d_fullres", Path({cache!r}))
except StorageError as error:
    sys.exit(error.code)
"""


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_disk_that_fills_up_on_the_way_leaves_no_part_of_a_file(blobs: Dataset, cache: Path, repository_root: Path) -> None:
    paths = [str(repository_root), str(repository_root / "tests"), str(Path(__file__).parent)]
    script = LIMITED.format(paths=paths, raw=str(blobs.root), cache=str(cache))
    stopped = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert stopped.stderr.strip() == "E_DISK_FULL"
    assert not list(cache.rglob("*.safetensors"))
    assert run(blobs, cache)[1] == 4


def test_a_second_process_waits_and_finds_all_done(blobs: Dataset, cache: Path) -> None:
    results: list[tuple[CaseStore, int]] = []
    waited = threading.Event()

    def progress(what: str, _: int, __: int) -> None:
        if what.startswith("waiting"):
            waited.set()

    def work() -> None:
        store = prepare(blobs, PLAN, "3d_fullres", cache, progress=progress)
        results.append((store, 0))

    with files.lock(cache / KEY):
        second = threading.Thread(target=work)
        second.start()
        assert waited.wait(10)
        assert not list(cache.rglob("*.safetensors"))
    second.join(20)
    assert len(results[0][0].ids) == 4


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from small_datasets import small_plan
from autoseg3d.io.dataset import open_dataset
from autoseg3d.preprocessing import prepare
plan = small_plan(spacing_mm=(2.0, 1.2, 1.3))
prepare(open_dataset({raw!r}), plan, "3d_fullres", Path({cache!r}), workers=int(sys.argv[1]))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_at_any_time_leaves_what_was_done(tmp_path: Path, cache: Path, repository_root: Path, workers: int) -> None:
    dataset = open_dataset(write_blobs(tmp_path / "raw", 40))
    paths = [str(repository_root), str(repository_root / "tests")]
    script = SCRIPT.format(paths=paths, raw=str(dataset.root), cache=str(cache))
    process = subprocess.Popen([sys.executable, "-c", script, str(workers)])
    while process.poll() is None and len(list(cache.rglob("c*.safetensors"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    before = changed_times(cache)
    whole = {name for name in before if not name.startswith(".tmp")}
    assert len(whole) >= 3
    store, done = run(dataset, cache)
    assert done == 40 - len(whole)
    after = changed_times(cache)
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert store.content_hash == run(dataset, tmp_path / "fresh")[0].content_hash
