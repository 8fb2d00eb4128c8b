"""Interpolation in patient space: exact on linear fields, true to place, nearest for labels."""

import numpy as np
import pytest
from nifti_making import turned_affine
from scipy import ndimage

from autoseg3d.geometry import Geometry
from autoseg3d.io.grids import shear
from autoseg3d.io.regrid import is_sheared, resample, straight_grid


def _world(geometry: Geometry) -> np.ndarray:
    """(3, Z, Y, X) coordinates of every voxel centre."""
    z, y, x = np.indices(geometry.shape)
    return np.einsum("ij,jzyx->izyx", geometry.matrix[:3], np.stack([x, y, z, np.ones_like(x)]))


def test_a_linear_field_is_reproduced_exactly_inside() -> None:
    source = Geometry.from_affine((20, 24, 28), turned_affine((5.0, 8.0, -12.0), (1.0, 1.2, 2.0), (-10.0, -12.0, -20.0)))
    target = Geometry.from_affine((9, 10, 11), turned_affine((-3.0, 20.0, 100.0), (0.8, 0.7, 1.1), (4.0, 0.0, -6.0)))

    def field(geometry: Geometry) -> np.ndarray:
        return np.tensordot((3.0, -2.0, 0.5), _world(geometry), 1).astype(np.float32)

    result = resample(field(source), source, target, order=1, fill=-1e6)
    inside = result > -1e6
    assert inside.mean() > 0.5
    assert result.dtype == np.float32
    # borders are continued flat for half a voxel, so compare where the eight neighbours exist
    places = np.linalg.inv(source.matrix) @ np.concatenate([_world(target), np.ones((1, *target.shape))]).reshape(4, -1)
    deep = ((places[:3] >= 0) & (places[:3] <= np.array([[27], [23], [19]]))).all(axis=0).reshape(target.shape)
    assert np.allclose(result[deep], field(target)[deep], atol=1e-3)


def test_outside_begins_half_a_voxel_beyond_the_centres() -> None:
    source = Geometry.from_affine((2, 2, 2), np.eye(4))
    target = Geometry.from_affine((1, 1, 7), np.array([[0.3, 0, 0, -0.75], [0, 1, 0, 0], [0, 0, 1, 0]]))  # x = -0.75, -0.45, …, 1.05
    values = resample(np.full((2, 2, 2), 5, dtype=np.float32), source, target, order=1, fill=-9)
    assert values.ravel().tolist() == [-9, 5, 5, 5, 5, 5, 5]


def test_labels_take_the_nearest_voxel() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (6, 7, 8)).astype(np.int16)
    source = Geometry.from_affine(labels.shape, np.diag([1.0, 1.0, 2.0, 1.0]))
    assert np.array_equal(resample(labels, source, source, order=0, fill=0), labels)
    fine = Geometry.from_affine(
        (18, 21, 24), np.diag([1 / 3, 1 / 3, 2 / 3, 1.0]) + np.pad([[-1 / 3], [-1 / 3], [-2 / 3]], ((0, 1), (3, 0)))
    )
    result = resample(labels, source, fine, order=0, fill=0)
    assert result.dtype == np.int16
    assert np.array_equal(result, labels.repeat(3, 0).repeat(3, 1).repeat(3, 2))


def test_the_same_as_scipy_on_the_whole_volume() -> None:
    rng = np.random.default_rng(1)
    array = rng.normal(size=(10, 11, 12)).astype(np.float32)
    source = Geometry.from_affine(array.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
    target = Geometry.from_affine((5, 5, 5), turned_affine((4.0, 5.0, 6.0), (1.1, 0.9, 1.0), (3.0, 3.0, 3.0)))
    x, y, z = _world(target)
    assert np.allclose(resample(array, source, target, order=1, fill=0), ndimage.map_coordinates(array, [z, y, x], order=1), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lean", [(0.3, 0.0), (-0.2, 0.1)])
def test_a_straightened_grid_holds_the_sheared_one_and_keeps_its_planes(axis: int, lean: tuple[float, float]) -> None:
    affine = turned_affine((3.0, -4.0, 25.0), (0.8, 0.8, 2.5), (-20.0, 10.0, 5.0))
    first, second = (affine[:3, (axis + 1) % 3], affine[:3, (axis + 2) % 3])
    affine[:3, axis] += lean[0] * first * 2.5 + lean[1] * second * 2.5
    native = Geometry.from_affine((12, 14, 16), affine)
    assert is_sheared(native)
    grid = straight_grid(native)
    assert shear(grid.matrix) < 1e-9
    assert not is_sheared(grid)
    stored = 2 - axis
    assert grid.shape[stored] == native.shape[stored]
    assert all(grid.shape[a] >= native.shape[a] for a in range(3))
    places = (np.linalg.inv(grid.matrix) @ np.concatenate([_world(native), np.ones((1, *native.shape))]).reshape(4, -1))[:3]
    assert (places >= -0.01).all()
    assert (places <= np.array(grid.shape[::-1])[:, None] - 0.99).all()
    assert np.allclose(places[axis], np.rint(places[axis]), atol=1e-6)


def test_labels_survive_the_way_to_the_straight_grid_and_back() -> None:
    affine = np.diag([0.9, 0.9, 2.5, 1.0])
    affine[1, 2] = 0.7
    native = Geometry.from_affine((14, 40, 40), affine)
    z, y, x = np.indices(native.shape)
    labels = (((z - 7) / 5) ** 2 + ((y - 20) / 14) ** 2 + ((x - 20) / 12) ** 2 < 1).astype(np.int16)
    grid = straight_grid(native)
    straight = resample(labels, native, grid, order=0, fill=0)
    back = resample(straight, grid, native, order=0, fill=0)
    dice = 2 * (back & labels).sum() / (back.sum() + labels.sum())
    assert dice > 0.97
    for one, geometry in ((straight, grid), (back, native)):
        centre = _world(geometry)[:, one > 0].mean(axis=1)
        assert np.allclose(centre, _world(native)[:, labels > 0].mean(axis=1), atol=0.25)
