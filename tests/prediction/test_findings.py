"""Findings: volume, place and edge of every label are those of a fingerprint, however the scan is stored."""

import numpy as np
import pytest
import torch
from tiny import LABELS, REGIONS, fingerprint, plan

from autoseg3d.case import Case
from autoseg3d.fingerprinting.observation import observe
from autoseg3d.geometry import Geometry
from autoseg3d.prediction.entropy import entropy
from autoseg3d.prediction.findings import find_labels
from autoseg3d.prediction.flags import _REMEDIES, Flag, Sample, review
from planners.fingerprint import Fingerprint
from planners.labels import LabelTable

TURNS = [
    pytest.param(np.diag([1.0, 1.2, 2.0, 1.0]), id="RAS"),
    pytest.param(np.diag([-1.0, -1.2, 2.0, 1.0]), id="LPS"),
    pytest.param(np.array([[0, 0, 2.0, 0], [-1.0, 0, 0, 0], [0, 1.2, 0, 0], [0, 0, 0, 1.0]]), id="turned"),
]


def blobs(shape: tuple[int, int, int] = (14, 20, 18)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[3:8, 4:12, 0:5] = 1
    labels[6:11, 10:15, 9:15] = 2
    return labels


@pytest.mark.parametrize("affine", TURNS)
@pytest.mark.parametrize("table", [LABELS, REGIONS], ids=["labels", "regions"])
def test_findings_are_what_a_fingerprint_would_say(affine: np.ndarray, table: LabelTable) -> None:
    labels = blobs()
    geometry = Geometry.from_affine(labels.shape, affine)
    image = np.random.default_rng(0).normal(size=(1, *labels.shape)).astype(np.float32)
    known = observe(Case("a", image, geometry, labels), table).case.labels
    for found in find_labels(labels, table, geometry):
        wanted = known[found.name]
        assert found.volume_ml == pytest.approx(wanted.volume_ml)
        assert found.centroid == pytest.approx(wanted.centroid)
        assert found.touches_edge == wanted.touches_border
        assert found.fold_dice is None


def test_what_is_absent_has_no_place() -> None:
    first, second = find_labels(np.where(blobs() == 1, 1, 0), LABELS, Geometry.from_affine((14, 20, 18), np.eye(4)))
    assert first.volume_ml > 0
    assert (second.volume_ml, second.centroid, second.touches_edge) == (0, None, False)


def placed(centroids: list[tuple[float, float, float]]) -> Fingerprint:
    """Training cases in which both labels lay at these places."""
    known = fingerprint()
    one = known.cases[0]
    cases = tuple(
        one.model_copy(
            update={"labels": {name: o.model_copy(update={"centroid": at, "touches_border": True}) for name, o in one.labels.items()}}
        )
        for at in centroids
    )
    return known.model_copy(update={"cases": cases})


def flagged(labels: np.ndarray, known: Fingerprint, *, agreement: float | None = None) -> dict[str, Flag]:
    from test_flags import placement, scan

    case = scan(shape=labels.shape, spacing=(1, 1, 1))  # type: ignore[arg-type]
    chosen = plan()
    findings = [found.model_copy(update={"fold_dice": agreement}) for found in find_labels(labels, chosen.labels, case.geometry)]
    found = review(labels, Sample.of(case), placement(case, chosen), plan=chosen, fingerprint=known, findings=findings)
    return {flag.code: flag for flag in found}


def test_a_label_far_from_where_it_lay_in_training() -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[2:12, 2:12, 2:12] = 1
    labels[2:12, 2:12, 14:24] = 2
    # Centres lie at 7/20 from below, 7/24 from the back, and 7/28 and 19/28 from the left.
    assert flagged(labels, placed([(0.30, 0.25, 0.2), (0.4, 0.3, 0.7)])) == {}
    upside = flagged(labels[::-1].copy(), placed([(0.30, 0.25, 0.2), (0.4, 0.3, 0.7)]))
    assert set(upside) == {"PLACE"}
    assert upside["PLACE"].reason == "the centre of right lies 65% of the way from lower to upper; in training 30% to 40%"
    assert "upside down" in upside["PLACE"].remedy


def test_folds_that_disagree_are_told() -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[2:12, 2:12, 2:12] = 1
    labels[2:12, 2:12, 14:24] = 2
    assert set(flagged(labels, fingerprint(), agreement=0.5)) == {"UNCERTAIN"}
    assert flagged(labels, fingerprint(), agreement=0.9) == {}


def test_every_flag_says_what_to_do() -> None:
    assert all(text.strip() and not text.endswith(".") for text in _REMEDIES.values())


def test_entropy_is_none_where_certain_and_one_where_undecided() -> None:
    certain, open_ = torch.tensor([1.0, 0.0, 0.0]), torch.full((3,), 1 / 3)
    assert entropy(certain, regions=False) == 0
    assert entropy(open_, regions=False) == pytest.approx(1)
    assert entropy(torch.tensor([0.5, 0.0]), regions=True) == pytest.approx(1)
    assert entropy(torch.tensor([1.0, 0.0]), regions=True) == 0
