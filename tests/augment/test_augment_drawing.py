"""The drawn record: probabilities, ranges, and that it is a plain record."""

import numpy as np
import pytest
from pydantic import ValidationError

from autoseg3d.augment import Drawn, draw
from planners.plan import AugmentationPlan

PATCH = (16, 20, 24)
ALL_AXES = (0, 1, 2)


def many(n: int, plan: AugmentationPlan | None = None, *, channels: int = 2, patch: tuple[int, int, int] = PATCH) -> list[Drawn]:
    rng = np.random.default_rng(7)
    return [draw(plan or AugmentationPlan(), rng, channels=channels, patch_size=patch, mirror_axes=ALL_AXES) for _ in range(n)]


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    return many(6000)


@pytest.mark.parametrize(
    ("field", "probability"),
    [
        ("rotation_degrees", 0.2),
        ("scale", 0.2),
        ("noise", 0.1),
        ("blur", 0.2),
        ("brightness", 0.15),
        ("contrast", 0.15),
        ("low_resolution", 0.25),
        ("gamma_inverted", 0.1),
        ("gamma", 0.3),
    ],
)
def test_each_transform_has_its_probability(drawn: list[Drawn], field: str, probability: float) -> None:
    share = np.mean([getattr(d, field) is not None for d in drawn])
    assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / len(drawn)) ** 0.5)


def test_transforms_are_drawn_independently(drawn: list[Drawn]) -> None:
    both = np.mean([d.rotation_degrees is not None and d.scale is not None for d in drawn])
    assert both == pytest.approx(0.04, abs=0.012)


def test_rotation_is_uniform_within_thirty_degrees(drawn: list[Drawn]) -> None:
    angles = np.array([d.rotation_degrees for d in drawn if d.rotation_degrees is not None])
    assert angles.shape[1] == 3
    assert np.abs(angles).max() <= 30
    np.testing.assert_allclose(angles.mean(0), 0, atol=2.0)
    np.testing.assert_allclose(angles.std(0), 30 / 3**0.5, rtol=0.05)


def test_scale_is_uniform(drawn: list[Drawn]) -> None:
    scales = np.array([d.scale for d in drawn if d.scale is not None])
    assert 0.7 <= scales.min() <= scales.max() <= 1.4
    assert scales.mean() == pytest.approx(1.05, abs=0.02)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("brightness", 0.75, 1.25), ("contrast", 0.75, 1.25), ("gamma", 0.7, 1.5), ("gamma_inverted", 0.7, 1.5)],
)
def test_multipliers_lie_half_below_one_and_half_above(drawn: list[Drawn], field: str, low: float, high: float) -> None:
    values = np.array([value for d in drawn for value in getattr(d, field) or ()])
    assert low <= values.min() <= values.max() <= high
    assert np.mean(values < 1) == pytest.approx(0.5, abs=0.06)
    assert values[values < 1].mean() == pytest.approx((low + 1) / 2, abs=0.02)
    assert values[values > 1].mean() == pytest.approx((1 + high) / 2, abs=0.03)


def test_channels_of_blur_and_low_resolution_are_drawn_one_by_one(drawn: list[Drawn]) -> None:
    sigmas = [s for d in drawn for s in d.blur or ()]
    assert np.mean([s is None for s in sigmas]) == pytest.approx(0.5, abs=0.04)
    taken = np.array([s for s in sigmas if s is not None])
    assert 0.5 <= taken.min() <= taken.max() <= 1.0
    assert len(np.unique(taken)) == taken.size  # every axis has its own
    zooms = [z for d in drawn for z in d.low_resolution or ()]
    assert np.mean([z is None for z in zooms]) == pytest.approx(0.5, abs=0.04)
    assert all(z is None or 0.5 <= z <= 1 for z in zooms)


def test_each_axis_is_mirrored_half_of_the_time(drawn: list[Drawn]) -> None:
    for axis in ALL_AXES:
        assert np.mean([axis in d.mirror for d in drawn]) == pytest.approx(0.5, abs=0.03)


def test_only_mirror_axes_are_mirrored() -> None:
    rng = np.random.default_rng(0)
    some = [draw(AugmentationPlan(), rng, channels=1, patch_size=PATCH, mirror_axes=(2,)) for _ in range(50)]
    assert {d.mirror for d in some} == {(), (2,)}


@pytest.mark.parametrize(("plan", "patch"), [(AugmentationPlan(dummy_2d=True), (4, 64, 64)), (AugmentationPlan(), (1, 64, 64))])
def test_flat_patches_turn_in_their_plane(plan: AugmentationPlan, patch: tuple[int, int, int]) -> None:
    turned = [d for d in many(200, plan.model_copy(update={"rotation_degrees": (180.0, 5.0, 5.0)}), patch=patch) if d.rotation_degrees]
    assert all(d.in_plane and d.rotation_degrees is not None and d.rotation_degrees[1:] == (0.0, 0.0) for d in turned)
    assert max(abs(d.rotation_degrees[0]) for d in turned if d.rotation_degrees) > 90


def test_probability_zero_draws_nothing_and_one_everything() -> None:
    names = [name for name in AugmentationPlan.model_fields if name.endswith("_probability")]
    nothing, everything = (AugmentationPlan(**dict.fromkeys(names, p)) for p in (0.0, 1.0))
    for d in many(20, nothing):
        assert d.model_dump(exclude_defaults=True, exclude={"mirror"}) == {"patch_size": PATCH, "channels": 2}
    for d in many(20, everything):
        assert None not in d.model_dump().values()
        assert None not in (*d.blur, *d.low_resolution)


def test_range_on_one_side_of_one_is_drawn_uniformly() -> None:
    below = AugmentationPlan(gamma=(0.5, 0.8), gamma_probability=1.0)
    above = AugmentationPlan(gamma=(1.2, 1.5), gamma_probability=1.0)
    assert all(0.5 <= g <= 1.0 for d in many(200, below) for g in d.gamma)
    assert all(1.2 <= g <= 1.5 for d in many(200, above) for g in d.gamma)


def test_record_goes_through_json_and_cannot_be_changed() -> None:
    for d in many(100):
        assert Drawn.model_validate_json(d.to_json()) == d
    with pytest.raises(ValidationError):
        d.scale = 2.0


def test_same_generator_state_gives_the_same_record() -> None:
    first, second = (
        draw(AugmentationPlan(), np.random.default_rng((1, 2, 3)), channels=3, patch_size=PATCH, mirror_axes=ALL_AXES) for _ in range(2)
    )
    assert first == second
