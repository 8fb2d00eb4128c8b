"""Rotation and scaling: exact on ramps, equal to a brute-force vote on labels, and reading exactly what is needed."""

import numpy as np
import pytest
import torch

from autoseg3d.augment import Drawn, draw, read_box
from autoseg3d.augment.spatial import sample, transform_matrix
from planners.plan import AugmentationPlan

TURNED = {"rotation_degrees": (20.0, -30.0, 10.0)}
CASES = [
    ((12, 16, 20), TURNED),
    ((12, 16, 20), {"scale": 1.4}),
    ((11, 16, 9), {"scale": 0.7}),
    ((12, 15, 20), {**TURNED, "scale": 1.3}),
    ((6, 20, 20), {"rotation_degrees": (120.0, 0.0, 0.0), "scale": 0.8, "in_plane": True}),
    ((1, 21, 30), {"rotation_degrees": (45.0, 0.0, 0.0), "in_plane": True}),
]


def box_voxels(drawn: Drawn) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Coordinates (3, *box) of the box, counted from the first voxel of the patch."""
    offset, shape = read_box(drawn)
    return np.indices(shape, dtype=np.float64) + np.array(offset).reshape(3, 1, 1, 1), shape


def sampled_places(drawn: Drawn) -> np.ndarray:
    """Where each patch voxel is sampled (3, *patch), from the rule: centre + M·offset from the centre."""
    centre = (np.array(drawn.patch_size) - 1).reshape(3, 1, 1, 1) / 2
    offsets = np.indices(drawn.patch_size, dtype=np.float64) - centre
    return np.einsum("ij,jzyx->izyx", transform_matrix(drawn), offsets) + centre


def no_labels(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty((0, *shape), dtype=torch.int16)


@pytest.mark.parametrize(("patch", "fields"), CASES)
def test_a_ramp_stays_a_ramp(patch: tuple[int, int, int], fields: dict[str, object]) -> None:
    drawn = Drawn(patch_size=patch, channels=3, **fields)
    voxels, shape = box_voxels(drawn)
    image, _ = sample(torch.from_numpy(voxels.astype(np.float32)), no_labels(shape), drawn)
    np.testing.assert_allclose(image.numpy(), sampled_places(drawn), atol=2e-5)


@pytest.mark.parametrize(("patch", "fields"), CASES)
def test_box_is_what_is_needed_and_no_more(patch: tuple[int, int, int], fields: dict[str, object]) -> None:
    drawn = Drawn(patch_size=patch, channels=1, **fields)
    offset, shape = read_box(drawn)
    places = sampled_places(drawn)
    for axis in range(3):
        low, high = places[axis].min(), places[axis].max()
        assert offset[axis] <= low
        assert high <= offset[axis] + shape[axis] - 1 + 1e-9
        assert low - offset[axis] < 1.01
        assert offset[axis] + shape[axis] - 1 - high < 1.01


def test_nothing_drawn_reads_the_patch_itself() -> None:
    assert read_box(Drawn(patch_size=(3, 4, 5), channels=1)) == ((0, 0, 0), (3, 4, 5))


def test_untouched_axis_is_not_widened() -> None:
    offset, shape = read_box(Drawn(patch_size=(6, 20, 20), channels=1, in_plane=True, rotation_degrees=(30.0, 0.0, 0.0)))
    assert (offset[0], shape[0]) == (0, 6)


def test_matrix_turns_each_axis_pair_the_way_of_the_rule() -> None:
    def moved(angles: tuple[float, float, float], offset: tuple[int, int, int]) -> list[int]:
        return (transform_matrix(Drawn(patch_size=(1, 1, 1), channels=1, rotation_degrees=angles)) @ offset).round(9).tolist()

    assert moved((90, 0, 0), (0, 1, 0)) == [0, 0, 1]
    assert moved((0, 90, 0), (1, 0, 0)) == [0, 0, -1]
    assert moved((0, 0, 90), (1, 0, 0)) == [0, 1, 0]
    assert moved((90, 90, 0), (0, 1, 0)) == [1, 0, 0]  # first about axis 0, then about axis 1


def test_scale_above_one_shrinks_objects() -> None:
    for scale in (0.7, 1.0, 1.4):
        drawn = Drawn(patch_size=(40, 40, 40), channels=1, scale=scale)
        voxels, shape = box_voxels(drawn)
        ball = torch.from_numpy((((voxels - 19.5) ** 2).sum(0) < 10**2).astype(np.int16))
        _, labels = sample(torch.empty((0, *shape)), ball[None], drawn)
        assert int(labels.sum()) == pytest.approx(4 / 3 * np.pi * (10 / scale) ** 3, rel=0.05)


def test_half_turn_in_the_plane_is_a_flip_of_both_axes() -> None:
    drawn = Drawn(patch_size=(2, 5, 6), channels=1, in_plane=True, rotation_degrees=(180.0, 0.0, 0.0))
    offset, shape = read_box(drawn)
    image = torch.arange(float(np.prod(shape))).reshape(1, *shape)
    inner = image[:, :, -offset[1] : -offset[1] + 5, -offset[2] : -offset[2] + 6]
    turned, _ = sample(image, no_labels(shape), drawn)
    torch.testing.assert_close(turned, inner.flip(2, 3), atol=1e-3, rtol=0)


def brute_force(labels: np.ndarray, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Every label's score at every voxel in float64 -> (winner, lead over the second)."""
    places = sampled_places(drawn) - np.array(read_box(drawn)[0]).reshape(3, 1, 1, 1)
    below = np.minimum(np.floor(places + 1e-9).astype(int), np.maximum(np.array(labels.shape).reshape(3, 1, 1, 1) - 2, 0))
    part = places - below
    values = np.unique(labels)
    scores = np.zeros((len(values), *drawn.patch_size))
    for corner in np.ndindex(2, 2, 2):
        weight, index = np.ones(drawn.patch_size), []
        for axis, up in enumerate(corner):
            weight = weight * (part[axis] if up else 1 - part[axis])
            index.append(np.minimum(below[axis] + up, labels.shape[axis] - 1))
        for i, value in enumerate(values):
            scores[i] += weight * (labels[tuple(index)] == value)
    ordered = np.sort(scores, axis=0)
    lead = ordered[-1] - ordered[-2] if len(values) > 1 else np.ones(drawn.patch_size)
    return values[scores.argmax(0)], lead


