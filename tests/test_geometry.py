"""Laws of the voxel grid over all 48 signed axis orders, oblique affines and odd sizes."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from pydantic import ValidationError

from autoseg3d.geometry import Geometry, turn, turn_back

ORDERS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
SHAPES = [(3, 5, 7), (1, 4, 9), (8, 2, 1), (1, 1, 1)]
OBLIQUE = [(0.0, 0.0, 0.0), (8.0, -14.0, 21.0), (30.0, 5.0, -25.0), (0.0, 0.0, 44.0), (1e-3, -1e-3, 2e-3)]


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    a, b, c = np.deg2rad(angles)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def grid(order: tuple[int, ...], signs: tuple[int, ...], angles: tuple[float, float, float], shape: tuple[int, int, int]) -> Geometry:
    """A grid whose x, y, z indices run along the world axes `order` with `signs`, then turned by `angles`."""
    affine = np.eye(4)
    for voxel, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, voxel] = rotation(angles)[:, world] * sign * (0.7, 0.9, 2.5)[voxel]
    affine[:3, 3] = (-31.0, 47.0, 11.0)
    return Geometry.from_affine(shape, affine)


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_turning_to_canonical_and_back(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    for angles, shape in product(OBLIQUE, SHAPES):
        geometry = grid(order, signs, angles, shape)
        axes, flips = geometry.to_canonical()
        array = np.arange(math.prod(shape)).reshape(shape)
        turned = turn(array, axes, flips)
        there = geometry.turned(axes, flips)
        assert there.shape == turned.shape
        assert np.array_equal(turn_back(turned, axes, flips), array)
        assert np.shares_memory(turned, array)
        assert there.orientation == "RAS"
        assert there.to_canonical() == ((0, 1, 2), (False, False, False))
        for index in product(*((0, n // 2, n - 1) for n in there.shape)):
            stored = np.unravel_index(int(turned[index]), shape)
            here = geometry.matrix @ (*stored[::-1], 1)
            assert np.allclose(there.matrix @ (*index[::-1], 1), here, atol=1e-9)


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_orientation_letters_name_the_directions(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    letters = "".join(("LR", "PA", "IS")[world][sign > 0] for world, sign in zip(order, signs, strict=True))
    for angles in OBLIQUE[:3]:
        geometry = grid(order, signs, angles, (3, 4, 5))
        assert geometry.orientation == letters
        assert np.allclose(geometry.spacing_mm, (2.5, 0.9, 0.7))
        assert math.isclose(geometry.voxel_volume_ml, 2.5 * 0.9 * 0.7 / 1000)


def test_leading_axes_are_left_alone() -> None:
    array = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    turned = turn(array, (2, 0, 1), (True, False, True))
    assert turned.shape == (2, 3, 6, 4, 5)
    assert np.array_equal(turned[1, 2], turn(array[1, 2], (2, 0, 1), (True, False, True)))
    assert np.array_equal(turn_back(turned, (2, 0, 1), (True, False, True)), array)


def test_no_two_axes_share_a_world_axis_on_a_strongly_oblique_grid() -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.2, 5, 3)
        axes, _ = Geometry.from_affine((3, 4, 5), affine).to_canonical()
        assert sorted(axes) == [0, 1, 2]


def test_obliquity() -> None:
    assert grid((0, 1, 2), (1, -1, 1), (0, 0, 0), (2, 2, 2)).obliquity_degrees() == 0
    assert math.isclose(grid((2, 0, 1), (1, -1, 1), (0, 0, 12.5), (2, 2, 2)).obliquity_degrees(), 12.5)


def test_corner_distance_is_in_voxels_of_the_finest_axis() -> None:
    here = Geometry.from_affine((5, 4, 3), np.diag([0.5, 1.0, 2.0, 1.0]))
    shifted = np.diag([0.5, 1.0, 2.0, 1.0])
    shifted[2, 3] = 0.04
    assert math.isclose(here.corner_distance_voxels(Geometry.from_affine((5, 4, 3), shifted)), 0.08)
    assert here.same_grid(Geometry.from_affine((5, 4, 3), shifted))
    stretched = Geometry.from_affine((5, 4, 3), np.diag([0.5, 1.0, 2.1, 1.0]))
    assert math.isclose(here.corner_distance_voxels(stretched), 0.8)
    assert not here.same_grid(stretched)
    assert not here.same_grid(Geometry.from_affine((5, 4, 4), here.matrix))


def test_the_way_from_one_order_of_the_same_voxels_to_another_is_found() -> None:
    here = grid((0, 1, 2), (1, 1, 1), (8.0, -14.0, 21.0), (3, 5, 7))
    for axes in permutations((0, 1, 2)):
        for flips in product((False, True), repeat=3):
            there = here.turned(axes, flips)
            found = there.turn_to(here)
            assert found is not None
            assert there.turned(*found).same_grid(here)
    mirrored = np.diag([-1.0, 1, 1, 1]) @ here.matrix
    assert Geometry.from_affine(here.shape, mirrored).turn_to(here) is None
    assert Geometry.from_affine((3, 5, 6), here.matrix).turn_to(here) is None


def test_volume_of_a_sheared_voxel() -> None:
    sheared = np.diag([1.0, 1.0, 3.0, 1.0])
    sheared[1, 2] = 2.0
    assert math.isclose(Geometry.from_affine((2, 2, 2), sheared).voxel_volume_ml, 0.003)


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 0, 1, 1]),
        np.diag([1.0, np.nan, 1, 1]),
        np.diag([np.inf, 1, 1, 1]),
        np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]),
    ],
)
def test_impossible_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(ValidationError):
        Geometry.from_affine((2, 2, 2), affine)


def test_sizes_are_positive_and_json_keeps_every_bit() -> None:
    with pytest.raises(ValidationError):
        Geometry.from_affine((2, 0, 2), np.eye(4))
    geometry = grid((2, 0, 1), (1, -1, -1), (8.0, -14.0, 21.0), (3, 5, 7))
    assert Geometry.model_validate_json(geometry.to_json()) == geometry
