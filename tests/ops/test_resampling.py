"""Resizing against scikit-image and batchgenerators, which nnU-Net uses, and against what can be counted by hand."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg3d.ops.resampling import nearest_index, operator, resampled_shape, resize_image, resize_labels, separate_axis


def shapes(rng: np.random.Generator, trial: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A random source and target shape: some doubled, some with an axis kept, some down to one voxel."""
    source = tuple(int(n) for n in rng.integers(1, 22, 3))
    target = [int(n) for n in rng.integers(1, 34, 3)]
    if trial % 3 == 0:
        target = [2 * n for n in source]
    if trial % 4 == 0:
        target[trial % 3] = source[trial % 3]
    return source, tuple(target)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (3, 1, 1), None),  # three times is not more than three times
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((1, 1, 5), (1, 1, 1), 2),
        ((1, 1, 1), (1, 4, 1), 1),  # only the target is anisotropic
        ((5, 1, 1), (1, 1, 9), 0),  # the current spacing is asked first
        ((0.24, 1.25, 1.25), (1, 1, 1), None),  # the coarsest axis is not unique
        ((0.24, 1.25, 1.25), (5, 1, 1), None),  # and then the target is not asked
    ],
)
def test_axis_that_is_resized_on_its_own(spacing: tuple[float, ...], target: tuple[float, ...], axis: int | None) -> None:
    assert separate_axis(spacing, target) == axis


def test_shape_rounds_half_to_even_and_never_to_nothing() -> None:
    assert resampled_shape((5, 7, 1), (0.5, 0.5, 0.1), (1.0, 1.0, 1.0)) == (2, 4, 1)
    assert resampled_shape((10, 20, 30), (3.0, 1.0, 0.8), (1.5, 2.0, 0.8)) == (20, 10, 30)


def test_nearest_index_counts_from_voxel_centres() -> None:
    assert nearest_index(4, 4).tolist() == [0, 1, 2, 3]
    assert nearest_index(2, 4).tolist() == [0, 0, 1, 1]
    assert nearest_index(4, 2).tolist() == [1, 3]  # centres lie between two voxels: the higher one
    assert nearest_index(3, 1).tolist() == [1]


def test_linear_operator_by_hand() -> None:
    assert operator(2, 4, 1).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert operator(4, 2, 1).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]


@pytest.mark.parametrize("order", [1, 3])
def test_operators_are_what_scipy_makes_of_the_identity(order: int) -> None:
    for source, target in ((1, 1), (1, 5), (2, 3), (7, 3), (12, 31), (100, 63), (63, 100), (5, 200), (200, 5), (10, 10)):
        wanted = ndimage.zoom(np.eye(source), (target / source, 1), order=order, mode="nearest", grid_mode=True)
        assert np.abs(operator(source, target, order) - wanted).max() < 1e-7, (source, target)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_operators_keep_constants_and_are_shared(order: int) -> None:
    for source, target in ((1, 5), (7, 3), (12, 31)):
        assert operator(source, target, order).sum(axis=1) == pytest.approx(np.ones(target), abs=1e-6)
        assert operator(source, target, order) is operator(source, target, order)
        assert not operator(source, target, order).flags.writeable


@pytest.mark.parametrize("order", [0, 1, 3])
def test_images_equal_scikit_image(order: int) -> None:
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(order)
    for trial in range(25):
        source, target = shapes(rng, trial)
        image = rng.normal(size=(2, *source)).astype(np.float32)
        wanted = [transform.resize(c.astype(float), target, order, mode="edge", anti_aliasing=False) for c in image]
        assert resize_image(image, target, order=order) == pytest.approx(np.array(wanted), abs=3e-6), (source, target)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_separate_axis_is_slices_by_scikit_image_then_nearest(axis: int) -> None:
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(axis)
    for trial in range(12):
        source, target = shapes(rng, trial)
        image = rng.normal(size=source).astype(np.float32)
        plane = tuple(n for a, n in enumerate(target) if a != axis)
        slices = [transform.resize(s.astype(float), plane, 3, mode="edge", anti_aliasing=False) for s in np.moveaxis(image, axis, 0)]
        wanted = np.moveaxis(np.array(slices)[nearest_index(source[axis], target[axis])], 0, axis)
        if source != target:
            assert resize_image(image[None], target, separate=axis)[0] == pytest.approx(wanted, abs=3e-6)


