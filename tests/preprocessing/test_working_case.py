"""Preprocessing of one case: each step by hand, the laws of placement, and nnU-Net's outcome on real data."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from small_datasets import LPS, STATISTICS, blob_case, small_plan

from autoseg3d.case import Case
from autoseg3d.errors import DataError, LabelError
from autoseg3d.geometry import Geometry, turn
from autoseg3d.io.dataset import open_dataset
from autoseg3d.io.load import load_case
from autoseg3d.ops.resampling import resize_image, resize_labels
from autoseg3d.preprocessing import preprocess
from planners.labels import label_table

FLIPS = tuple(product((False, True), repeat=3))


def make(image: np.ndarray, labels: np.ndarray | None, affine: np.ndarray = LPS) -> Case:
    image = image if image.ndim == 4 else image[None]
    return Case("a", image.astype(np.float32), Geometry.from_affine(image.shape[1:], affine), labels)


@pytest.fixture
def case() -> Case:
    return make(*blob_case(np.random.default_rng(0)))


def test_at_the_planned_spacing_only_turn_crop_and_scale_remain(case: Case) -> None:
    working = preprocess(case, small_plan(), "3d_fullres")
    assert case.labels is not None
    crop = (slice(None), slice(1, 11), slice(1, 13))
    image = turn(case.image[0][crop], (0, 1, 2), (False, True, True)).astype(np.float64)
    assert working.image[0] == pytest.approx((image - image.mean()) / image.std(), abs=1e-5)
    assert working.labels is not None
    assert np.array_equal(working.labels, turn(case.labels[crop], (0, 1, 2), (False, True, True)))
    assert (working.image.dtype, working.labels.dtype) == (np.float32, np.int16)
    assert working.placement.working_shape == working.image.shape[1:] == (8, 10, 12)
    assert set(working.locations) == {1, 2}
    for channel, voxels in working.locations.items():
        assert (working.labels[tuple(voxels.T)] == channel).all()


def test_the_case_is_left_as_it_was(case: Case) -> None:
    before = case.image.copy(), case.labels.copy()  # type: ignore[union-attr]
    preprocess(case, small_plan(orientation="as-stored", use_mask_for_norm=(True,)), "3d_fullres")
    assert np.array_equal(case.image, before[0])
    assert np.array_equal(case.labels, before[1])


def test_resizing_comes_last_and_follows_the_anisotropy_rule(case: Case) -> None:
    plan = small_plan(orientation="as-stored", spacing_mm=(6.0, 1.0, 2.0), normalization=("none",))
    working = preprocess(case, plan, "3d_fullres")
    crop = case.image[:, :, 1:11, 1:13]
    assert working.image.shape == (1, 4, 15, 9)
    assert np.array_equal(working.image, resize_image(np.ascontiguousarray(crop), (4, 15, 9), separate=0))
    thick = make(case.image, case.labels, np.diag([1.0, 1.0, 4.0, 1.0]))  # the spacing as stored decides first
    plan = small_plan(orientation="as-stored", spacing_mm=(4.0, 1.0, 0.5), normalization=("none",))
    working = preprocess(thick, plan, "3d_fullres")
    assert np.array_equal(working.image, resize_image(np.ascontiguousarray(crop), (8, 10, 24), separate=0))
    assert working.labels is not None
    assert np.array_equal(working.labels, resize_labels(case.labels[:, 1:11, 1:13].astype(np.int16), (8, 10, 24), separate=0))  # type: ignore[index]


def test_network_axis_order_is_applied(case: Case) -> None:
    plain = preprocess(case, small_plan(), "3d_fullres")
    moved = preprocess(case, small_plan(axis_order=(2, 0, 1), spacing_mm=(1.5, 3.0, 1.5)), "3d_fullres")
    assert np.allclose(moved.image, plain.image.transpose(0, 3, 1, 2), atol=1e-6)
    assert moved.placement.spacing_mm == (1.5, 3.0, 1.5)


def test_slices_of_a_slicewise_configuration_are_not_resampled_across(case: Case) -> None:
    changes = {"slicewise": True, "patch_size": (1, 8, 8), "spacing_mm": (1.0, 0.75, 1.5)}
    working = preprocess(case, small_plan(**changes), "3d_fullres")
    assert working.image.shape == (1, 8, 20, 12)


def test_background_outside_of_the_mask_is_marked_and_holes_are_not() -> None:
    image, labels = np.zeros((1, 6, 6, 6)), np.zeros((6, 6, 6), dtype=np.int16)
    image[0, 1:5, 1:5, 1:5] = np.arange(64).reshape(4, 4, 4) + 1
    image[0, 2, 2, 2] = 0  # a hole
    image[0, 1, 1, 1] = image[0, 4, 4, 4] = 0  # corners of the box, open to the outside
    labels[4, 4, 4] = 1  # labelled although the image is zero there
    plan = small_plan(orientation="as-stored", spacing_mm=(1, 1, 1), normalization=("none",))
    working = preprocess(make(image, labels, np.eye(4)), plan, "3d_fullres")
    assert working.labels is not None
    assert np.argwhere(working.labels == -1).tolist() == [[0, 0, 0]]
    assert working.labels[3, 3, 3] == 1


def test_masked_normalisation_looks_inside_only_with_and_without_labels(case: Case) -> None:
    image = case.image.copy()
    image[0, :2, :6] = 0  # a corner of the crop that is outside
    plan = small_plan(orientation="as-stored", use_mask_for_norm=(True,))
    labelled = preprocess(make(image, case.labels), plan, "3d_fullres")
    inside = labelled.labels != -1  # type: ignore[union-attr]
    assert labelled.image[0][inside].mean() == pytest.approx(0, abs=1e-5)
    assert labelled.image[0][inside].std() == pytest.approx(1, abs=1e-5)
    assert (labelled.image[0][~inside] == 0).all()
    scan = preprocess(make(image, None), plan, "3d_fullres")
    assert scan.labels is None
    assert scan.locations == {}
    assert np.allclose(scan.image, labelled.image, atol=1e-6)


def test_label_values_become_indices_and_unknown_ones_are_refused(case: Case) -> None:
    assert case.labels is not None
    table = label_table({"background": 0, "organ": 4, "lesion": 9})
    values = np.array([0, 4, 9])[case.labels]
    working = preprocess(make(case.image, values), small_plan(labels=table), "3d_fullres")
    assert np.array_equal(working.labels, preprocess(case, small_plan(), "3d_fullres").labels)
    with pytest.raises(LabelError, match=r"\[9\]"):
        preprocess(make(case.image, values), small_plan(labels=label_table({"background": 0, "organ": 4, "b": 7})), "3d_fullres")


def test_a_scan_with_other_channels_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match="E_CHANNEL"):
        preprocess(make(np.concatenate([case.image, case.image]), None), small_plan(), "3d_fullres")


def test_an_empty_image_keeps_its_size() -> None:
    working = preprocess(make(np.zeros((4, 6, 5)), np.zeros((4, 6, 5), dtype=np.int16)), small_plan(), "3d_fullres")
    assert working.image.shape == (1, 4, 6, 5)
    assert (working.image == 0).all()
    assert (working.labels == -1).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_the_same_anatomy_gives_the_same_working_case_however_it_is_stored(case: Case, axes: tuple[int, int, int]) -> None:
    plan = small_plan(spacing_mm=(2.0, 1.0, 1.7))
    wanted = preprocess(case, plan, "3d_fullres")
    for flips in FLIPS:
        stored = Case("a", turn(case.image, axes, flips), case.geometry.turned(axes, flips), turn(case.labels, axes, flips))  # type: ignore[arg-type]
        found = preprocess(stored, plan, "3d_fullres")
        assert np.allclose(found.image, wanted.image, atol=1e-5)
        assert np.array_equal(found.labels, wanted.labels)
        back = found.placement.restore(np.ones(found.placement.cropped_shape))
        assert np.array_equal(back, (turn(case.image, axes, flips)[0] != 0).astype(float))


def test_intensities_of_the_plan_are_used_for_ct(case: Case) -> None:
    working = preprocess(case, small_plan(normalization=("ct",)), "3d_fullres")
    top = (STATISTICS.percentile_99_5 - STATISTICS.mean) / STATISTICS.std
    assert working.image.max() == pytest.approx(top)


def test_real_case_is_resampled_as_scikit_image_would(shared_data: Path) -> None:
    transform = pytest.importorskip("skimage.transform")
    dataset = open_dataset(shared_data / "ACDC_small")
    files = next(f for f in dataset.cases if f.id == "patient006_frame01")
    case = load_case(files, labels=dataset.labels).case
    plan = small_plan(labels=dataset.labels, orientation="as-stored", spacing_mm=(10.0, 1.5625, 1.5625), channel_names=("cineMRI",))
    working = preprocess(case, plan, "3d_fullres")
    (z, y, x), (d, h, w) = working.placement.crop_start, working.placement.cropped_shape
    crop = case.image[0, z : z + d, y : y + h, x : x + w].astype(np.float64)
    crop = (crop - crop.mean()) / crop.std()
    wanted = [transform.resize(s, working.image.shape[2:], 3, mode="edge", anti_aliasing=False) for s in crop]
    assert np.abs(working.image[0] - np.array(wanted)).max() < 1e-3
