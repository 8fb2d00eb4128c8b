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
from typing import Any

import numpy as np
import pytest
from small_datasets import STATISTICS, blob_case, describe, small_plan, write_blobs, write_case
from threadpoolctl import threadpool_info

from autoseg3d import files, workers
from autoseg3d.errors import DatasetError, StorageError, UsageError
from autoseg3d.io.dataset import Dataset, open_dataset
from autoseg3d.preprocessing import CaseStore, cache_key, preparation, prepare
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


class Counted:
    """Starts worker processes and counts them."""

    def __init__(self) -> None:
        self.count, self._start = 0, workers.WorkerProcess

    def __call__(self, *arguments: Any) -> workers.WorkerProcess:
        self.count += 1
        return self._start(*arguments)


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


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


def test_several_processes_give_the_same_store(blobs: Dataset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = run(blobs, cache)
    for worth, children in ((preparation._VOXELS_WORTH_A_WORKER, 0), (1.0, 2)):
        monkeypatch.setattr(preparation, "_VOXELS_WORTH_A_WORKER", worth)
        started = Counted()
        monkeypatch.setattr(workers, "WorkerProcess", started)
        together, done = run(blobs, tmp_path / f"other{children}", workers=2)
        assert (done, started.count) == (4, children)
        assert together.content_hash == alone.content_hash


def test_little_work_is_done_by_one_thread(blobs: Dataset, cache: Path) -> None:
    seen: list[set[int]] = []
    before = blas_threads()
    prepare(blobs, PLAN, "3d_fullres", cache, workers=2, progress=lambda what, *_: seen.append(blas_threads()))
    assert seen
    assert all(threads == {1} for threads in seen)
    assert blas_threads() == before


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


@pytest.mark.parametrize("count", [1, 2])
def test_bad_cases_are_all_told_and_the_others_done(blobs: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(preparation, "_VOXELS_WORTH_A_WORKER", 1.0)
    for case in ("c01", "c03"):
        path = blobs.root / "imagesTr" / f"{case}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DatasetError) as caught:
        run(blobs, cache, workers=count)
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
from autoseg3d.preprocessing import preparation, prepare
preparation._VOXELS_WORTH_A_WORKER = 1.0
plan = small_plan(spacing_mm=(2.0, 1.2, float(sys.argv[2])))
prepare(open_dataset({raw!r}), plan, "3d_fullres", Path({cache!r}), workers=int(sys.argv[1]))
"""


def preparing(raw: Path, cache: Path, root: Path, *, count: int = 1, spacing: float = 1.3) -> subprocess.Popen[bytes]:
    """A process of its own that prepares the dataset in `raw`."""
    script = SCRIPT.format(paths=[str(root), str(root / "tests")], raw=str(raw), cache=str(cache))
    return subprocess.Popen([sys.executable, "-c", script, str(count), str(spacing)])


def kill_after(process: subprocess.Popen[bytes], cache: Path, cases: int) -> None:
    """Kills a process once so many cases lie in the cache."""
    while process.poll() is None and len(list(cache.rglob("c*.safetensors"))) < cases:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("count", [1, 2])
def test_a_kill_at_any_time_leaves_what_was_done(tmp_path: Path, cache: Path, repository_root: Path, count: int) -> None:
    dataset = open_dataset(write_blobs(tmp_path / "raw", 40))
    kill_after(preparing(dataset.root, cache, repository_root, count=count), cache, 3)
    time.sleep(0.3)
    before = changed_times(cache)
    whole = {name for name in before if not name.startswith(".tmp")}
    assert len(whole) >= 3
    store, done = run(dataset, cache)
    assert done == 40 - len(whole)
    after = changed_times(cache)
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert store.content_hash == run(dataset, tmp_path / "fresh")[0].content_hash


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_processes_at_work_in_one_cache_make_what_one_alone_makes(tmp_path: Path, cache: Path, repository_root: Path) -> None:
    """Two want the same cases, a third others; of the two, the one that came first is killed on the way."""
    dataset = open_dataset(write_blobs(tmp_path / "raw", 40))
    first = preparing(dataset.root, cache, repository_root)
    others = [preparing(dataset.root, cache, repository_root, count=2), preparing(dataset.root, cache, repository_root, spacing=1.4)]
    kill_after(first, cache / KEY, 3)
    assert [process.wait(60) for process in others] == [0, 0]
    assert sorted(path.name for path in (cache / KEY).iterdir()) == sorted(
        [".lock", "recipe.json", *(f"{case.id}.safetensors" for case in dataset.cases)]
    )
    for spacing in (1.3, 1.4):
        plan = small_plan(spacing_mm=(2.0, 1.2, spacing))
        store, done = run(dataset, cache, plan)
        assert done == 0
        assert store.content_hash == run(dataset, tmp_path / "alone", plan)[0].content_hash
