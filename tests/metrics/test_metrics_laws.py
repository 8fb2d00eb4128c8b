"""Laws that every measure obeys, over random pairs of masks."""

import math
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage

from autoseg3d import metrics

Spacing = tuple[float, float, float]
Measure = Callable[[np.ndarray, np.ndarray, Spacing], float]

MEASURES: dict[str, Measure] = {
    "dice": lambda p, r, s: metrics.dice(metrics.count_overlap(p, r)),
    "iou": lambda p, r, s: metrics.iou(metrics.count_overlap(p, r)),
    "hd95": lambda p, r, s: metrics.hd95(metrics.surface_distances(p, r, spacing_mm=s)),
    "assd": lambda p, r, s: metrics.assd(metrics.surface_distances(p, r, spacing_mm=s)),
    "nsd": lambda p, r, s: metrics.nsd(metrics.surface_distances(p, r, spacing_mm=s), 1.3),
    "lesion f1": lambda p, r, s: metrics.match_lesions(p, r).f1,
}
SYMMETRIC = sorted(MEASURES)
DISTANCES = ("hd95", "assd")


def pairs(count: int = 8) -> list[tuple[np.ndarray, np.ndarray, Spacing]]:
    """Overlapping random masks from crumbs to lumps, some empty, with random spacings."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(4, 14, size=3))
        first = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0, 2))
        second = first + 0.5 * ndimage.gaussian_filter(rng.normal(size=shape), 1) * first.std()
        z, y, x = rng.uniform(0.5, 4, size=3)
        made.append((first > np.quantile(first, 0.85), second > np.quantile(second, 0.8), (float(z), float(y), float(x))))
    empty = np.zeros((4, 5, 6), dtype=bool)
    some = empty.copy()
    some[1:3, 2:4, 3] = True
    return [*made, (empty, some, (1.0, 2.0, 3.0)), (some, empty, (1.0, 2.0, 3.0)), (empty, empty, (1.0, 1.0, 1.0))]


PAIRS = pairs()


@pytest.mark.parametrize("name", SYMMETRIC)
def test_swapping_prediction_and_reference_changes_nothing(name: str) -> None:
    for prediction, reference, spacing in PAIRS:
        one, other = MEASURES[name](prediction, reference, spacing), MEASURES[name](reference, prediction, spacing)
        assert one == pytest.approx(other, nan_ok=True)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_mask_agrees_with_itself(name: str) -> None:
    for mask, _, spacing in PAIRS:
        if mask.any():
            assert MEASURES[name](mask, mask, spacing) == (0 if name in DISTANCES else 1)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_turning_the_patient_changes_nothing(name: str) -> None:
    for prediction, reference, spacing in PAIRS[:4]:
        wanted = MEASURES[name](prediction, reference, spacing)
        for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
            p, r = (m.transpose(axes)[tuple(slice(None, None, step) for step in flips)] for m in (prediction, reference))
            z, y, x = (spacing[axis] for axis in axes)
            assert MEASURES[name](p, r, (z, y, x)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_moving_both_within_a_larger_scan_changes_nothing(name: str) -> None:
    for prediction, reference, spacing in PAIRS:
        wider = [np.pad(mask, ((2, 0), (1, 5), (3, 1))) for mask in (prediction, reference)]
        wanted = MEASURES[name](prediction, reference, spacing)
        assert MEASURES[name](wider[0], wider[1], spacing) == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_grow_with_the_spacing(name: str) -> None:
    for prediction, reference, spacing in PAIRS[:8]:
        z, y, x = (2.5 * s for s in spacing)
        assert MEASURES[name](prediction, reference, (z, y, x)) == pytest.approx(2.5 * MEASURES[name](prediction, reference, spacing))


def test_nsd_rises_with_the_tolerance_up_to_one() -> None:
    for prediction, reference, spacing in PAIRS[:8]:
        distances = metrics.surface_distances(prediction, reference, spacing_mm=spacing)
        values = [metrics.nsd(distances, tolerance) for tolerance in (0, 0.5, 1, 2, 4, 8, 1000)]
        assert values == sorted(values)
        assert values[0] >= 0
        assert values[-1] == pytest.approx(1)


def test_at_the_hausdorff_percentile_at_least_95_percent_of_each_surface_is_near() -> None:
    for prediction, reference, spacing in PAIRS[:8]:
        distances = metrics.surface_distances(prediction, reference, spacing_mm=spacing)
        assert metrics.nsd(distances, metrics.hd95(distances)) >= 0.95 - 1e-9
        assert metrics.assd(distances) <= max(distances.prediction_mm.max(), distances.reference_mm.max())


def test_the_table_of_empty_masks() -> None:
    """As it stands at the head of the package: (both empty, reference empty, prediction empty)."""
    nan, inf = math.nan, math.inf
    table = {
        "dice": (nan, 0, 0),
        "iou": (nan, 0, 0),
        "nsd": (nan, 0, 0),
        "hd95": (nan, inf, inf),
        "assd": (nan, inf, inf),
        "lesion f1": (nan, 0, 0),
    }
    reference_full, prediction_full, both_empty = PAIRS[-3], PAIRS[-2], PAIRS[-1]
    for name, wanted in table.items():
        found = [MEASURES[name](*pair) for pair in (both_empty, prediction_full, reference_full)]
        assert found == pytest.approx(list(wanted), nan_ok=True)


def test_monai_measures_between_border_voxels_and_so_differs_by_less_than_a_voxel() -> None:
    """Another definition, on purpose: voxels of the mask's border, each of weight one, instead of pieces of surface by area."""
    monai = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    grid = np.indices((30, 40, 40)).astype(float)
    for shift in (0.0, 2.0, 5.0):
        balls = [((grid[0] - 15) ** 2 + (grid[1] - 20) ** 2 + (grid[2] - 18 - s) ** 2) < 100 for s in (shift, 0.0)]
        theirs = monai.compute_hausdorff_distance(*(torch.from_numpy(b[None, None]) for b in balls), include_background=True, percentile=95)
        ours = MEASURES["hd95"](balls[0], balls[1], (1.0, 1.0, 1.0))
        assert ours == pytest.approx(float(theirs), abs=1.0)