@pytest.mark.parametrize("top", [2, 6, 300])
@pytest.mark.parametrize(("patch", "fields"), CASES)
def test_labels_are_the_argmax_of_linear_scores(patch: tuple[int, int, int], fields: dict[str, object], top: int) -> None:
    drawn = Drawn(patch_size=patch, channels=1, **fields)
    _, shape = read_box(drawn)
    labels = np.random.default_rng(top).integers(-1, top, shape).astype(np.int16)
    _, found = sample(torch.empty((0, *shape)), torch.from_numpy(labels)[None], drawn)
    wanted, lead = brute_force(labels, drawn)
    clear = lead > 1e-4
    assert clear.mean() > 0.8  # some points of odd patches lie midway between voxels
    np.testing.assert_array_equal(found[0].numpy()[clear], wanted[clear])


def test_tied_labels_go_to_the_nearest_voxel() -> None:
    # Scale 2 of an even patch samples halfway between voxels, where all corners tie.
    drawn = Drawn(patch_size=(1, 2, 4), channels=1, in_plane=True, scale=2.0)
    offset, shape = read_box(drawn)
    places = sampled_places(drawn)[2, 0, 0] - offset[2]
    assert set(np.round(places % 1, 6)) == {0.5}
    labels = torch.arange(shape[2], 0, -1, dtype=torch.int16).expand(shape).contiguous()
    _, found = sample(torch.empty((0, *shape)), labels[None], drawn)
    upper = labels[0, 0, torch.from_numpy(np.ceil(places).astype(np.int64))]
    np.testing.assert_array_equal(found[0, 0, 0], upper)


def test_label_without_majority_wins_by_count() -> None:
    # Turned by 45°, a voxel beside the middle of 3 × 3 is sampled 0.707 voxels off along both axes: weights 0.5, 0.207,
    # 0.207 and 0.086, so that with four different labels none has more than half.
    drawn = Drawn(patch_size=(1, 3, 3), channels=1, in_plane=True, rotation_degrees=(45.0, 0.0, 0.0))
    _, shape = read_box(drawn)
    rng = np.random.default_rng(0)
    for _ in range(30):
        labels = rng.integers(0, 9, shape).astype(np.int16)
        _, found = sample(torch.empty((0, *shape)), torch.from_numpy(labels)[None], drawn)
        wanted, lead = brute_force(labels, drawn)
        assert (lead < 0.5).any()
        np.testing.assert_array_equal(found[0].numpy()[lead > 1e-4], wanted[lead > 1e-4])


def test_large_patches_are_worked_on_in_chunks_without_seams() -> None:
    drawn = Drawn(patch_size=(40, 72, 72), channels=1, rotation_degrees=(25.0, 5.0, -13.0))
    voxels, _ = box_voxels(drawn)
    stripes = torch.from_numpy(((voxels.sum(0) // 9) % 3).astype(np.int16))
    image, labels = sample(torch.from_numpy(voxels[:1].astype(np.float32)), stripes[None], drawn)
    np.testing.assert_allclose(image[0].numpy(), sampled_places(drawn)[0], atol=1e-4)
    wanted, lead = brute_force(stripes.numpy(), drawn)
    np.testing.assert_array_equal(labels[0].numpy()[lead > 1e-3], wanted[lead > 1e-3])


def test_no_drawn_transform_leaves_its_box() -> None:
    rng = np.random.default_rng(3)
    plan = AugmentationPlan(rotation_probability=1, scale_probability=1, rotation_degrees=(180, 180, 180))
    for _ in range(100):
        patch = tuple(int(n) for n in rng.integers(1, 9, 3))
        drawn = draw(plan, rng, channels=1, patch_size=patch, mirror_axes=())
        _, shape = read_box(drawn)
        image, labels = sample(torch.ones((1, *shape)), torch.full((1, *shape), 7, dtype=torch.int16), drawn)
        torch.testing.assert_close(image, torch.ones((1, *patch)))
        assert (labels == 7).all()
