"""Connected components: corners connect, ties stay; boxes around values."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg3d.ops import components
from autoseg3d.ops.components import count_components, label_components, largest_component


def test_voxels_that_touch_at_a_corner_are_one_part() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    assert count_components(mask) == 0
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert count_components(mask) == 1
    mask[3, 3, 3] = True
    assert count_components(mask) == 2


def test_largest_part_stays_and_equally_large_ones_all_do() -> None:
    mask = np.zeros((1, 3, 9), dtype=bool)
    mask[0, 0, 0:2] = mask[0, 0, 4] = True
    assert np.argwhere(largest_component(mask)).tolist() == [[0, 0, 0], [0, 0, 1]]
    mask[0, 0, 5] = True
    assert np.array_equal(largest_component(mask), mask)
    assert not largest_component(np.zeros((2, 2, 2), dtype=bool)).any()


def test_parts_are_numbered_from_one() -> None:
    mask = np.zeros((1, 1, 5), dtype=bool)
    mask[0, 0, [0, 2, 4]] = True
    parts, count = label_components(mask)
    assert count == 3
    assert parts[0, 0].tolist() == [1, 0, 2, 0, 3]


@pytest.mark.parametrize("slab", [30, 2**23])
def test_boxes_are_those_of_scipy(monkeypatch: pytest.MonkeyPatch, slab: int) -> None:
    monkeypatch.setattr(components, "_SLAB_VOXELS", slab)
    rng = np.random.default_rng(slab)
    for trial in range(60):
        shape = tuple(int(n) for n in rng.integers(1, 9, 3))
        kind, low = ((np.int16, -1), (np.uint8, 0), (np.int32, -5))[trial % 3]
        label_map = (rng.integers(low, 6, shape) * (rng.random(shape) < rng.choice([0.05, 0.5, 1.0]))).astype(kind)
        wanted = {i: box for i, box in enumerate(ndimage.find_objects(np.maximum(label_map, 0).astype(int)), start=1) if box is not None}
        assert components.value_boxes(label_map) == wanted
        assert components.value_boxes(label_map[::-1, :, ::-1].transpose(2, 0, 1)).keys() == wanted.keys()
