"""Laws of the Placement: back on the scan's own grid, the same anatomy, nothing swapped."""

from itertools import permutations, product

import numpy as np
import pytest
from pydantic import ValidationError
from test_geometry import OBLIQUE, ORDERS, grid

from autoseg3d.case import Placement, place
from autoseg3d.geometry import turn

BOXES = {(6, 7, 9): ((1, 0, 2), (3, 7, 5)), (1, 5, 3): ((0, 0, 0), (1, 5, 3))}


class _Plan:
    """The two fields of a plan that decide how an array is turned."""

    def __init__(self, orientation: str, axis_order: tuple[int, int, int]) -> None:
        self.orientation, self.axis_order = orientation, axis_order


def _placements(order: tuple[int, ...], signs: tuple[int, ...], orientation: str) -> list[tuple[Placement, tuple[int, int, int]]]:
    found = []
    for angles, axis_order, whole in product(OBLIQUE[:3], permutations(range(3)), BOXES):
        plan = _Plan(orientation, axis_order)
        start, size = BOXES[whole]
        stored = _stored_shape(order, whole, axis_order, orientation)
        geometry = grid(order, signs, angles, stored)
        found.append((place(geometry, plan, (start, size), (4, 4, 4)), whole))  # type: ignore[arg-type]
    return found


def _stored_shape(
    order: tuple[int, ...], whole: tuple[int, int, int], axis_order: tuple[int, ...], orientation: str
) -> tuple[int, int, int]:
    """The (z, y, x) shape of the stored array that becomes `whole` after turning."""
    turned = [0, 0, 0]
    for network, axis in enumerate(axis_order):
        turned[axis] = whole[network]
    if orientation == "as-stored":
        return (turned[0], turned[1], turned[2])
    stored = [0, 0, 0]
    for voxel, world in enumerate(order):  # canonical arrays run z, y, x
        stored[2 - voxel] = turned[2 - world]
    return (stored[0], stored[1], stored[2])


@pytest.mark.parametrize("orientation", ["canonical", "as-stored"])
@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_restoring_a_crop_gives_the_scan_back(order: tuple[int, ...], signs: tuple[int, ...], orientation: str) -> None:
    rng = np.random.default_rng(0)
    for placement, whole in _placements(order, signs, orientation):
        array = rng.integers(1, 100, (2, *placement.native.shape))
        assert turn(array, placement.axes, placement.flips).shape[1:] == whole
        crop = placement.crop(array)
        assert crop.shape[1:] == placement.cropped_shape
        restored = placement.restore(crop, fill=-1)
        inside = restored != -1
        assert restored.shape == array.shape
        assert restored.flags.c_contiguous
        assert np.array_equal(restored[inside], array[inside])
        assert inside.sum() == crop.size
        assert np.array_equal(placement.crop(restored), crop)


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_the_same_anatomy_arrives_whatever_the_storage(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """A canonical plan sees one array for all 48 ways to store a scan, and voxels keep their place in the patient."""
    anatomy = np.random.default_rng(1).integers(0, 1000, (4, 5, 6))  # z up, y to the front, x to the right
    stored = np.transpose(anatomy, [2 - order[2 - axis] for axis in range(3)])
    stored = stored[tuple(slice(None, None, signs[2 - axis]) for axis in range(3))]
    geometry = grid(order, signs, (0.0, 0.0, 0.0), stored.shape)
    placement = place(geometry, _Plan("canonical", (0, 1, 2)), ((0, 0, 0), (4, 5, 6)), (4, 5, 6))  # type: ignore[arg-type]
    assert np.array_equal(placement.crop(stored), anatomy)
    assert np.array_equal(placement.restore(anatomy), stored)


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_indices_go_back_to_the_stored_array(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    for placement, whole in _placements(order, signs, "canonical")[:6]:
        array = np.arange(np.prod(placement.native.shape)).reshape(placement.native.shape)
        turned = turn(array, placement.axes, placement.flips)
        for index in product(*((0, n - 1) for n in whole)):
            assert array[placement.to_native_index(index)] == turned[index]


def test_spacing_follows_the_axes() -> None:
    geometry = grid((0, 1, 2), (1, 1, 1), (0.0, 0.0, 0.0), (4, 5, 6))
    placement = place(geometry, _Plan("as-stored", (1, 2, 0)), ((0, 0, 0), (5, 6, 4)), (5, 6, 4))  # type: ignore[arg-type]
    assert np.allclose(placement.spacing_mm, (0.9, 0.7, 2.5))


def test_left_and_right_are_never_swapped() -> None:
    """A label on the patient's right is on the right in every orientation, by the affine that is written with it."""
    for order, signs in ORDERS:
        geometry = grid(order, signs, (8.0, -14.0, 21.0), (8, 8, 8))
        placement = place(geometry, _Plan("canonical", (2, 0, 1)), ((0, 0, 0), (8, 8, 8)), (8, 8, 8))  # type: ignore[arg-type]
        labels = np.zeros((8, 8, 8), dtype=np.int16)
        labels[7, :, :] = 1  # axis 0 of this plan is canonical x: the right end
        z, y, x = np.argwhere(placement.restore(labels) == 1).mean(axis=0) - 3.5
        towards = geometry.matrix[:3, :3] @ (x, y, z)
        assert towards[0] > 0


def test_a_crop_outside_the_scan_is_refused() -> None:
    geometry = grid((0, 1, 2), (1, 1, 1), (0.0, 0.0, 0.0), (4, 5, 6))
    for start, size in (((1, 0, 0), (4, 5, 6)), ((-1, 0, 0), (2, 2, 2)), ((0, 0, 6), (1, 1, 1))):
        with pytest.raises(ValidationError, match="leaves the scan"):
            place(geometry, _Plan("as-stored", (0, 1, 2)), (start, size), (2, 2, 2))  # type: ignore[arg-type]
    placement = place(geometry, _Plan("as-stored", (0, 1, 2)), ((0, 0, 0), (4, 5, 6)), (2, 2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wanted an array of shape"):
        placement.restore(np.zeros((2, 2, 2)))
    assert Placement.model_validate_json(placement.to_json()) == placement
