"""Flags: what is unlike the training cases makes a person look; what is like them does not."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import REGIONS, case, fingerprint, plan

from autoseg3d.case import Case, Placement, place, turn_for_plan
from autoseg3d.geometry import Geometry
from autoseg3d.prediction.flags import Flag, Sample, review
from planners.contract import Triple
from planners.fingerprint import Fingerprint
from planners.plan import Plan

SHAPE = (20, 24, 28)


def placement(scan: Case, chosen: Plan) -> Placement:
    """Of the whole scan at its own spacing."""
    axes, _ = turn_for_plan(scan.geometry, chosen)
    shape = (scan.geometry.shape[axes[0]], scan.geometry.shape[axes[1]], scan.geometry.shape[axes[2]])
    return place(scan.geometry, chosen, ((0, 0, 0), shape), shape)


def usual_labels() -> np.ndarray:
    """Both labels, 1000 voxels each, away from the border."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:12, 2:12, 2:12] = 1
    labels[2:12, 2:12, 14:24] = 2
    return labels


def flags(
    labels: np.ndarray, scan: Case, *, chosen: Plan | None = None, known: Fingerprint | None = None, notes: tuple[str, ...] = ()
) -> dict[str, str]:
    chosen = chosen or plan()
    found = review(labels, Sample.of(scan), placement(scan, chosen), plan=chosen, fingerprint=known or fingerprint(), notes=notes)
    return {flag.code: flag.reason for flag in found}


def scan(*, spacing: tuple[float, float, float] = (1.2, 1.0, 1.5), offset: float = 0.0, shape: Triple = SHAPE) -> Case:
    return case(np.random.default_rng(0).normal(offset, 1, shape), spacing)


def test_a_usual_scan_has_none() -> None:
    assert flags(usual_labels(), scan(spacing=(1, 1, 1))) == {}


def test_spacing_outside_the_training_range() -> None:
    found = flags(usual_labels(), scan(spacing=(1.0, 1.9, 1.0)))
    assert found["SPACING"] == "voxels of 1.9 mm along the second axis; trained on 1 to 1.5 mm"
    assert "SPACING" not in flags(usual_labels(), scan(spacing=(1.6, 0.95, 1.0)))


def test_spacing_is_compared_in_network_axes() -> None:
    """A plan that turns axes and a fingerprint of another orientation name the same axis of the patient."""
    known = fingerprint()
    cases = tuple(c.model_copy(update={"spacing_mm": (5.0, 1.0, 1.0), "orientation": "RAS"}) for c in known.cases)
    known = known.model_copy(update={"cases": cases})
    turned = plan(axis_order=(2, 0, 1))
    right = scan(spacing=(5.0, 1.0, 1.0))
    assert "SPACING" not in flags(usual_labels(), right, chosen=turned, known=known)
    sagittal = np.diag([1.0, 1.0, 5.0])[:, [2, 0, 1]]  # x of the array runs upwards
    affine = np.eye(4)
    affine[:3, :3] = sagittal
    stored = Case("s", np.zeros((1, 28, 24, 20), np.float32), Geometry.from_affine((28, 24, 20), affine))
    assert stored.geometry.orientation == "SRA"
    assert "SPACING" not in flags(np.ones((28, 24, 20), np.uint8), stored, chosen=turned, known=known)
    assert "SPACING" in flags(usual_labels(), scan(spacing=(1.0, 1.0, 5.0)), chosen=turned, known=known)


def test_a_field_of_view_much_smaller_or_larger() -> None:
    small = scan(shape=(9, 24, 28), spacing=(1, 1, 1))
    assert flags(np.ones((9, 24, 28), np.uint8), small)["EXTENT"].startswith("a field of view of 9 mm along the first axis")
    large = scan(shape=(20, 24, 90), spacing=(1, 1, 1))
    assert "EXTENT" in flags(np.ones((20, 24, 90), np.uint8), large)


