"""Parts of a batch: as few patches at once as give a processor enough to do, all at once elsewhere."""

import math

import pytest

from planners.contract import Triple
from planners.parts import PART_VOXELS, patches_at_once


@pytest.mark.parametrize(
    ("batch", "patch", "part"),
    [
        (4, (96, 96, 96), 2),
        (2, (80, 96, 128), 2),
        (4, (64, 80, 96), 2),
        (4, (56, 88, 56), 2),
        (5, (56, 88, 56), 3),
        (9, (40, 56, 40), 9),
        (2, (8, 8, 8), 2),
    ],
)
def test_large_patches_are_worked_on_a_few_at_a_time(batch: int, patch: Triple, part: int) -> None:
    assert patches_at_once(batch, patch, device="cpu", coupled=False) == part


@pytest.mark.parametrize("batch", range(1, 40))
@pytest.mark.parametrize("edge", [8, 40, 64, 96, 160])
def test_no_part_but_a_small_batch_has_too_little_to_do(batch: int, edge: int) -> None:
    part = patches_at_once(batch, (edge, edge, edge), device="cpu", coupled=False)
    parts = math.ceil(batch / part)
    assert 1 <= part <= batch
    assert part == batch or (part >= 2 and part * edge**3 >= PART_VOXELS)
    assert part - batch / parts < 1  # even, so that none needs much more memory than the others


@pytest.mark.parametrize(("device", "coupled"), [("cuda", False), ("mps", False), ("cpu", True)])
def test_the_batch_stays_whole_elsewhere_and_where_parts_cost_time(device: str, coupled: bool) -> None:
    assert patches_at_once(4, (96, 96, 96), device=device, coupled=coupled) == 4
