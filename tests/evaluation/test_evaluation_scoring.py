"""score_case: rows of one pair of label maps."""

import math

import numpy as np
import pytest

from autoseg3d.errors import LabelError
from autoseg3d.evaluation import default_tolerance_mm, score_case
from planners.labels import label_table

TABLE = label_table({"background": 0, "liver": 1, "spleen": 2, "tumour": 7})
UNIT = (1.0, 1.0, 1.0)


def maps(shape: tuple[int, int, int] = (10, 12, 14)) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.int16)


def test_one_row_per_label_in_order_with_numbers_that_can_be_counted() -> None:
    prediction, reference = maps()
    reference[2:6, 2:6, 2:6], prediction[3:7, 2:6, 2:6] = 1, 1
    reference[8, 8, 8] = 7
    liver, spleen, tumour = score_case(prediction, reference, spacing=(5.0, 1.0, 2.0), labels=TABLE, case="a", tolerance_mm=1.0)
    assert [(row.case, row.label, row.label_name) for row in (liver, spleen, tumour)] == [
        ("a", 1, "liver"),
        ("a", 2, "spleen"),
        ("a", 7, "tumour"),
    ]
    assert (liver.tp, liver.fp, liver.fn) == (48, 16, 16)
    assert liver.dice == pytest.approx(0.75)
    assert liver.iou == pytest.approx(48 / 80)
    assert liver.sensitivity == liver.precision == pytest.approx(0.75)
    assert liver.hd95_mm == pytest.approx(5)
    assert 0 < liver.assd_mm < 5  # type: ignore[operator]
    assert liver.volume_reference_ml == liver.volume_prediction_ml == pytest.approx(0.64)
    assert liver.volume_difference_ml == liver.volume_difference_percent == 0
    assert (liver.lesions_reference, liver.lesions_prediction, liver.lesions_matched, liver.lesion_f1) == (1, 1, 1, 1)
    assert (spleen.dice, spleen.nsd, spleen.hd95_mm, spleen.lesion_f1, spleen.tp) == (None, None, None, None, 0)
    assert (tumour.dice, tumour.nsd, tumour.hd95_mm, tumour.precision, tumour.sensitivity) == (0, 0, None, None, 0)


def test_missed_and_false_labels_are_infinitely_far() -> None:
    prediction, reference = maps()
    reference[0, 0, 0], prediction[5, 5, 5] = 1, 2
    liver, spleen, tumour = score_case(prediction, reference, spacing=UNIT, labels=TABLE)
    assert (liver.missed, liver.false_alarm, spleen.missed, spleen.false_alarm) == (True, False, False, True)
    assert liver.value("hd95_mm") == spleen.value("assd_mm") == math.inf
    assert math.isnan(tumour.value("hd95_mm"))
    assert math.isnan(liver.value("precision"))
    assert liver.value("volume_difference_percent") == -100


def test_the_crop_does_not_matter() -> None:
    """Labels at the faces of the array, one voxel thick, score as in a larger array."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        prediction, reference = rng.choice([0, 0, 0, 1, 2], size=(2, 4, 5, 6)).astype(np.int16)
        small = score_case(prediction, reference, spacing=(3.0, 1.0, 2.0), labels=TABLE)
        large = score_case(np.pad(prediction, 3), np.pad(reference, 3), spacing=(3.0, 1.0, 2.0), labels=TABLE)
        for a, b in zip(small, large, strict=True):
            assert a.model_dump() == pytest.approx(b.model_dump(), nan_ok=True)


def test_regions_are_scored_as_unions() -> None:
    table = label_table({"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    prediction, reference = maps((3, 3, 4))
    reference[1, 1], prediction[1, 1] = (1, 1, 2, 2), (2, 2, 2, 0)
    whole, core = score_case(prediction, reference, spacing=UNIT, labels=table)
    assert (whole.tp, whole.fp, whole.fn) == (3, 0, 1)
    assert (core.tp, core.fp, core.fn) == (1, 2, 1)


def test_ignored_voxels_are_left_out() -> None:
    table = label_table({"background": 0, "liver": 1, "ignore": 2})
    prediction, reference = maps((3, 3, 6))
    reference[1, 1], prediction[1, 1] = (1, 1, 0, 2, 2, 0), (1, 0, 1, 1, 1, 0)
    (liver,) = score_case(prediction, reference, spacing=UNIT, labels=table)
    assert (liver.tp, liver.fp, liver.fn) == (1, 1, 1)
    prediction[0, 0, 0] = 2
    with pytest.raises(LabelError, match="prediction"):
        score_case(prediction, reference, spacing=UNIT, labels=table)


def test_unknown_values_are_named() -> None:
    prediction, reference = maps()
    reference[0, 0, 0] = 9
    with pytest.raises(LabelError, match="reference") as caught:
        score_case(prediction, reference, spacing=UNIT, labels=TABLE, case="k")
    assert (caught.value.code, caught.value.case, caught.value.got) == ("E_LABEL_VALUE", "k", [9])
    reference[0, 0, 0] = -3
    with pytest.raises(LabelError, match="-3"):
        score_case(prediction, reference, spacing=UNIT, labels=TABLE)
    with pytest.raises(ValueError, match="one shape"):
        score_case(prediction, reference[:3], spacing=UNIT, labels=TABLE)


def test_tolerances_by_label_and_by_default() -> None:
    prediction, reference = maps()
    reference[2:6, 2:6, 2:6], prediction[3:7, 2:6, 2:6] = 1, 1
    rows = score_case(prediction, reference, spacing=(2.0, 1.0, 4.0), labels=TABLE, tolerance_mm={"spleen": 3.0})
    assert [row.nsd_tolerance_mm for row in rows] == [2.0, 3.0, 2.0]
    assert rows[0].nsd == 1
    assert score_case(prediction, reference, spacing=(2.0, 1.0, 4.0), labels=TABLE, tolerance_mm=1.9)[0].nsd < 1  # type: ignore[operator]


def test_the_default_tolerance_is_a_voxels_edge() -> None:
    assert default_tolerance_mm([UNIT]) == 1
    assert default_tolerance_mm([(3.0, 0.8, 0.8), (5.0, 0.7, 0.7), (1.0, 1.0, 1.0)]) == 1.2
    assert default_tolerance_mm([(0.1, 0.1, 0.1)]) == 0.1


def test_sheared_grids_have_their_own_voxel_volume() -> None:
    prediction, reference = maps()
    reference[0, 0, :10] = 1
    row = score_case(prediction, reference, spacing=UNIT, labels=TABLE, voxel_volume_ml=0.5)[0]
    assert (row.volume_reference_ml, row.volume_difference_ml) == (5, -5)
