"""The low-resolution stage: when it is worth it, and at what spacing."""

import pytest

from planners.cascade import low_resolution
from planners.spacing import Grid


def _grid(shape, spacing=(1.0, 1.0, 1.0)):
    voxels = shape[0] * shape[1] * shape[2]
    return Grid(spacing=spacing, median_shape=shape, cases=10, dataset_voxels=voxels * 10.0)


def test_none_where_a_patch_sees_a_quarter():
    found = low_resolution(_grid((128.0, 128.0, 128.0)), 128**3 // 4, lambda grid: pytest.fail("not to be planned"))
    assert found.grid is None
    assert "25%" in found.reason


def test_spacing_grows_by_three_percent_until_the_patch_sees_a_quarter():
    patch = 128**3
    found = low_resolution(_grid((512.0, 512.0, 512.0)), patch, lambda grid: patch)
    # 512³ / 4 / 128³ = 16 times fewer voxels: 1.03^(3 n) >= 16 from n = 32 on.
    assert found.grid is not None
    assert found.grid.spacing == pytest.approx((1.03**32,) * 3)
    assert found.grid.median_shape == (199.0, 199.0, 199.0)
    assert found.grid.dataset_voxels == pytest.approx(512**3 / 1.03**96 * 10)


def test_fine_axes_grow_alone_until_they_are_half_as_coarse():
    seen = []
    low_resolution(_grid((100.0, 1000.0, 1000.0), (4.0, 1.0, 1.0)), 10**6, lambda grid: seen.append(grid.spacing) or 10**6)
    assert seen[0] == pytest.approx((4.0, 1.03, 1.03))
    first_together = next(spacing for spacing in seen if spacing[0] > 4.0)
    assert first_together[1] == pytest.approx(1.03**25)  # 1.03^24 = 2.03 is the first not under half of 4, then all grow


def test_dropped_where_it_would_hardly_be_smaller():
    found = low_resolution(_grid((200.0, 200.0, 200.0)), 200**3 // 5, lambda grid: 200**3 // 5)
    assert found.grid is None
    assert "fewer voxels" in found.reason


def test_dropped_where_nothing_fits():
    assert low_resolution(_grid((500.0,) * 3), 1000, lambda grid: None).grid is None
