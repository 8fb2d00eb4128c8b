"""Where patches lie: nnU-Net's own crop sizes and bounds, foreground classes and voxels uniform."""

import numpy as np
import pytest

from autoseg3d.patches.positions import draw_centre, draw_start, first_forced, loader_crop_shape, start_bounds
from planners.contract import Triple
from planners.plan import AugmentationPlan

# What nnU-Net 2.8.1 answers (get_patch_size with a scale range from 0.85), axis 0 of flat patches left as it is.
CROPS = [
    ((128, 128, 128), 30, False, (205, 205, 205)),
    ((40, 56, 40), 30, False, (73, 80, 64)),
    ((96, 160, 160), 30, False, (191, 257, 219)),
    ((14, 40, 42), 30, False, (37, 65, 51)),
    ((48, 112, 160), 30, False, (114, 208, 191)),
    ((20, 320, 256), 180, True, (20, 376, 376)),
    ((10, 256, 224), 180, True, (10, 301, 301)),
    ((1, 64, 64), 180, True, (1, 75, 75)),
]
SLICE_CROPS = [((1, 56, 40), 180, (1, 65, 65)), ((1, 320, 192), 15, (1, 422, 225)), ((1, 512, 512), 180, (1, 602, 602))]


@pytest.mark.parametrize(("patch", "degrees", "flat", "crop"), CROPS)
def test_crops_are_nnunets(patch: Triple, degrees: float, flat: bool, crop: Triple) -> None:
    rotation = (degrees, 0.0, 0.0) if flat else (degrees,) * 3
    plan = AugmentationPlan(dummy_2d=flat, rotation_degrees=rotation)
    assert loader_crop_shape(patch, plan, slicewise=False) == crop


@pytest.mark.parametrize(("patch", "degrees", "crop"), SLICE_CROPS)
def test_crops_of_slices_are_nnunets(patch: Triple, degrees: float, crop: Triple) -> None:
    plan = AugmentationPlan(dummy_2d=True, rotation_degrees=(degrees, 0, 0))
    assert loader_crop_shape(patch, plan, slicewise=True) == crop


@pytest.mark.parametrize(("size", "first"), [(1, 1), (2, 1), (3, 2), (4, 3), (7, 5), (9, 6), (12, 8), (366, 245)])
def test_share_of_forced_samples(size: int, first: int) -> None:
    assert first_forced(size, 0.33) == first


def nnunet_bounds(n: int, patch: int, crop: int) -> tuple[int, int]:
    """Bounds of nnU-Net's crop by its own rule, turned into bounds of the patch in the crop's middle."""
    pad = crop - patch
    if pad + n < crop:
        pad = crop - n
    low, high = -pad // 2, n + pad // 2 + pad % 2 - crop
    return low + crop // 2 - patch // 2, high + crop // 2 - patch // 2


def test_bounds_are_nnunets_for_all_small_sizes() -> None:
    for n in range(1, 14):
        for patch in range(1, 12):
            for crop in range(patch, 20):
                (bounds,) = start_bounds((n,), (patch,), (crop,))  # type: ignore[arg-type]
                assert bounds == nnunet_bounds(n, patch, crop)
                assert bounds[0] <= bounds[1]
                if n >= patch:  # a random patch never misses a voxel, and hardly leaves the case
                    assert bounds[0] <= 0
                    assert bounds[1] >= n - patch
                    assert bounds[0] >= -1
                    assert bounds[1] <= n - patch + 1


def test_validation_crops_stay_inside_or_are_padded_evenly() -> None:
    assert start_bounds((10, 4, 5), (4, 10, 10), (4, 10, 10)) == ((0, 6), (-3, -3), (-3, -2))


def test_random_starts_cover_the_bounds_uniformly() -> None:
    rng = np.random.default_rng(0)
    bounds = ((-2, 1), (0, 0), (3, 7))
    starts = np.array([draw_start(rng, bounds, centre=None, patch=(4, 4, 4)) for _ in range(4000)])
    for axis, (low, high) in enumerate(bounds):
        values, counts = np.unique(starts[:, axis], return_counts=True)
        assert values.tolist() == list(range(low, high + 1))
        np.testing.assert_allclose(counts / 4000, 1 / len(values), atol=0.03)


def test_centred_patches_are_clamped_at_the_low_side_only() -> None:
    rng = np.random.default_rng(0)
    bounds = start_bounds((20, 20, 20), (8, 8, 8), (8, 8, 8))
    assert bounds == ((0, 12),) * 3
    assert draw_start(rng, bounds, centre=np.array([10, 1, 19]), patch=(8, 8, 8)) == (6, 0, 15)


def voxels(n: int, offset: int) -> np.ndarray:
    return np.stack([np.arange(n) + offset] * 3, axis=1).astype(np.int32)


def test_forced_samples_choose_class_then_voxel_uniformly() -> None:
    rng = np.random.default_rng(0)
    locations = {1: voxels(2, 0), 2: voxels(50, 100), 3: np.empty((0, 3), dtype=np.int32), -1: voxels(1000, 500)}
    drawn = np.array([draw_centre(rng, locations, forced=True, has_ignore=True)[0] for _ in range(4000)])
    assert set(drawn[drawn < 100]) == {0, 1}
    assert np.mean(drawn < 100) == pytest.approx(0.5, abs=0.03)  # classes, not voxels, are uniform
    assert np.mean(drawn == 0) == pytest.approx(0.25, abs=0.03)
    assert set(drawn[drawn >= 100]) == set(range(100, 150))


def test_first_region_is_a_class_too() -> None:
    rng = np.random.default_rng(0)
    assert draw_centre(rng, {0: voxels(1, 4), 1: voxels(0, 0)}, forced=True, has_ignore=False).tolist() == [4, 4, 4]


def test_annotated_voxels_serve_where_there_is_no_class() -> None:
    rng = np.random.default_rng(0)
    only_annotated = {1: voxels(0, 0), -1: voxels(1, 9)}
    assert draw_centre(rng, only_annotated, forced=True, has_ignore=True).tolist() == [9, 9, 9]
    assert draw_centre(rng, {1: voxels(3, 0), -1: voxels(1, 9)}, forced=False, has_ignore=True).tolist() == [9, 9, 9]


def test_without_anything_to_show_a_sample_lies_anywhere() -> None:
    rng = np.random.default_rng(0)
    assert draw_centre(rng, {1: voxels(0, 0)}, forced=True, has_ignore=False) is None
    assert draw_centre(rng, {1: voxels(0, 0), -1: voxels(0, 0)}, forced=False, has_ignore=True) is None
    assert draw_centre(rng, {1: voxels(5, 0)}, forced=False, has_ignore=False) is None
