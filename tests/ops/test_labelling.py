"""Streamed export of logits: the same labels as resizing every class and then choosing."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from autoseg3d.ops.labelling import GridMap, grid_map, label_slabs, output_dtype, winners
from planners.labels import Label, LabelTable, label_table

Shape = tuple[int, int, int]


def table(count: int) -> LabelTable:
    return LabelTable(labels=tuple(Label(name=f"label {i}", values=(i,), paint=i) for i in range(1, count)))


REGIONS = label_table({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3])


def smooth(classes: int, shape: Shape, seed: int = 0) -> torch.Tensor:
    """Logits that vary slowly, as a network's do."""
    coarse = torch.randn((1, classes, *(max(2, n // 4) for n in shape)), generator=torch.Generator().manual_seed(seed)) * 4
    return torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]


def label(logits: torch.Tensor, grid: GridMap, labels: LabelTable, *, rows: int = 3, dense: bool = False) -> np.ndarray:
    out = np.full(grid.shape, 99, dtype=output_dtype(labels))
    pieces = ((i, logits[:, i : i + rows].clone()) for i in range(0, logits.shape[1], rows))
    label_slabs(pieces, out, grid=grid, labels=labels, on_logits=(lambda row, logits: None) if dense else None)
    return out


def resized(logits: torch.Tensor, shape: Shape, separate: int | None = None) -> np.ndarray:
    """All classes on the target grid, by scipy in float64: half-pixel centres, edges repeated."""
    axes = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(logits.shape[1:], shape, strict=True)]
    if separate is not None:
        axes[separate] = np.floor(axes[separate] + 0.5)
    where = np.meshgrid(*axes, indexing="ij")
    return np.stack([map_coordinates(c.numpy().astype(np.float64), where, order=1, mode="nearest") for c in logits])


SHAPES = [
    pytest.param((10, 12, 14), (15, 20, 17), None, id="finer"),
    pytest.param((15, 20, 17), (10, 12, 14), None, id="coarser"),
    pytest.param((10, 12, 14), (10, 31, 5), None, id="mixed, one axis equal"),
    pytest.param((6, 20, 22), (17, 33, 30), 0, id="nearest along axis 0"),
    pytest.param((20, 6, 22), (30, 15, 33), 1, id="nearest along axis 1"),
    pytest.param((12, 14, 5), (9, 20, 16), 2, id="nearest along axis 2"),
    pytest.param((30, 14, 9), (7, 20, 16), 0, id="nearest, fewer slices"),
    pytest.param((1, 1, 1), (3, 4, 5), None, id="from one voxel"),
    pytest.param((3, 4, 5), (1, 1, 1), None, id="to one voxel"),
    pytest.param((1, 8, 8), (1, 12, 13), None, id="one slice"),
]


@pytest.mark.parametrize(("source", "target", "separate"), SHAPES)
@pytest.mark.parametrize("labels", [table(5), REGIONS], ids=["labels", "regions"])
def test_labels_equal_those_of_resizing_everything(source: Shape, target: Shape, separate: int | None, labels: LabelTable) -> None:
    logits = smooth(labels.num_classes, source)
    whole = resized(logits, target, separate)
    if labels.has_regions:
        wanted = np.zeros(target, int)
        for paint, logit in zip(labels.class_paint, whole, strict=True):
            wanted[logit > 0] = paint
    else:
        wanted = whole.argmax(axis=0)
    grid = grid_map(source, target, separate=separate)
    for dense in (False, True):
        assert (label(logits, grid, labels, dense=dense) != wanted).sum() == 0


def test_noise_is_right_too() -> None:
    """No two neighbours agree anywhere: every voxel has to be interpolated."""
    logits = torch.randn((4, 9, 10, 11), generator=torch.Generator().manual_seed(1))
    found = label(logits, grid_map((9, 10, 11), (13, 21, 17)), table(4))
    assert (found == resized(logits, (13, 21, 17)).argmax(0)).mean() > 0.9999


def test_a_third_class_can_win_between_two() -> None:
    """Class 2 is second at both ends and first in the middle; corners alone do not decide a border."""
    logits = torch.tensor([[10.0, -10.0], [-10.0, 10.0], [4.0, 4.0]]).reshape(3, 1, 1, 2)
    found = label(logits, grid_map((1, 1, 2), (1, 1, 10)), table(3))
    assert found.flatten().tolist() == [0, 0, 0, 0, 2, 2, 1, 1, 1, 1]


def test_equal_shapes_change_nothing() -> None:
    logits = torch.randn((6, 7, 8, 9))
    assert (label(logits, grid_map((7, 8, 9), (7, 8, 9)), table(6)) == logits.argmax(0).numpy()).all()


def test_ties_go_to_the_lowest_channel() -> None:
    assert winners(torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 2.0]]), regions=False).tolist() == [0, 1]
    assert winners(torch.tensor([[0.0, 1.0], [-1.0, 1.0]]), regions=True).tolist() == [0, 2]


