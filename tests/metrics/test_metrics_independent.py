"""Against implementations that others wrote: scikit-learn for counts and calibration, surface-distance on real organs."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as theirs
from test_metrics_laws import PAIRS

from autoseg3d import metrics
from autoseg3d.io import read_volume

pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # surface-distance calls SciPy by old names
FULL = [pair for pair in PAIRS if pair[0].any() and pair[1].any()]


@pytest.mark.parametrize("number", range(len(FULL)))
def test_overlap_is_that_of_scikit_learn(number: int) -> None:
    prediction, reference, _ = FULL[number]
    counts = metrics.count_overlap(prediction, reference)
    truth, guess = reference.ravel(), prediction.ravel()
    found = [measure(counts) for measure in (metrics.dice, metrics.iou, metrics.sensitivity, metrics.precision)]
    wanted = [f(truth, guess) for f in (theirs.f1_score, theirs.jaccard_score, theirs.recall_score, theirs.precision_score)]
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_brier_score_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability, event = rng.random(500), rng.random(500) < 0.3
    assert metrics.calibration_counts(probability, event).brier == pytest.approx(theirs.brier_score_loss(event, probability), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_above_one_half_every_pair_of_lesions_that_overlaps_so_is_matched(seed: int) -> None:
    """Such pairs exclude each other, so that no order of matching can lose one; all pairs are looked at one by one."""
    rng = np.random.default_rng(seed)
    reference = ndimage.binary_dilation(rng.random((3, 16, 16)) < 0.01)
    prediction = reference ^ (rng.random(reference.shape) < 0.02)
    (p, n), (r, m) = (ndimage.label(mask, structure=np.ones((3, 3, 3))) for mask in (prediction, reference))
    iou = [[((p == i) & (r == j)).sum() / ((p == i) | (r == j)).sum() for j in range(1, m + 1)] for i in range(1, n + 1)]
    found = metrics.match_lesions(prediction, reference, min_iou=0.51)
    assert (found.prediction, found.reference, found.matched) == (n, m, int((np.array(iou) >= 0.51).sum()))


def test_rates_of_lesions_are_shares_of_each_side() -> None:
    match = metrics.LesionMatch(reference=4, prediction=5, matched=2)
    assert (match.sensitivity, match.precision, match.f1) == (0.5, 0.4, pytest.approx(4 / 9))
    nothing = metrics.LesionMatch(0, 0, 0)
    assert all(np.isnan(value) for value in (nothing.sensitivity, nothing.precision, nothing.f1))


@pytest.mark.parametrize("name", ["Hippocampus", "ACDC_small"])
def test_real_organs_measure_as_in_surface_distance(name: str, shared_data: Path) -> None:
    """Isotropic and strongly anisotropic cases: one reader's label against the next slice's, and against itself eroded."""
    library = pytest.importorskip("surface_distance")
    for path in sorted((shared_data / name / "labelsTr").glob("*.nii.gz"))[:3]:
        volume = read_volume(path, labels=True)
        spacing = volume.geometry.spacing_mm
        for value in np.unique(volume.array[volume.array > 0])[:2]:
            reference = volume.array == value
            for prediction in (np.roll(reference, 1, axis=1), ndimage.binary_erosion(reference)):
                ours = metrics.surface_distances(prediction, reference, spacing_mm=spacing)
                found = library.compute_surface_distances(reference, prediction, spacing)
                areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
                means = library.compute_average_surface_distance(found)
                assert metrics.hd95(ours) == pytest.approx(library.compute_robust_hausdorff(found, 95), abs=1e-6)
                assert metrics.assd(ours) == pytest.approx(float(np.dot(means, areas) / sum(areas)), abs=1e-6)
                for tolerance in (0.5, 1.0, 3.0):
                    # Tolerances between two distances that differ by rounding alone are no test of either.
                    if np.abs(np.r_[ours.prediction_mm, ours.reference_mm] - tolerance).min() > 1e-4:
                        wanted = library.compute_surface_dice_at_tolerance(found, tolerance)
                        assert metrics.nsd(ours, tolerance) == pytest.approx(wanted, abs=1e-6)
