"""Areas of the surface pieces, checked with a ruler."""

import math

import numpy as np
import pytest

from autoseg3d.metrics.surfels import area_table, codes

UNIT = (1.0, 1.0, 1.0)


def code_of(*corners: tuple[int, int, int]) -> int:
    mask = np.zeros((2, 2, 2), dtype=bool)
    for corner in corners:
        mask[corner] = True
    return int(codes(mask)[0, 0, 0])


def test_the_code_counts_from_the_first_voxel_down() -> None:
    assert code_of((0, 0, 0)) == 128
    assert code_of((0, 0, 1)) == 64
    assert code_of((0, 1, 0)) == 32
    assert code_of((1, 0, 0)) == 8
    assert code_of((1, 1, 1)) == 1
    assert codes(np.ones((3, 4, 5), dtype=bool)).tolist() == np.full((2, 3, 4), 255).tolist()


def test_no_surface_inside_and_outside() -> None:
    table = area_table((1.0, 2.0, 3.0))
    assert table[0] == table[255] == 0
    assert (table[1:255] > 0).all()


def test_a_corner_is_a_triangle_through_three_midpoints() -> None:
    assert area_table(UNIT)[code_of((0, 0, 0))] == pytest.approx(math.sqrt(3) / 8)


def test_a_flat_wall_is_the_face_of_a_voxel() -> None:
    """Half the cube set along z: the surface is the y-x face; and so for the other axes."""
    table = area_table((2.0, 3.0, 5.0))
    assert table[code_of((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))] == pytest.approx(15)
    assert table[code_of((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1))] == pytest.approx(10)
    assert table[code_of((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0))] == pytest.approx(6)


def test_an_edge_is_a_slanted_rectangle() -> None:
    """Two corners along x: the cut runs through midpoints in y and z, √(0.5² + 1²) mm apart for spacings 1 and 2."""
    table = area_table((1.0, 2.0, 3.0))
    assert table[code_of((0, 0, 0), (0, 0, 1))] == pytest.approx(3 * math.hypot(0.5, 1.0))


def test_corners_that_only_touch_diagonally_are_cut_off_one_by_one() -> None:
    table = area_table(UNIT)
    single = table[code_of((0, 0, 0))]
    assert table[code_of((0, 0, 0), (0, 1, 1))] == pytest.approx(2 * single)
    assert table[code_of((0, 0, 0), (1, 1, 1))] == pytest.approx(2 * single)
    assert table[code_of((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))] == pytest.approx(4 * single)


def test_three_corners_around_one_are_folded_outwards() -> None:
    """An L of three: its five-cornered cut is folded into pieces of 1/2 and 3√3/8 together, more than any other cut."""
    area = area_table(UNIT)[code_of((0, 0, 0), (0, 0, 1), (0, 1, 0))]
    assert area == pytest.approx(0.5 + 3 * math.sqrt(3) / 8)


def test_swapping_inside_and_outside_changes_nothing() -> None:
    table = area_table((0.7, 1.3, 4.0))
    assert np.allclose(table, table[::-1])


def test_mirrored_and_turned_cubes_have_the_same_areas() -> None:
    table = area_table(UNIT)
    rng = np.random.default_rng(0)
    for _ in range(50):
        cube = rng.random((2, 2, 2)) < 0.5
        area = table[codes(cube)[0, 0, 0]]
        for turned in (cube[::-1], cube[:, ::-1], cube.transpose(2, 0, 1), cube.transpose(1, 0, 2)):
            assert table[codes(np.ascontiguousarray(turned))[0, 0, 0]] == pytest.approx(area)


def test_areas_grow_with_the_square_of_the_spacing() -> None:
    assert np.allclose(area_table((2.0, 4.0, 6.0)), 4 * area_table((1.0, 2.0, 3.0)))


def test_all_areas_equal_those_of_the_library() -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    for spacing in (UNIT, (1.0, 2.0, 3.7), (5.0, 0.5, 0.5)):
        theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
        assert np.abs(area_table(spacing) - theirs).max() < 1e-12