def test_an_image_of_the_right_shape_is_returned_untouched() -> None:
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    assert resize_image(image, (4, 5, 6)) is image
    labels = np.zeros((4, 5, 6), dtype=np.int16)
    assert resize_labels(labels, (4, 5, 6)) is labels


def test_cubic_overshoot_is_clipped_to_the_range_of_the_channel_or_the_slice() -> None:
    image = np.zeros((2, 8, 8, 8), dtype=np.float32)
    image[0, 4:], image[1, :, 4:] = 1, 10
    resized = resize_image(image, (13, 13, 13))
    assert [(c.min(), c.max()) for c in resized] == [(0, 1), (0, 10)]
    ramp = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) * np.ones((1, 1, 6, 6), dtype=np.float32)
    slicewise = resize_image(ramp + (np.arange(6) > 2), (4, 6, 11), separate=0)
    assert [(s.min(), s.max()) for s in slicewise[0]] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_slabs_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    image, labels = rng.normal(size=(1, 9, 10, 11)).astype(np.float32), rng.integers(-1, 3, (9, 10, 11)).astype(np.int16)
    whole = resize_image(image, (14, 8, 15)), resize_labels(labels, (14, 8, 15))
    monkeypatch.setattr("autoseg3d.ops.resampling._SLAB_BYTES", 1)
    monkeypatch.setattr("autoseg3d.ops.resampling._MIXED_CHUNK", 7)
    assert resize_image(image, (14, 8, 15)) == pytest.approx(whole[0], abs=1e-6)
    assert np.array_equal(resize_labels(labels, (14, 8, 15)), whole[1])


@pytest.mark.parametrize("separate", [None, 0, 1])
def test_torch_tensors_give_what_arrays_give(separate: int | None) -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(4).normal(size=(2, 6, 7, 8)).astype(np.float32)
    resized = resize_image(torch.from_numpy(image), (9, 5, 12), separate=separate)
    assert isinstance(resized, torch.Tensor)
    assert resized.numpy() == pytest.approx(resize_image(image, (9, 5, 12), separate=separate), abs=1e-5)


def test_labels_equal_batchgenerators_to_the_last_voxel() -> None:
    utils = pytest.importorskip("batchgenerators.augmentations.utils")
    if not hasattr(utils, "_resample_seg_by_argmax"):
        pytest.skip("this batchgenerators has the older rule of 0.5")
    rng = np.random.default_rng(5)
    for trial in range(40):
        source, target = shapes(rng, trial)
        labels = rng.integers(-1, 4, source).astype(np.int16)
        if trial % 2:
            labels = ndimage.zoom(labels, 3, order=0)
        wanted = utils.resize_segmentation(labels, target, 1) if labels.shape != target else labels
        assert np.array_equal(resize_labels(labels, target), wanted), (labels.shape, target)


def test_labels_across_a_separate_axis_are_slices_then_nearest() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, (5, 6, 7)).astype(np.int16)
    planes = np.stack([resize_labels(plane[None], (1, 9, 4))[0] for plane in labels])
    assert np.array_equal(resize_labels(labels, (8, 9, 4), separate=0), planes[nearest_index(5, 8)])


def test_exact_ties_go_to_the_nearest_voxel_if_it_is_tied_and_else_to_the_lowest_label() -> None:
    assert resize_labels(np.array([[[1, 2]]]), (1, 1, 1)).item() == 2  # 0.5 each; the nearest voxel is the higher one
    block = np.array([[[3, 1], [1, 1]], [[2, 2], [2, 3]]])
    assert resize_labels(block, (1, 1, 1)).item() == 1  # 1 and 2 score 0.375, the nearest voxel's 3 only 0.25


def test_a_thin_label_between_two_others_is_not_lost_to_their_mean() -> None:
    labels = np.array([[[0, 0, 2, 2]]], dtype=np.int16)
    assert set(np.unique(resize_labels(labels, (1, 1, 9)))) == {0, 2}
    assert resize_labels(labels.astype(np.int8), (1, 1, 9)).dtype == np.int8
