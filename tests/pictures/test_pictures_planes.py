"""Planes: chosen well, upright whatever the file's orientation, to scale."""

from itertools import permutations, product

import numpy as np
import pytest

from autoseg3d.geometry import Geometry, turn
from autoseg3d.pictures import Picture, Plane, cut_planes

SHAPE = (6, 8, 10)
CANONICAL = Geometry.from_affine(SHAPE, np.array([[1.0, 0, 0, -5], [0, 2.0, 0, -8], [0, 0, 3.0, 20], [0, 0, 0, 1]]))


def marked() -> tuple[np.ndarray, np.ndarray]:
    """An image without any symmetry and a label high up, in front, on the patient's right (canonical axes)."""
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[4:6, 5:8, 7:10] = 2
    return image, labels


def same(one: Plane, other: Plane) -> bool:
    arrays = all(
        (a is None and b is None) or np.array_equal(a, b)
        for a, b in ((one.image, other.image), (one.labels, other.labels), (one.prediction, other.prediction))
    )
    facts = (one.name, one.letters, one.position, one.marks, one.window) == (
        other.name,
        other.letters,
        other.position,
        other.marks,
        other.window,
    )
    return arrays and facts and one.pixel_mm == pytest.approx(other.pixel_mm)


@pytest.mark.parametrize("convention", ["radiological", "neurological"])
def test_the_same_anatomy_gives_the_same_planes_in_all_48_orientations(convention: str) -> None:
    image, labels = marked()
    prediction = np.roll(labels, -1, axis=0)
    wanted = cut_planes(Picture(image, CANONICAL, labels, prediction), convention=convention)  # type: ignore[arg-type]
    for axes in permutations((0, 1, 2)):
        for flips in product((False, True), repeat=3):
            stored = [turn(array, axes, flips) for array in (image, labels, prediction)]  # type: ignore[arg-type]
            picture = Picture(stored[0], CANONICAL.turned(axes, flips), stored[1], stored[2])  # type: ignore[arg-type]
            planes = cut_planes(picture, convention=convention)  # type: ignore[arg-type]
            assert all(same(a, b) for a, b in zip(planes, wanted, strict=True))


def test_radiological_shows_the_right_on_the_left() -> None:
    image, labels = marked()
    axial, coronal, sagittal = cut_planes(Picture(image, CANONICAL, labels), zoom=False)
    assert axial.letters == ("R", "L", "A", "P")
    assert coronal.letters == ("R", "L", "S", "I")
    assert sagittal.letters == ("A", "P", "S", "I")
    for plane in (axial, coronal, sagittal):  # right, front and top: always in the upper left corner
        assert plane.labels is not None
        rows, columns = np.nonzero(plane.labels)
        assert rows.min() == 0
        assert columns.min() == 0


def test_neurological_shows_the_right_on_the_right() -> None:
    image, labels = marked()
    axial, coronal, sagittal = cut_planes(Picture(image, CANONICAL, labels), convention="neurological", zoom=False)
    assert (axial.letters, coronal.letters) == (("L", "R", "A", "P"), ("L", "R", "S", "I"))
    assert sagittal.letters == ("A", "P", "S", "I")
    for plane in (axial, coronal):
        assert plane.labels is not None
        assert np.nonzero(plane.labels)[1].max() == 9


def test_pixels_are_as_large_as_voxels() -> None:
    image, _ = marked()
    axial, coronal, sagittal = cut_planes(Picture(image, CANONICAL))
    assert (axial.pixel_mm, coronal.pixel_mm, sagittal.pixel_mm) == ((2.0, 1.0), (3.0, 1.0), (3.0, 2.0))
    assert (axial.image.shape, coronal.image.shape, sagittal.image.shape) == ((8, 10), (6, 10), (6, 8))


def test_planes_tell_where_they_lie() -> None:
    image, labels = marked()
    labels[:] = 0
    labels[2, 1, 3] = 1
    axial, coronal, sagittal = cut_planes(Picture(image, CANONICAL, labels), zoom=False)
    assert (axial.position, coronal.position, sagittal.position) == ("S 26 mm", "P 6 mm", "L 2 mm")
    assert axial.marks == (8 - 1 - 1, 10 - 1 - 3)
    assert axial.labels is not None
    assert axial.labels[axial.marks] == 1
    assert coronal.labels is not None
    assert coronal.labels[coronal.marks] == 1
    assert sagittal.labels is not None
    assert sagittal.labels[sagittal.marks] == 1


def test_the_largest_section_is_shown() -> None:
    labels = np.zeros((9, 9, 9), dtype=np.int16)
    labels[2, 4, 4], labels[6, 1:8, 1:8] = 1, 1
    axial, _, _ = cut_planes(Picture(np.zeros((9, 9, 9), np.float32), Geometry.from_affine((9, 9, 9), np.eye(4)), labels))
    assert axial.position == "S 6 mm"


def test_where_truth_and_prediction_differ_that_is_shown() -> None:
    """The dense error counts, not the larger number of scattered wrong voxels."""
    shape = (40, 40, 40)
    labels = np.zeros(shape, dtype=np.int16)
    labels[10:30, 10:30, 10:30] = 1
    prediction = labels.copy()
    prediction[10:16, 10:16, 24:30] = 0
    prediction[::6, ::6, 2] = 1
    planes = cut_planes(Picture(np.zeros(shape, np.float32), Geometry.from_affine(shape, np.eye(4)), labels, prediction))
    z, y, x = (int(plane.position.split()[1]) for plane in planes)
    assert 10 <= z < 16
    assert 10 <= y < 16
    assert 24 <= x < 30


def test_zoom_keeps_all_labels_and_a_margin() -> None:
    shape = (50, 60, 70)
    labels = np.zeros(shape, dtype=np.int16)
    labels[20:26, 30:42, 35:44] = 3
    picture = Picture(np.zeros(shape, np.float32), Geometry.from_affine(shape, np.eye(4)), labels)
    axial, coronal, _ = cut_planes(picture)
    assert axial.labels is not None
    assert (axial.labels > 0).sum() == 12 * 9
    assert axial.image.shape == (12 + 8, 9 + 8)
    assert coronal.image.shape == (6 + 8, 9 + 8)
    assert cut_planes(picture, zoom=False)[0].image.shape == (60, 70)


def test_the_window_spans_the_tissue_and_not_the_air() -> None:
    rng = np.random.default_rng(0)
    ct = np.full((20, 40, 40), -1000.0, dtype=np.float32)
    ct[:, 10:30, 10:30] = rng.normal(40, 30, size=(20, 20, 20))
    ct[:, 10, 10:14] = 2500
    low, high = cut_planes(Picture(ct, Geometry.from_affine(ct.shape, np.eye(4))))[0].window
    assert -200 < low < 0
    assert 80 < high < 500


def test_flat_and_empty_images_have_a_window_too() -> None:
    for value in (0.0, -7.0):
        low, high = cut_planes(Picture(np.full((3, 3, 3), value, np.float32), Geometry.from_affine((3, 3, 3), np.eye(4))))[0].window
        assert low < high


def test_maps_on_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Picture(np.zeros(SHAPE, np.float32), CANONICAL, np.zeros((1, 2, 3), np.int16))