def test_regions_are_painted_in_order() -> None:
    """Later regions paint over earlier ones, whatever their values are."""
    labels = label_table({"background": 0, "a": [1, 2], "b": 2}, [7, 3])
    logits = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, -1.0]]).reshape(2, 1, 1, 4)
    assert label(logits, grid_map((1, 1, 4), (1, 1, 4)), labels).flatten().tolist() == [7, 3, 3, 0]


def test_values_are_painted_not_numbered() -> None:
    labels = label_table({"background": 0, "a": 3, "b": 300})
    logits = torch.eye(3).reshape(3, 1, 1, 3)
    found = label(logits, grid_map((1, 1, 3), (1, 1, 3)), labels)
    assert found.dtype == np.uint16
    assert found.flatten().tolist() == [0, 3, 300]
    assert output_dtype(label_table({"background": 0, "a": 254})) is np.uint8
    assert output_dtype(label_table({"background": 0, "a": 255})) is np.uint16


@pytest.mark.parametrize("separate", [None, 0, 1])
def test_bands_put_together_are_the_whole(separate: int | None) -> None:
    logits = smooth(5, (9, 20, 11))
    grid = grid_map((9, 20, 11), (14, 33, 16), separate=separate)
    whole = label(logits, grid, table(5))
    parts = []
    for start, stop in ((0, 1), (1, 17), (17, 33)):
        part, (first, last) = grid.band(start, stop)
        assert 0 <= first < last <= 20
        parts.append(label(logits[:, :, first:last], part, table(5)))
    assert (np.concatenate(parts, axis=1) == whole).all()


def test_logits_of_every_row_are_handed_over() -> None:
    logits, rows = smooth(3, (5, 6, 7)), {}
    out = np.zeros((8, 9, 10), np.uint8)
    label_slabs([(0, logits)], out, grid=grid_map((5, 6, 7), (8, 9, 10)), labels=table(3), on_logits=lambda i, row: rows.update({i: row}))
    assert list(rows) == list(range(8))
    assert np.allclose(np.stack([rows[i].numpy() for i in range(8)], axis=1), resized(logits, (8, 9, 10)), atol=1e-5)


def test_out_may_be_a_turned_view() -> None:
    logits = smooth(4, (6, 7, 8))
    grid = grid_map((6, 7, 8), (9, 10, 11))
    native = np.zeros((11, 9, 10), np.uint8)
    label_slabs([(0, logits)], native.transpose(1, 2, 0)[::-1], grid=grid, labels=table(4))
    assert (native.transpose(1, 2, 0)[::-1] == label(logits, grid, table(4))).all()


def test_memory_is_a_few_planes() -> None:
    """Peak of NumPy's memory beside the result stays far below one class of the target grid."""
    logits = smooth(8, (40, 32, 32))
    grid = grid_map((40, 32, 32), (80, 64, 64))
    tracemalloc.start()
    label(logits, grid, table(8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 * 64 * 64 + 200_000
