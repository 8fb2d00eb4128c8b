"""The nonzero region against numpy and scipy, and the rule for holes at the array's faces."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg3d.ops.cropping import _labelled_from_faces, _search_from_faces, fill_holes, nonzero_box, nonzero_mask


def test_box_encloses_exactly_the_nonzero_voxels_of_all_channels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        image = (rng.random((2, *rng.integers(1, 9, 3))) < rng.choice([0.01, 0.1, 0.6])).astype(np.float32)
        where = np.argwhere(image.any(axis=0))
        if len(where):
            start, shape = nonzero_box(image)
            assert start == tuple(where.min(axis=0))
            assert shape == tuple(where.max(axis=0) - where.min(axis=0) + 1)


def test_an_image_of_zeros_keeps_its_whole_array() -> None:
    assert nonzero_box(np.zeros((1, 3, 4, 5))) == ((0, 0, 0), (3, 4, 5))


def test_negative_values_count() -> None:
    image = np.zeros((1, 3, 4, 5))
    image[0, 1, 2, 3] = -1024
    assert nonzero_box(image) == ((1, 2, 3), (1, 1, 1))


@pytest.mark.parametrize("density", [0.2, 0.6, 0.8, 1.0])
def test_holes_are_filled_as_scipy_fills_them_and_never_enlarge_the_box(density: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        mask = rng.random(rng.integers(1, 12, 3)) < density
        assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
        image = mask[None].astype(np.float32)
        assert nonzero_box(nonzero_mask(image)[None]) == nonzero_box(image)


@pytest.mark.parametrize("density", [0.3, 0.7, 0.97])
def test_both_ways_to_what_is_outside_agree(density: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        empty = rng.random(rng.integers(1, 12, 3)) > density
        searched = _search_from_faces(empty, most=empty.size)
        assert searched is not None
        assert np.array_equal(searched, _labelled_from_faces(empty))
        assert (_search_from_faces(empty, most=0) is None) == bool(searched.any())


def test_outside_the_array_counts_as_background() -> None:
    shell = np.ones((5, 5, 5), dtype=bool)
    shell[2, 2, 2] = False
    assert fill_holes(shell).all()
    shell[3, 2, 2] = shell[4, 2, 2] = False  # the hole now reaches a face of the array
    assert np.array_equal(fill_holes(shell), shell)
    ring = np.ones((1, 5, 5), dtype=bool)
    ring[0, 2, 2] = False
    assert np.array_equal(fill_holes(ring), ring)  # a single slice has only faces


def test_cropping_first_gives_the_same_mask() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        image = np.zeros((1, 12, 12, 12), dtype=np.float32)
        image[0, 2:9, 1:12, 0:7] = rng.random((7, 11, 7)) < 0.8
        (z, y, x), (d, h, w) = nonzero_box(image)
        box = (slice(z, z + d), slice(y, y + h), slice(x, x + w))
        assert np.array_equal(nonzero_mask(image)[box], nonzero_mask(image[:, *box]))
