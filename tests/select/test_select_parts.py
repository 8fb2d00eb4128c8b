"""Dice from a table of parts equals Dice of the label map that was really postprocessed."""

import numpy as np
import pytest

from autoseg3d.evaluation import score_case
from autoseg3d.ops.postprocessing import apply_postprocessing
from autoseg3d.select.choosing import dice_after
from autoseg3d.select.parts import measure_parts
from planners.labels import label_table
from planners.postprocessing import DropSmall, KeepLargest, Postprocessing

EXCLUSIVE = label_table({"background": 0, "organ": 1, "lesion": 2})
IGNORING = label_table({"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
REGIONS = label_table({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
ON_ALL = [KeepLargest(values=(1, 2)), DropSmall(values=(1, 2), minimal_ml=0.06)]
ON_ONE = [KeepLargest(values=(2,)), DropSmall(values=(1,), minimal_ml=0.04)]
SPACING = (2.0, 2.0, 3.0)
VOXEL_ML = 0.012


def _maps(seed: int, values: list[int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0] * 8 + values), (9, 10, 11)).astype(np.int16)


@pytest.mark.parametrize("steps", [[], ON_ALL[:1], ON_ALL[1:], ON_ONE, [ON_ALL[0], *ON_ONE], [ON_ALL[1], ON_ONE[1], ON_ONE[0]]])
@pytest.mark.parametrize("table", [EXCLUSIVE, IGNORING])
@pytest.mark.parametrize("seed", range(3))
def test_removing_parts_on_paper_is_removing_them(seed: int, table: object, steps: list[KeepLargest | DropSmall]) -> None:
    prediction, reference = _maps(seed, [1, 2]), _maps(seed + 100, [1, 2, 3] if table is IGNORING else [1, 2])
    parts = measure_parts(prediction, reference, labels=table, voxel_ml=VOXEL_ML)
    apply_postprocessing(prediction, Postprocessing(steps=tuple(steps), reason="test"), voxel_volume_ml=VOXEL_ML)
    rows = score_case(prediction, reference, spacing=SPACING, labels=table)
    wanted = [np.nan if row.dice is None else row.dice for row in rows]
    np.testing.assert_allclose(dice_after(parts, steps, table), wanted, rtol=1e-12)


@pytest.mark.parametrize("step", ON_ALL)
def test_regions_follow_the_parts_of_the_foreground(step: KeepLargest | DropSmall) -> None:
    for seed in range(3):
        prediction, reference = _maps(seed, [1, 2]), _maps(seed + 100, [1, 2])
        parts = measure_parts(prediction, reference, labels=REGIONS, voxel_ml=VOXEL_ML)
        apply_postprocessing(prediction, Postprocessing(steps=(step,), reason="test"), voxel_volume_ml=VOXEL_ML)
        rows = score_case(prediction, reference, spacing=SPACING, labels=REGIONS)
        np.testing.assert_allclose(dice_after(parts, [step], REGIONS), [row.dice for row in rows], rtol=1e-12)


def test_an_empty_prediction_has_no_parts_and_an_absent_label_no_dice() -> None:
    reference = np.zeros((3, 3, 3), dtype=np.int16)
    reference[1, 1, 1] = 2
    parts = measure_parts(np.zeros_like(reference), reference, labels=EXCLUSIVE, voxel_ml=1.0)
    dice = dice_after(parts, [*ON_ALL, *ON_ONE], EXCLUSIVE)
    assert np.isnan(dice[0])
    assert dice[1] == 0
