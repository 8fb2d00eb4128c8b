"""Rotations by the shape of the patch."""

import pytest

from planners.augmentation import augmentation


@pytest.mark.parametrize(
    ("patch", "slicewise", "flat", "degrees"),
    [
        ((128, 128, 128), False, False, (30.0, 30.0, 30.0)),
        ((64, 192, 128), False, False, (30.0, 30.0, 30.0)),
        ((60, 192, 128), False, True, (180.0, 0.0, 0.0)),
        ((1, 512, 512), True, True, (180.0, 0.0, 0.0)),
        ((1, 384, 256), True, True, (180.0, 0.0, 0.0)),
        ((1, 512, 320), True, True, (15.0, 0.0, 0.0)),
    ],
)
def test_rotation(patch, slicewise, flat, degrees):
    plan = augmentation(patch, slicewise=slicewise).value
    assert (plan.dummy_2d, plan.rotation_degrees) == (flat, degrees)
