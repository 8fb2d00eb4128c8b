"""Postprocessing steps against a plain whole-array rule, whatever slabs they are computed in."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from autoseg3d.ops.components import Removed, remove_components
from autoseg3d.ops.postprocessing import apply_postprocessing
from planners.labels import label_table
from planners.postprocessing import DropSmall, KeepLargest, Postprocessing, PostprocessingTable

TABLE = label_table({"background": 0, "organ": 1, "lesion": 2})
EVERYWHERE = np.ones((3, 3, 3), dtype=bool)


def _noise(seed: int, shape: tuple[int, int, int] = (17, 11, 13), dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(np.array([0, 0, 0, 0, 0, 0, 1, 2], dtype=dtype), shape)


def _plain(label_map: np.ndarray, values: tuple[int, ...], fewest: int) -> np.ndarray:
    parts, count = ndimage.label(np.isin(label_map, values), structure=EVERYWHERE)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    return np.where((parts > 0) & (sizes[parts] < fewest), 0, label_map)


def _steps(*steps: KeepLargest | DropSmall) -> Postprocessing:
    return Postprocessing(steps=steps, reason="test")


@pytest.mark.parametrize("values", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("slab_voxels", [1, 300, 2**24])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_slabs_give_what_one_numbering_of_the_whole_gives(values: tuple[int, ...], slab_voxels: int, dtype: type) -> None:
    for seed in range(5):
        label_map = _noise(seed, dtype=dtype)
        wanted = _plain(label_map, values, 4)
        voxels = int((wanted != label_map).sum())
        removed = remove_components(label_map, values, keep=lambda sizes: sizes >= 4, slab_voxels=slab_voxels)
        assert np.array_equal(label_map, wanted)
        assert removed.voxels == voxels > 0


def test_a_part_that_turns_back_across_slabs_is_one_part() -> None:
    """Two legs that meet only in the last row: seen slab by slab they are two for a long time."""
    label_map = np.zeros((40, 3, 9), dtype=np.uint8)
    label_map[:, 1, 1] = label_map[:, 1, 7] = 1
    label_map[39, 1, 1:8] = 1
    assert remove_components(label_map, (1,), keep=lambda sizes: sizes == sizes.max(), slab_voxels=1) == Removed()
    label_map[39, 1, 4] = 0
    label_map[0, 1, 7] = 0
    assert remove_components(label_map, (1,), keep=lambda sizes: sizes == sizes.max(), slab_voxels=1) == Removed(1, 41)


def test_the_largest_part_of_labels_together_keeps_what_hangs_together() -> None:
    label_map = np.zeros((1, 1, 12), dtype=np.uint8)
    label_map[0, 0, [0, 1, 2]], label_map[0, 0, [3, 4]], label_map[0, 0, [7, 8, 9, 10]] = 1, 2, 1
    together, apart = label_map.copy(), label_map.copy()
    apply_postprocessing(together, _steps(KeepLargest(values=(1, 2))), voxel_volume_ml=1.0)
    assert together[0, 0].tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0]
    removed = apply_postprocessing(apart, _steps(KeepLargest(values=(1,)), KeepLargest(values=(2,))), voxel_volume_ml=1.0)
    assert apart[0, 0].tolist() == [0, 0, 0, 2, 2, 0, 0, 1, 1, 1, 1, 0]
    assert removed == (Removed(1, 3), Removed(0, 0))


def test_a_minimal_size_is_a_volume_and_not_a_number_of_voxels() -> None:
    for voxel_ml, left in ((0.1, 0), (0.25, 4), (1.0, 4)):
        label_map = np.zeros((1, 1, 6), dtype=np.uint8)
        label_map[0, 0, :4] = 1
        apply_postprocessing(label_map, _steps(DropSmall(values=(1,), minimal_ml=1.0)), voxel_volume_ml=voxel_ml)
        assert np.count_nonzero(label_map) == left


def test_an_absent_label_and_a_view_are_taken_as_they_are() -> None:
    whole = _noise(3)
    view = whole[::-1, :, ::2]
    wanted = _plain(view.copy(), (1,), 3)
    apply_postprocessing(view, _steps(DropSmall(values=(1,), minimal_ml=3.0), KeepLargest(values=(9,))), voxel_volume_ml=1.0)
    assert np.array_equal(whole[::-1, :, ::2], wanted)
    with pytest.raises(ValueError, match="voxel_volume_ml"):
        apply_postprocessing(whole, _steps(), voxel_volume_ml=0.0)


def test_steps_one_after_the_other_leave_nothing_to_keep_where_all_is_gone() -> None:
    label_map = np.zeros((2, 2, 5), dtype=np.uint8)
    label_map[0, 0, 0] = 1
    removed = apply_postprocessing(label_map, _steps(DropSmall(values=(1,), minimal_ml=9), KeepLargest(values=(1,))), voxel_volume_ml=1.0)
    assert removed == (Removed(1, 1), Removed())
    assert not label_map.any()


def test_steps_are_read_back_as_written_and_say_what_they_do() -> None:
    chosen = Postprocessing(
        configurations=("2d", "3d_fullres"),
        steps=(KeepLargest(values=(1, 2)), KeepLargest(values=(1,)), DropSmall(values=(2,), minimal_ml=0.25)),
        reason="test",
    )
    assert Postprocessing.model_validate_json(chosen.to_json()) == chosen
    assert chosen.sentences(TABLE) == (
        "only the largest connected part of all labels together is kept",
        "only the largest connected part of organ is kept",
        "parts of lesion smaller than 0.25 mL are removed",
    )
    assert chosen.applies_to(("3d_fullres", "2d"))
    assert not chosen.applies_to(("3d_fullres",))
    assert _steps().applies_to(("anything",))


def test_a_table_gives_each_configuration_its_own_steps_and_an_ensemble_neither() -> None:
    flat, deep = (Postprocessing(configurations=(name,), reason=name) for name in ("2d", "3d_fullres"))
    table = PostprocessingTable(entries=(flat, deep))
    assert table.of(("3d_fullres",)) == deep
    assert table.of(("2d", "3d_fullres")) is None
    assert PostprocessingTable(entries=(_steps(),)).of(("2d", "3d_fullres")) == _steps()


@pytest.mark.parametrize("step", [{"operation": "erode", "values": [1]}, {"operation": "keep_largest", "values": []}, {"values": [1]}])
def test_an_unknown_or_empty_step_is_refused(step: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Postprocessing.model_validate({"steps": [step], "reason": "test"})
