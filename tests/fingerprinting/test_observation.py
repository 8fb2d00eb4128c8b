"""What one case tells, counted by hand."""

import numpy as np
import pytest

from autoseg3d.case import Case
from autoseg3d.fingerprinting.observation import observe
from autoseg3d.geometry import Geometry, turn
from planners.labels import LabelTable, label_table

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})


def make(image: np.ndarray, labels: np.ndarray, affine: np.ndarray | None = None) -> Case:
    matrix = np.diag([2.0, 1.0, 3.0, 1.0]) if affine is None else affine
    return Case("a", image.astype(np.float32), Geometry.from_affine(labels.shape, matrix), labels)


@pytest.fixture
def case() -> Case:
    image, labels = np.zeros((1, 4, 5, 10)), np.zeros((4, 5, 10), dtype=np.int16)
    image[0, 1:4, :, 2:8] = 7
    labels[2, 1:3, 3:7] = 1
    image[0, 2, 1:3, 3:7] = np.arange(8).reshape(2, 4) + 1
    labels[3, 4, 9] = labels[3, 4, 7] = 2  # voxel x=9 lies outside of the nonzero box
    return make(image, labels)


def test_sizes_and_places(case: Case) -> None:
    seen = observe(case, TABLE).case
    assert (seen.shape, seen.shape_after_crop) == ((4, 5, 10), (3, 5, 6))
    assert seen.relative_size_after_crop == pytest.approx(90 / 200)
    assert (seen.spacing_mm, seen.orientation) == ((3, 1, 2), "RAS")
    organ = seen.labels["organ"]
    assert (organ.voxels, organ.components, organ.touches_border) == (8, 1, False)
    assert organ.volume_ml == pytest.approx(8 * 6 / 1000)
    assert organ.centroid == pytest.approx((2.5 / 4, 2 / 5, 5 / 10))
    assert organ.quantiles == ((pytest.approx(1.35), pytest.approx(4.5), pytest.approx(7.65)),)
    lesion = seen.labels["lesion"]
    assert (lesion.voxels, lesion.components, lesion.touches_border) == (2, 2, True)


def test_intensities_are_those_of_labelled_voxels_inside_the_box(case: Case) -> None:
    (sketch,) = observe(case, TABLE).intensities
    assert sketch is not None
    assert sketch.voxels == 9  # eight of the organ, one of the two lesion voxels
    assert (sketch.min, sketch.max, sketch.mean) == (1, 8, pytest.approx((36 + 7) / 9))


def test_absent_labels_and_no_foreground(case: Case) -> None:
    assert case.labels is not None
    seen = observe(make(case.image, np.zeros_like(case.labels)), TABLE)
    assert seen.intensities == (None,)
    assert seen.case.labels["organ"].voxels == 0
    assert seen.case.labels["organ"].centroid is None
    assert seen.case.labels["organ"].quantiles == ()


def test_regions_are_the_union_of_their_values(case: Case) -> None:
    table = label_table({"background": 0, "whole": [1, 2], "lesion": [2]}, regions_class_order=[1, 2])
    seen = observe(case, table).case
    assert seen.labels["whole"].voxels == 10
    assert seen.labels["whole"].components == 3
    assert seen.labels["lesion"].voxels == 2


def test_the_ignore_label_counts_as_foreground_for_intensities_but_is_no_label() -> None:
    image, labels = np.full((1, 2, 2, 4), 3.0), np.zeros((2, 2, 4), dtype=np.int16)
    image[0, 0, 0] = (1, 2, 3, 4)
    labels[0, 0] = (1, 3, 3, 0)
    seen = observe(make(image, labels), label_table({"background": 0, "a": 1, "b": 2, "ignore": 3}))
    assert seen.intensities[0] is not None
    assert (seen.intensities[0].voxels, seen.intensities[0].max) == (3, 3)
    assert set(seen.case.labels) == {"a", "b"}


def test_unknown_values_are_named(case: Case) -> None:
    with pytest.raises(ValueError, match=r"\[2\]"):
        observe(case, LabelTable(labels=TABLE.labels[:1]))


def test_the_same_anatomy_has_the_same_centroid_however_it_is_stored(case: Case) -> None:
    assert case.labels is not None
    wanted = observe(case, TABLE).case.labels["organ"].centroid
    for axes, flips in (((0, 1, 2), (True, False, True)), ((2, 0, 1), (False, True, False)), ((1, 2, 0), (True, True, True))):
        turned = Case("a", turn(case.image, axes, flips), case.geometry.turned(axes, flips), turn(case.labels, axes, flips))
        assert observe(turned, TABLE).case.labels["organ"].centroid == pytest.approx(wanted)


def test_the_voxel_hash_sees_voxels_and_shape_only(case: Case) -> None:
    assert case.labels is not None
    first = observe(case, TABLE).voxel_hash
    assert observe(Case("b", case.image.copy(), case.geometry, np.zeros_like(case.labels)), TABLE).voxel_hash == first
    other = case.image.copy()
    other[0, 0, 0, 0] = 1e-6
    assert observe(Case("a", other, case.geometry, case.labels), TABLE).voxel_hash != first
    flat = make(case.image.reshape(1, 5, 4, 10), case.labels.reshape(5, 4, 10))
    assert observe(flat, TABLE).voxel_hash != first
