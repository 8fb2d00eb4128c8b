"""One prepared case as one file: what goes in comes out, in few bytes, and damage is noticed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_datasets import LPS, blob_case, small_plan

from autoseg3d.case import Case
from autoseg3d.errors import ReadError
from autoseg3d.geometry import Geometry
from autoseg3d.preprocessing.case_file import open_case, read_record, widen, write_case
from autoseg3d.preprocessing.working_case import WorkingCase, preprocess

SOURCE = (("c_0000.nii.gz", 123, 456), ("c.nii.gz", 7, 8))


@pytest.fixture
def working() -> WorkingCase:
    image, labels = blob_case(np.random.default_rng(0))
    return preprocess(Case("c", image[None], Geometry.from_affine(labels.shape, LPS), labels), small_plan(), "3d_fullres")


@pytest.fixture
def path(tmp_path: Path, working: WorkingCase) -> Path:
    path = tmp_path / "c.safetensors"
    write_case(path, working, source=SOURCE)
    return path


def test_a_case_comes_back_to_the_precision_of_float16(path: Path, working: WorkingCase) -> None:
    record = read_record(path)
    assert (record.id, record.source, record.placement) == ("c", SOURCE, working.placement)
    opened = open_case(path, record.content)
    assert (opened.image.dtype, opened.labels.dtype) == (np.float16, np.int8)
    relative = np.abs(opened.image.astype(np.float64) - working.image) / np.maximum(np.abs(working.image), 6.2e-5)
    assert relative.max() <= 2**-11
    assert np.array_equal(opened.labels, working.labels)
    assert set(opened.locations) == {1, 2}
    for channel, voxels in working.locations.items():
        assert np.array_equal(opened.locations[channel], voxels)


def test_arrays_of_any_memory_order_are_stored_as_they_read(tmp_path: Path, working: WorkingCase) -> None:
    assert working.labels is not None
    locations = {key: np.asfortranarray(voxels) for key, voxels in working.locations.items()}
    fortran = replace(working, image=np.asfortranarray(working.image), labels=np.asfortranarray(working.labels), locations=locations)
    write_case(tmp_path / "x", fortran, source=SOURCE)
    opened = open_case(tmp_path / "x", read_record(tmp_path / "x").content)
    assert np.allclose(opened.image, working.image, rtol=2**-10, atol=1e-6)
    assert np.array_equal(opened.labels, working.labels)
    assert np.array_equal(opened.locations[1], working.locations[1])


def test_values_beyond_float16_keep_float32(tmp_path: Path, working: WorkingCase) -> None:
    large = replace(working, image=working.image * 1e5)
    write_case(tmp_path / "x", large, source=SOURCE)
    opened = open_case(tmp_path / "x", read_record(tmp_path / "x").content)
    assert opened.image.dtype == np.float32
    assert np.array_equal(opened.image, large.image)


def test_many_classes_keep_int16(tmp_path: Path, working: WorkingCase) -> None:
    assert working.labels is not None
    write_case(tmp_path / "x", replace(working, labels=working.labels * np.int16(100)), source=SOURCE)
    opened = open_case(tmp_path / "x", read_record(tmp_path / "x").content)
    assert opened.labels.max() == 200


def test_a_case_without_any_location(tmp_path: Path, working: WorkingCase) -> None:
    for locations in ({}, {1: np.empty((0, 3), dtype=np.int32), 2: np.empty((0, 3), dtype=np.int32)}):
        write_case(tmp_path / "x", replace(working, locations=locations), source=SOURCE)
        opened = open_case(tmp_path / "x", read_record(tmp_path / "x").content)
        assert {key: voxels.shape for key, voxels in opened.locations.items()} == dict.fromkeys(locations, (0, 3))


def test_the_content_hash_is_of_the_arrays_alone(tmp_path: Path, working: WorkingCase, path: Path) -> None:
    write_case(tmp_path / "x", working, source=())
    assert read_record(tmp_path / "x").content == read_record(path).content
    write_case(tmp_path / "x", replace(working, image=working.image + 1), source=SOURCE)
    assert read_record(tmp_path / "x").content != read_record(path).content


def test_arrays_cannot_be_written_to(path: Path) -> None:
    opened = open_case(path, read_record(path).content)
    with pytest.raises(ValueError, match="read-only"):
        opened.image[0, 0, 0, 0] = 1


def test_other_tools_can_read_the_file(path: Path, working: WorkingCase) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(path)
    assert np.array_equal(tensors["labels"], working.labels)
    assert tensors["image"].shape == working.image.shape


def test_widening_is_exact_for_every_finite_float16() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    out = np.full((2, len(every)), np.nan, dtype=np.float32)
    widen(every, out[1])
    assert np.array_equal(out[1], every.astype(np.float32))
    assert np.array_equal(np.signbit(out[1]), np.signbit(every))
    widen(every[::-3], out[0, : len(every[::-3])])
    assert np.array_equal(out[0, : len(every[::-3])], every[::-3].astype(np.float32))
    widen(np.array([1e30], dtype=np.float32), out[0, :1])
    assert out[0, 0] == np.float32(1e30)


def test_a_file_cut_anywhere_or_missing_is_refused_by_name(path: Path) -> None:
    whole, content = path.read_bytes(), read_record(path).content
    for cut in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ReadError, match="E_CACHE"):
            read_record(path)
    path.unlink()
    with pytest.raises(ReadError, match="missing"):
        open_case(path, content + "other")


def test_rubbish_is_refused(path: Path) -> None:
    for rubbish in (b"\xff" * 5000, (20).to_bytes(8, "little") + b'{"__metadata__":3}   ', (2).to_bytes(8, "little") + b"{}"):
        path.write_bytes(rubbish)
        with pytest.raises(ReadError, match="damaged"):
            read_record(path)


def test_a_file_that_was_replaced_is_not_taken_for_the_old_one(path: Path, working: WorkingCase) -> None:
    content = read_record(path).content
    open_case.cache_clear()
    write_case(path, replace(working, image=working.image * 2), source=SOURCE)
    with pytest.raises(ReadError, match="another case"):
        open_case(path, content)
