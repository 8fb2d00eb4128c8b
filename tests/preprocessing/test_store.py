"""Reading patches from prepared cases: padding, other processes, hashes."""

import hashlib
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from small_datasets import small_plan, write_blobs

from autoseg3d.errors import UsageError
from autoseg3d.io.dataset import open_dataset
from autoseg3d.io.load import load_case
from autoseg3d.preprocessing import CaseStore, prepare, preprocess
from autoseg3d.workers import map_cases

PLAN = small_plan(spacing_mm=(2.0, 1.2, 1.3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    root = tmp_path_factory.mktemp("store")
    return prepare(open_dataset(write_blobs(root / "raw", 3)), PLAN, "3d_fullres", root / "cache")


def digest(work: tuple[CaseStore, str]) -> str:
    store, case = work
    image, labels = store.read(case, (0, 0, 0), (5, 6, 7))
    return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()


def test_a_store_gives_what_preprocessing_gives(store: CaseStore) -> None:
    assert store.ids == ("c00", "c01", "c02")
    for case in store.ids:
        files = store.raw_files(case)
        assert files.id == case
        working = preprocess(load_case(files, labels=PLAN.labels).case, PLAN, "3d_fullres")
        stored = store.working_case(case)
        assert np.allclose(stored.image, working.image, rtol=2**-10, atol=1e-6)
        assert stored.image.dtype == np.float32
        assert np.array_equal(stored.labels, working.labels)
        assert stored.labels is not None
        assert stored.labels.dtype == np.int16
        assert stored.placement == store.placement(case) == working.placement
        assert store.shape(case) == working.image.shape[1:]
        for key, voxels in working.locations.items():
            assert np.array_equal(store.locations(case)[key], voxels)
            assert np.array_equal(stored.locations[key], voxels)


def test_patches_are_padded_outside_of_the_case(store: CaseStore) -> None:
    whole = store.working_case("c01")
    assert whole.labels is not None
    margin = 40
    image = np.pad(whole.image, [(0, 0)] + 3 * [(margin, margin)])
    labels = np.pad(whole.labels, margin, constant_values=-1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        start = tuple(int(v) for v in rng.integers(-20, 30, 3))
        shape = tuple(int(v) for v in rng.integers(1, 12, 3))
        box = tuple(slice(s + margin, s + margin + n) for s, n in zip(start, shape, strict=True))
        patch, target = store.read("c01", start, shape)  # type: ignore[arg-type]
        assert (patch.dtype, target.dtype) == (np.float32, np.int16)
        assert np.array_equal(patch, image[:, *box]), (start, shape)
        assert np.array_equal(target, labels[box])


def test_patches_far_outside_are_all_padding(store: CaseStore) -> None:
    for start in ((-50, 0, 0), (0, 900, 0), (0, 0, -7)):
        image, labels = store.read("c00", start, (4, 5, 6))
        assert not image.any()
        assert (labels == -1).all()


def test_patches_are_the_callers_to_change(store: CaseStore) -> None:
    first, _ = store.read("c00", (1, 1, 1), (2, 2, 2))
    first += 1
    again, _ = store.read("c00", (1, 1, 1), (2, 2, 2))
    assert np.array_equal(first - 1, again)


def test_a_store_works_in_other_processes(store: CaseStore) -> None:
    assert len(ForkingPickler.dumps(store)) < 10_000
    work = [(store, case) for case in store.ids]
    found = {outcome.index: outcome.result() for outcome in map_cases(digest, work, workers=2, what="")}
    assert found == {i: digest(one) for i, one in enumerate(work)}


def test_the_content_hash_is_the_same_for_the_same_data_elsewhere(store: CaseStore, tmp_path: Path) -> None:
    again = prepare(open_dataset(write_blobs(tmp_path / "copy", 3)), PLAN, "3d_fullres", tmp_path / "cache")
    assert again.content_hash == store.content_hash
    other = prepare(open_dataset(write_blobs(tmp_path / "other", 3, seed=1)), PLAN, "3d_fullres", tmp_path / "cache")
    assert other.content_hash != store.content_hash


def test_unknown_cases_are_refused(store: CaseStore) -> None:
    for ask in (store.shape, store.locations, store.placement, store.raw_files):
        with pytest.raises(UsageError, match="c99"):
            ask("c99")
