"""A crop to the body computes a box only, and gives what the whole scan would wherever the network sees no difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import REGIONS, PerVoxel, case, configuration, plan, random_network
from torch import Tensor

from autoseg3d.errors import UsageError
from autoseg3d.prediction import Predictor
from autoseg3d.prediction.body import find_body, otsu
from autoseg3d.prediction.fusion import fuse
from planners.labels import LabelTable


def _scan(shape: tuple[int, int, int] = (30, 40, 44), *, table: bool = True) -> np.ndarray:
    """Air at -1, an ellipsoid of tissue around 1, and a thin bright table below it."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    inside = ((z - 12) / 9) ** 2 + ((y - 18) / 10) ** 2 + ((x - 20) / 9) ** 2 < 1
    image = np.where(inside, 1.0, -1.0) + np.random.default_rng(0).normal(0, 0.05, shape)
    if table:
        image[:, 36:37, 4:40] = 1.5
    return image.astype(np.float32)


def _predictors(network: torch.nn.Module, labels: LabelTable | None = None) -> tuple[Predictor, Predictor]:
    made = plan(configuration(normalization="ct"), **({} if labels is None else {"labels": labels}))
    whole, cropped = (Predictor(made, "3d_fullres", [network], device="cpu", precision="fp32", crop=c) for c in ("none", "body"))  # type: ignore[arg-type]
    return whole, cropped


def test_the_box_holds_the_largest_part_with_a_margin_and_not_the_table() -> None:
    box = find_body(_scan()[None], (8, 8, 8), step=0.5)
    occupied = [(3, 21), (8, 28), (11, 29)]
    for (low, high), (first, last), size in zip(box.ranges, occupied, (30, 40, 44), strict=True):
        assert 0 <= low <= first
        assert last < high <= size
    assert box.ranges[1][1] <= 36
    assert all(high - low < size for (low, high), size in zip(box.ranges, box.shape, strict=True))


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_scan_without_contrast_is_kept_whole(value: float) -> None:
    assert find_body(np.full((1, 9, 10, 11), value, np.float32), (8, 8, 8), step=0.5).ranges == ((0, 9), (0, 10), (0, 11))


def test_the_box_is_never_smaller_than_the_patch() -> None:
    image = np.full((1, 40, 40, 40), -1, np.float32)
    image[0, :4, 18:22, 36:] = 1
    for (low, high), size in zip(find_body(image, (16, 16, 16), step=0.5).ranges, (40, 40, 40), strict=True):
        assert low >= 0
        assert 16 <= high - low < 40
        assert high <= size


def test_otsu_parts_two_classes() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(m, 1, 1000) for m in (-20, 20)])
    assert -15 < otsu(values) < 15


@pytest.mark.parametrize("labels", [None, REGIONS])
def test_labels_are_those_of_the_whole_scan_where_a_voxel_sees_only_itself(labels: LabelTable | None) -> None:
    weights = ([8.0, -4.0], [-2.0, -20.0]) if labels is REGIONS else ([0.0, 8.0, -8.0], [0.0, -2.0, -20.0])
    whole, cropped = _predictors(PerVoxel(*weights), labels)
    scan = case(_scan(table=False))
    wanted, found = whole.predict(scan), cropped.predict(scan)
    assert (found.labels == wanted.labels).all()
    assert found.labels.any()
    assert found.notes == ()


def test_outside_of_the_box_all_is_background_and_a_label_that_reaches_it_is_noted() -> None:
    _, cropped = _predictors(PerVoxel([0.0, 0.0, 0.0], [0.0, 1.0, 0.0]))
    scan = case(_scan())
    found = cropped.predict(scan)
    assert found.labels.any()
    assert not found.labels[:, 36:].any()
    assert any("--crop body" in note for note in found.notes)


def test_fewer_windows_are_computed() -> None:
    class Counting(PerVoxel):
        def features(self, x: Tensor) -> Tensor:
            counts.append(len(x))
            return x

    counts: list[int] = []
    done = []
    for predictor in _predictors(Counting([0.0, 1.0, 0.0], [0.0, 0.0, 0.0])):
        counts.clear()
        predictor.predict(case(_scan()))
        done.append(sum(counts))
    assert done[1] < 0.6 * done[0]


def test_bands_and_networks_kept_apart_are_filled_alike() -> None:
    made = plan(configuration(normalization="ct"))
    networks = [random_network(made, seed=seed) for seed in (0, 1)]
    predictor = Predictor(made, "3d_fullres", networks, device="cpu", precision="fp32", crop="body")
    prepared = predictor.prepare(case(_scan()))
    attempt = predictor.attempts()[0]
    plain = fuse([predictor.computation(prepared, attempt)])
    narrow = predictor.variant(slab_limit_bytes=20_000)
    apart = fuse([narrow.computation(prepared, attempt, apart=True)])
    assert (plain.labels == apart.labels).mean() > 0.9999
    assert apart.counts[0] is not None


def test_a_model_of_mr_cannot_be_cropped_so() -> None:
    with pytest.raises(UsageError, match="CT"):
        Predictor(plan(), "3d_fullres", [PerVoxel([0], [0])], device="cpu", crop="body")
