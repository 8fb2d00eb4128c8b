"""Connected components: corners connect, ties stay."""

import numpy as np

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
