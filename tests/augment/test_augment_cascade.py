"""Faults in the previous stage's masks: exact morphology, exclusive masks, components, and their statistics."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg3d.augment.cascade import CascadeDrawn, Morphology, Removal, apply_cascade, dilate, draw_cascade, erode


def ball(radius: float) -> np.ndarray:
    reach = int(radius)
    z, y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    return z**2 + y**2 + x**2 <= radius**2


@pytest.fixture
def mask() -> torch.Tensor:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((14, 17, 20)), 1.5)
    return torch.from_numpy(noise > 0.08)


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.9, 4.2, 8.0])
def test_dilation_and_erosion_are_those_of_a_ball(mask: torch.Tensor, radius: float) -> None:
    np.testing.assert_array_equal(dilate(mask, radius), ndimage.binary_dilation(mask.numpy(), ball(radius)))
    np.testing.assert_array_equal(erode(mask, radius), ndimage.binary_erosion(mask.numpy(), ball(radius), border_value=1))


def test_single_slices_get_disks() -> None:
    point = torch.zeros((1, 9, 9), dtype=torch.bool)
    point[0, 4, 4] = True
    np.testing.assert_array_equal(dilate(point, 2.0)[0, 2:7, 2:7], ball(2.0)[2])


@pytest.mark.parametrize(("kind", "function"), [("close", ndimage.binary_closing), ("open", ndimage.binary_opening)])
def test_closing_and_opening_inside_the_patch(kind: str, function: object) -> None:
    inner = np.zeros((30, 30, 30), dtype=bool)
    inner[10:20, 10:20, 10:20] = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((10, 10, 10)), 1) > 0
    masks = torch.from_numpy(inner[None].astype(np.float32))
    apply_cascade(masks, CascadeDrawn(morphology=(Morphology(mask=0, kind=kind, radius=2.5),)))
    np.testing.assert_array_equal(masks[0].numpy() > 0, function(inner, ball(2.5)))


def test_won_voxels_leave_the_other_masks() -> None:
    masks = torch.zeros((2, 1, 1, 10))
    masks[0, 0, 0, :5] = 1
    masks[1, 0, 0, 5:] = 1
    apply_cascade(masks, CascadeDrawn(morphology=(Morphology(mask=0, kind="dilate", radius=2.0),)))
    assert masks[0].flatten().tolist() == [1.0] * 7 + [0.0] * 3
    assert masks[1].flatten().tolist() == [0.0] * 7 + [1.0] * 3


def test_empty_masks_are_left_alone() -> None:
    masks = torch.zeros((1, 4, 4, 4))
    removal = (Removal(mask=0, choice=0.5),)
    for kind in ("dilate", "erode", "close", "open"):
        apply_cascade(masks, CascadeDrawn(morphology=(Morphology(mask=0, kind=kind, radius=3.0),), removals=removal))
    assert not masks.any()


@pytest.mark.parametrize(("choice", "left"), [(0.0, [0, 1]), (0.99, [1, 0])])
def test_one_component_vanishes(choice: float, left: list[int]) -> None:
    masks = torch.zeros((1, 10, 10, 10))
    masks[0, 0, 0, 0] = masks[0, 1, 1, 1] = 1  # touch at a corner: one component
    masks[0, 8:, 8:, 8:] = 1
    apply_cascade(masks, CascadeDrawn(removals=(Removal(mask=0, choice=choice),)))
    assert [int(masks[0, 1, 1, 1]), int(masks[0, 9, 9, 9])] == left
    assert masks[0, 0, 0, 0] == masks[0, 1, 1, 1]


def test_large_components_stay() -> None:
    masks = torch.zeros((1, 10, 10, 10))
    masks[0, :2] = 1  # 20 % of the patch
    before = masks.clone()
    apply_cascade(masks, CascadeDrawn(removals=(Removal(mask=0, choice=0.0),)))
    assert torch.equal(masks, before)


def test_statistics_of_draws() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_cascade(rng, masks=3) for _ in range(5000)]
    # At least one of three masks, each with 0.5: 7/8 of the draws that happen.
    assert np.mean([bool(d.morphology) for d in drawn]) == pytest.approx(0.4 * 7 / 8, abs=0.03)
    assert np.mean([bool(d.removals) for d in drawn]) == pytest.approx(0.2 * 7 / 8, abs=0.03)
    operations = [o for d in drawn for o in d.morphology]
    radii = np.array([o.radius for o in operations])
    assert 1 <= radii.min() <= radii.max() <= 8
    assert radii.mean() == pytest.approx(4.5, abs=0.15)
    for kind in ("dilate", "erode", "close", "open"):
        assert np.mean([o.kind == kind for o in operations]) == pytest.approx(0.25, abs=0.03)
    first = [d.morphology[0].mask for d in drawn if len(d.morphology) == 3]
    assert all(np.mean([mask == m for mask in first]) == pytest.approx(1 / 3, abs=0.15) for m in range(3))


def test_record_goes_through_json() -> None:
    rng = np.random.default_rng(1)
    for drawn in (draw_cascade(rng, masks=2) for _ in range(30)):
        assert CascadeDrawn.model_validate_json(drawn.to_json()) == drawn
