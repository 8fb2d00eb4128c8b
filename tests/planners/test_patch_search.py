"""The patch: where it starts and how memory cuts it."""

from itertools import pairwise

import numpy as np
import pytest

from planners.patch import full_volume, initial_patch, shrink
from planners.spacing import Grid
from planners.topology import plan_topology


def _grid(spacing, shape):
    return Grid(spacing=spacing, median_shape=shape, cases=10, dataset_voxels=1e9)


def test_the_start_is_cubic_in_millimetres():
    assert initial_patch(_grid((2.0, 1.0, 1.0), (1000.0,) * 3), full_volume(3)) == (161.0, 323.0, 323.0)
    assert initial_patch(_grid((1.0, 1.0), (5000.0,) * 2), full_volume(2)) == (2048.0, 2048.0)


def test_the_start_stays_within_the_median_shape():
    assert initial_patch(_grid((1.0, 1.0, 1.0), (36.0, 50.5, 300.0)), full_volume(3)) == (36.0, 50.5, 256.0)


def test_extreme_anisotropy_leaves_a_voxel():
    assert initial_patch(_grid((100.0, 0.01, 0.01), (50.0, 9000.0, 9000.0)), full_volume(3))[0] == 1.0


def test_volumes_and_slices_agree_at_an_edge_of_64():
    assert full_volume(3, 64) == full_volume(2, 64) == 2**18


def test_the_axis_that_covers_most_is_cut_first_and_of_equals_the_last():
    grid = _grid((1.0, 1.0, 1.0), (512.0, 256.0, 256.0))
    start = plan_topology(grid.spacing, (256, 256, 256))
    cuts = []
    shrink(start, grid, lambda topology: len(cuts) >= 3 or cuts.append(topology.patch) is not None)
    assert cuts == [(256, 256, 256), (256, 256, 224), (256, 224, 224)]


def test_it_stops_at_the_least_size():
    grid = _grid((1.0, 1.0, 1.0), (64.0, 64.0, 64.0))
    start = plan_topology(grid.spacing, (64, 64, 64))
    assert shrink(start, grid, lambda topology: False) is None
    found = shrink(start, grid, lambda topology: topology.voxels <= 40**3, least_voxels=30**3)
    assert found is not None
    assert 30**3 <= found.voxels <= 40**3
    assert shrink(start, grid, lambda topology: topology.voxels <= 20**3, least_voxels=30**3) is None


@pytest.mark.parametrize("seed", range(40))
def test_every_cut_is_smaller(seed):
    rng = np.random.default_rng(seed)
    spacing = tuple(float(v) for v in np.exp(rng.uniform(-4, 4, 3)))
    shape = tuple(float(v) for v in rng.integers(1, 300, 3))
    grid = _grid(spacing, shape)
    sizes = []

    def fits(topology):
        sizes.append(topology.voxels)
        return False

    assert shrink(plan_topology(spacing, initial_patch(grid, full_volume(3)), least_stages=2), grid, fits, least_stages=2) is None
    assert all(smaller < larger for larger, smaller in pairwise(sizes))
