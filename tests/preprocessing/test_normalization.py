"""Normalisation schemes by hand and against plain numpy."""

import numpy as np
import pytest
from small_datasets import STATISTICS, small_plan

from autoseg3d.errors import DataError
from autoseg3d.preprocessing.normalization import normalize
from planners.plan import Configuration


def configured(*schemes: str, masked: bool = False) -> Configuration:
    names = tuple(f"m{i}" for i in range(len(schemes)))
    plan = small_plan(channel_names=names, normalization=schemes, use_mask_for_norm=(masked,) * len(schemes))
    return plan.configurations["3d_fullres"]


def normalized(image: np.ndarray, *schemes: str, inside: np.ndarray | None = None) -> np.ndarray:
    image = np.array(image, dtype=np.float32)
    normalize(image, configured(*schemes, masked=inside is not None), (STATISTICS,) * len(schemes), inside=inside)
    return image


def test_ct_clips_to_the_percentiles_and_scales_by_the_training_set() -> None:
    image = np.array([-1000, 0, 10, 14, 30, 3000]).reshape(1, 1, 1, 6)
    assert normalized(image, "ct").ravel() == pytest.approx([-2.5, -2.5, 0, 1, 5, 5])


def test_zscore_uses_the_whole_crop() -> None:
    image = np.random.default_rng(0).normal(500, 30, (1, 5, 6, 7)).astype(np.float32)
    wanted = (image.astype(np.float64) - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    assert normalized(image, "zscore") == pytest.approx(wanted, abs=1e-5)


def test_zscore_stays_exact_far_from_zero_and_finite_where_nothing_varies() -> None:
    image = (1e6 + np.random.default_rng(1).normal(0, 10, (1, 8, 9, 10))).astype(np.float32)
    found = normalized(image, "zscore")
    assert found.mean(dtype=np.float64) == pytest.approx(0, abs=1e-4)
    assert found.std(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    assert (normalized(np.full((1, 2, 2, 2), 7.0), "zscore") == 0).all()


def test_zscore_inside_a_mask_leaves_the_rest_at_zero() -> None:
    image = np.zeros((1, 1, 2, 3))
    image[0, 0, 0] = (4, 6, 8)
    inside = image[0] > 0
    inside[0, 1, 0] = True  # a labelled voxel counts even where the image is 0
    values = np.array([4, 6, 8, 0])
    scaled = (values - values.mean()) / values.std()
    assert normalized(image, "zscore", inside=inside).ravel() == pytest.approx([*scaled[:3], scaled[3], 0, 0])


def test_masks_concern_zscore_only() -> None:
    image = np.array([0, 10, 14]).reshape(1, 1, 1, 3)
    assert normalized(image, "ct", inside=image[0] > 0).ravel() == pytest.approx([-2.5, 0, 1])


def test_rescaling_to_one() -> None:
    assert normalized(np.array([-2, 0, 6]).reshape(1, 1, 1, 3), "rescale_to_0_1").ravel() == pytest.approx([0, 0.25, 1])
    assert normalized(np.array([0, 51, 255]).reshape(1, 1, 1, 3), "rgb_to_0_1").ravel() == pytest.approx([0, 0.2, 1])
    with pytest.raises(DataError, match="-1 to 3"):
        normalized(np.array([-1, 3]).reshape(1, 1, 1, 2), "rgb_to_0_1")


def test_channels_are_treated_each_by_its_own_scheme() -> None:
    image = np.stack([np.array([[[0.0, 10.0, 14.0]]]), np.array([[[1.0, 2.0, 5.0]]])])
    found = normalized(image, "ct", "none")
    assert found[0].ravel() == pytest.approx([-2.5, 0, 1])
    assert found[1].ravel().tolist() == [1, 2, 5]
