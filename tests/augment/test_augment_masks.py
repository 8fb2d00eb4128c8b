"""One-hot masks as label maps and back."""

import pytest
import torch

from autoseg3d.augment.masks import join_masks, split_masks


def random_masks(count: int, *, overlapping: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    if overlapping:
        return (torch.rand((count, 5, 6, 7), generator=generator) < 0.3).float()
    owner = torch.randint(0, count + 1, (5, 6, 7), generator=generator)
    return torch.stack([(owner == i + 1).float() for i in range(count)])


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("count", [1, 2, 7, 20, 105])
def test_splitting_undoes_joining(count: int, overlapping: bool) -> None:
    masks = random_masks(count, overlapping=overlapping)
    codes, table = join_masks(masks)
    assert codes.shape == (1, 5, 6, 7)
    assert codes.dtype == torch.int16
    assert torch.equal(split_masks(codes, table), masks)


def test_exclusive_masks_join_to_their_numbers() -> None:
    codes, table = join_masks(torch.tensor([[[[0.0, 1, 0]]], [[[0.0, 0, 1]]]]))
    assert codes.tolist() == [[[[0, 1, 2]]]]
    assert table.tolist() == [[False, False], [True, False], [False, True]]


def test_no_masks_give_no_codes() -> None:
    codes, table = join_masks(torch.empty((0, 2, 3, 4)))
    assert codes.shape == (0, 2, 3, 4)
    assert len(table) == 0
