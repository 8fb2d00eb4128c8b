"""Surface distances: lengths that can be measured with a ruler, slow independent computations, the library where it is there."""

import math

import numpy as np
import pytest
from scipy import ndimage

from autoseg3d.metrics import assd, grow_box, hd95, nsd, surface_distances
from autoseg3d.metrics.surfels import area_table

UNIT = (1.0, 1.0, 1.0)


def cube(shape: tuple[int, int, int], start: tuple[int, int, int], size: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def blobs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A pair of random overlapping masks with a random spacing."""
    shape = tuple(int(n) for n in rng.integers(3, 20, size=3))
    grain = rng.uniform(0, 2)
    first, second = (ndimage.gaussian_filter(rng.normal(size=shape), grain) for _ in range(2))
    second = first + rng.uniform(0, 1) * second
    z, y, x = rng.uniform(0.3, 5, size=3)
    return first > np.quantile(first, 0.8), second > np.quantile(second, 0.8), (z, y, x)


def slow(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """The same by correlation with powers of two and full distance transforms, on the whole array."""
    kernel = 2.0 ** np.arange(7, -1, -1).reshape(2, 2, 2)
    found = []
    codes = [ndimage.correlate(np.pad(m, 1).astype(float), kernel, mode="constant").astype(int) for m in (prediction, reference)]
    maps = [ndimage.distance_transform_edt((c == 0) | (c == 255), sampling=spacing) for c in codes]
    for own, other in ((0, 1), (1, 0)):
        here = (codes[own] > 0) & (codes[own] < 255)
        found += [maps[other][here], area_table(spacing)[codes[own][here]]]
    return tuple(found)


def test_equal_masks_are_at_distance_zero() -> None:
    mask = cube((9, 9, 9), (2, 3, 4), (3, 3, 3))
    distances = surface_distances(mask, mask, spacing_mm=(2.0, 1.0, 0.5))
    assert hd95(distances) == assd(distances) == 0
    assert nsd(distances, 0.0) == 1


def test_a_shifted_plate_is_as_far_as_it_was_shifted() -> None:
    """Two large thin plates 4 voxels of 3 mm apart: all distances on the plates are 12 mm but for their seams."""
    below, above = cube((12, 40, 40), (3, 0, 0), (1, 40, 40)), cube((12, 40, 40), (7, 0, 0), (1, 40, 40))
    distances = surface_distances(above, below, spacing_mm=(3.0, 1.0, 1.0))
    assert hd95(distances) == pytest.approx(12)
    # The upper side of the lower plate is 3 voxels from the lower side of the upper plate.
    assert distances.prediction_mm.min() == pytest.approx(9)
    assert nsd(distances, 8.9) == 0
    assert nsd(distances, 12) == 1


def test_spacing_counts_by_axis() -> None:
    a, b = cube((20, 20, 20), (5, 5, 5), (4, 4, 4)), cube((20, 20, 20), (5, 5, 8), (4, 4, 4))
    along_x = surface_distances(a, b, spacing_mm=(1.0, 1.0, 2.0))
    along_z = surface_distances(a.transpose(2, 1, 0), b.transpose(2, 1, 0), spacing_mm=(2.0, 1.0, 1.0))
    assert hd95(along_x) == pytest.approx(6)
    assert hd95(along_z) == pytest.approx(6)
    assert assd(along_x) == pytest.approx(assd(along_z))


def test_areas_of_a_box_add_up_to_about_its_surface() -> None:
    """A box of 10×20×30 voxels of 2 mm: 4·2·(200+300+600) mm², its edges and corners cut off a little."""
    distances = surface_distances(*2 * (cube((14, 24, 34), (2, 2, 2), (10, 20, 30)),), spacing_mm=(2.0, 2.0, 2.0))
    assert distances.reference_mm2.sum() == pytest.approx(8800, rel=0.05)


def test_the_mask_has_a_surface_at_the_edge_of_the_array() -> None:
    full = np.ones((6, 6, 6), dtype=bool)
    inside = cube((6, 6, 6), (1, 1, 1), (4, 4, 4))
    assert hd95(surface_distances(inside, full, spacing_mm=UNIT)) >= 1


def test_the_tolerance_is_met_in_spite_of_rounding() -> None:
    """Three voxels of 0.1 mm are 0.30000000000000004 mm, and within 0.3 mm all the same."""
    a, b = cube((3, 3, 20), (1, 1, 5), (1, 1, 1)), cube((3, 3, 20), (1, 1, 8), (1, 1, 1))
    assert nsd(surface_distances(a, b, spacing_mm=(0.1, 0.1, 0.1)), 0.3) == 1


@pytest.mark.parametrize("seed", range(25))
def test_as_a_slow_computation_finds_it(seed: int) -> None:
    prediction, reference, spacing = blobs(np.random.default_rng(seed))
    ours = surface_distances(prediction, reference, spacing_mm=spacing)
    to_reference, area_p, to_prediction, area_r = slow(prediction, reference, spacing)
    assert np.allclose(ours.prediction_mm, np.sort(to_reference), atol=1e-9)
    assert np.allclose(ours.reference_mm, np.sort(to_prediction), atol=1e-9)
    mean = (to_reference @ area_p + to_prediction @ area_r) / (area_p.sum() + area_r.sum())
    assert assd(ours) == pytest.approx(mean, abs=1e-9)
    within = (area_p[to_reference <= 2].sum() + area_r[to_prediction <= 2].sum()) / (area_p.sum() + area_r.sum())
    assert nsd(ours, 2.0) == pytest.approx(within, abs=1e-9)


@pytest.mark.parametrize("seed", range(25))
def test_as_the_library_finds_it(seed: int) -> None:
    library = pytest.importorskip("surface_distance")
    prediction, reference, spacing = blobs(np.random.default_rng(seed))
    ours = surface_distances(prediction, reference, spacing_mm=spacing)
    theirs = library.compute_surface_distances(reference, prediction, spacing)
    assert hd95(ours) == pytest.approx(library.compute_robust_hausdorff(theirs, 95), abs=1e-6)
    assert nsd(ours, 1.7) == pytest.approx(library.compute_surface_dice_at_tolerance(theirs, 1.7), abs=1e-6)
    to_prediction, to_reference = library.compute_average_surface_distance(theirs)
    areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    assert assd(ours) == pytest.approx((to_prediction * areas[0] + to_reference * areas[1]) / sum(areas), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_single_slice_is_measured_by_its_outline_as_the_library_does_in_two_dimensions(seed: int) -> None:
    library = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(seed)
    first, second = (ndimage.gaussian_filter(rng.normal(size=(30, 25)), 2) > 0.05 for _ in range(2))
    ours = surface_distances(first[None], second[None], spacing_mm=(999.0, 1.5, 0.8))
    theirs = library.compute_surface_distances(second, first, (1.5, 0.8))
    assert hd95(ours) == pytest.approx(library.compute_robust_hausdorff(theirs, 95), abs=1e-6)
    assert nsd(ours, 2.0) == pytest.approx(library.compute_surface_dice_at_tolerance(theirs, 2.0), abs=1e-6)


def test_a_single_slice_by_hand() -> None:
    """A square of 10 mm in a slice, 3 mm too far to the right: its left and right sides (half the outline) are 3 mm off."""
    a, b = cube((1, 30, 30), (0, 10, 10), (1, 10, 10)), cube((1, 30, 30), (0, 10, 13), (1, 10, 10))
    distances = surface_distances(a, b, spacing_mm=(5.0, 1.0, 1.0))
    assert hd95(distances) == pytest.approx(3)
    assert 0.3 < nsd(distances, 0.5) < 0.5


def test_a_crop_with_a_margin_gives_the_same() -> None:
    prediction, reference, spacing = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool), (1.0, 2.0, 3.0)
    prediction[5, 4:8, 4:8], reference[5, 3:7, 4:9] = True, True
    box = grow_box((slice(5, 6), slice(3, 8), slice(4, 9)), prediction.shape)
    whole = surface_distances(prediction, reference, spacing_mm=spacing)
    cropped = surface_distances(prediction[box], reference[box], spacing_mm=spacing)
    assert (hd95(whole), assd(whole), nsd(whole, 1.0)) == (hd95(cropped), assd(cropped), nsd(cropped, 1.0))


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 4, 4), bool), cube((4, 4, 4), (1, 1, 1), (2, 2, 2))
    neither = surface_distances(empty, empty, spacing_mm=UNIT)
    assert all(math.isnan(v) for v in (hd95(neither), assd(neither), nsd(neither, 1.0)))
    for pair in ((empty, full), (full, empty)):
        one = surface_distances(*pair, spacing_mm=UNIT)
        assert hd95(one) == assd(one) == math.inf
        assert nsd(one, 1000.0) == 0


def test_wrong_arguments_are_refused() -> None:
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="boolean"):
        surface_distances(mask.astype(int), mask, spacing_mm=UNIT)
    with pytest.raises(ValueError, match="one shape"):
        surface_distances(mask, mask[:2], spacing_mm=UNIT)
    with pytest.raises(ValueError, match="spacing"):
        surface_distances(mask, mask, spacing_mm=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="tolerance"):
        nsd(surface_distances(mask, mask, spacing_mm=UNIT), -1.0)