def test_orientation_matters_to_as_stored_models_only() -> None:
    known, stored = fingerprint(orientation="LPS"), plan(orientation="as-stored")
    assert flags(usual_labels(), scan(), chosen=stored, known=known)["ORIENTATION"].startswith("stored as RAS;")
    assert "ORIENTATION" not in flags(usual_labels(), scan(), chosen=stored, known=fingerprint())
    assert "ORIENTATION" not in flags(usual_labels(), scan(), known=known)


@pytest.mark.parametrize(("offset", "flagged"), [(0.0, False), (0.9, False), (1.5, True), (-1024.0, True)])
def test_intensities_inside_labels(offset: float, flagged: bool) -> None:
    found = flags(usual_labels(), scan(offset=offset))
    assert ("INTENSITY" in found) == flagged
    if flagged:
        assert "in training 0 to 0" in found["INTENSITY"]


def test_intensities_without_observations_use_the_whole_range() -> None:
    known = fingerprint(seen=False)
    assert "INTENSITY" not in flags(usual_labels(), scan(offset=3), known=known)
    assert flags(usual_labels(), scan(offset=30), known=known).keys() == {"INTENSITY"}


def test_nothing_found_and_something_missing() -> None:
    assert flags(np.zeros(SHAPE, np.uint8), scan())["EMPTY"] == "nothing was found"
    labels = np.where(usual_labels() == 2, 0, usual_labels())
    assert flags(labels, scan())["MISSING"] == "right was not found; 2 of 2 training cases have it"
    known = fingerprint()
    cases = list(known.cases)
    without = cases[0].labels["right"].model_copy(update={"voxels": 0, "volume_ml": 0.0})
    cases[0] = cases[0].model_copy(update={"labels": {**cases[0].labels, "right": without}})
    assert "MISSING" not in flags(labels, scan(), known=known.model_copy(update={"cases": tuple(cases)}))


def test_a_volume_far_from_training() -> None:
    labels = usual_labels()
    labels[2:12, 2:12, 2:12] = 0
    labels[2:8, 2:12, 2:10] = 1  # 480 voxels of 1 mm
    assert flags(labels, scan(spacing=(1, 1, 1)))["VOLUME"] == "left has 0.48 mL; in training 1 to 1 mL"


def test_a_label_at_the_edge() -> None:
    labels = usual_labels()
    labels[2:12, 2:12, 24:] = 2
    assert flags(labels, scan())["TOUCHES_EDGE"] == "right touches the edge of the scan; 0 of 2 training cases do"
    known = fingerprint()
    cases = tuple(
        c.model_copy(update={"labels": {n: o.model_copy(update={"touches_border": True}) for n, o in c.labels.items()}})
        for c in known.cases
    )
    assert "TOUCHES_EDGE" not in flags(labels, scan(), known=known.model_copy(update={"cases": cases}))


def test_regions_are_judged_by_their_values() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:12, 2:12, 2:12] = 1
    labels[4:6, 4:6, 4:6] = 2
    found = flags(labels, scan(), chosen=plan(labels=REGIONS), known=fingerprint(REGIONS))
    assert found["VOLUME"].startswith("core has")


def test_every_repair_is_a_flag() -> None:
    chosen, image = plan(), scan()
    found = review(usual_labels(), Sample.of(image), placement(image, chosen), plan=chosen, fingerprint=fingerprint(), notes=("a", "b"))
    assert found == (Flag(code="REPAIRED", reason="a"), Flag(code="REPAIRED", reason="b"))


def test_a_sample_is_small_and_aligned() -> None:
    image = np.arange(200 * 130 * 120, dtype=np.float32).reshape(200, 130, 120)
    sample = Sample.of(case(image))
    assert sample.image[0].size <= 2 * 2**20
    assert (sample.image[0] == image[:: sample.stride, :: sample.stride, :: sample.stride]).all()
    assert not np.shares_memory(sample.image, image)
    assert replace(sample, stride=1).stride == 1
