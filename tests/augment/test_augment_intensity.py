"""Intensity transforms against direct formulas in numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg3d.augment import intensity


@pytest.fixture
def channel() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=(9, 10, 11)).astype(np.float32))


def test_noise_has_its_sigma_and_comes_from_its_seed() -> None:
    first, again, other = (torch.zeros((2, 20, 20, 20)) for _ in range(3))
    intensity.add_noise(first, sigma=0.1, seed=5)
    intensity.add_noise(again, sigma=0.1, seed=5)
    intensity.add_noise(other, sigma=0.1, seed=6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert float(first.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(first.mean())) < 0.003


def test_noise_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    intensity.add_noise(torch.zeros((1, 2, 2, 2)), sigma=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("sigma", "length"), [(0.5, 3), (0.6, 5), (0.7, 5), (0.9, 5), (0.95, 7), (1.0, 7)])
def test_kernel_length_is_the_odd_number_nearest_six_sigma_and_a_half(sigma: float, length: int) -> None:
    taps = intensity.gaussian_kernel(sigma)
    assert 2 * len(taps) - 1 == length
    assert taps[0] + 2 * sum(taps[1:]) == pytest.approx(1)
    assert taps[1] / taps[0] == pytest.approx(np.exp(-0.5 / sigma**2))


def test_blur_is_a_separable_convolution_with_reflected_edges(channel: torch.Tensor) -> None:
    wanted = channel.numpy().astype(np.float64)
    sigmas = (0.5, 0.8, 1.0)
    for axis, sigma in enumerate(sigmas):
        taps = intensity.gaussian_kernel(sigma)
        wanted = ndimage.correlate1d(wanted, taps[:0:-1] + taps, axis=axis, mode="mirror")
    intensity.blur(channel, sigmas)
    np.testing.assert_allclose(channel.numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 8, 8), (3, 1, 8), (1, 1, 1)])
def test_blur_of_axes_shorter_than_the_kernel(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    wanted = image.astype(np.float64)
    taps = intensity.gaussian_kernel(1.0)
    for axis in range(3):
        if shape[axis] > 1:
            wanted = ndimage.correlate1d(wanted, taps[:0:-1] + taps, axis=axis, mode="mirror")
    blurred = torch.from_numpy(image.copy())
    intensity.blur(blurred, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(blurred.numpy(), wanted, atol=1e-6)


def test_brightness_multiplies(channel: torch.Tensor) -> None:
    before = channel.clone()
    intensity.change_brightness(channel, 1.2)
    torch.testing.assert_close(channel, before * 1.2)


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_keeps_mean_distance_ratio_and_the_range(channel: torch.Tensor, factor: float) -> None:
    before = channel.numpy().astype(np.float64)
    intensity.change_contrast(channel, factor)
    wanted = np.clip((before - before.mean()) * factor + before.mean(), before.min(), before.max())
    np.testing.assert_allclose(channel.numpy(), wanted, atol=1e-5)


def test_low_resolution_of_a_constant_is_the_constant() -> None:
    flat = torch.full((7, 8, 9), 3.5)
    intensity.lower_resolution(flat, 0.6, keep_axis_0=False)
    torch.testing.assert_close(flat, torch.full((7, 8, 9), 3.5))


def test_low_resolution_picks_nearest_and_goes_back_linearly() -> None:
    line = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7]).view(1, 1, 8).clone()
    intensity.lower_resolution(line, 0.5, keep_axis_0=False)
    # Picked: voxels floor((i + 0.5)·2) = 1, 3, 5, 7; then half-pixel linear interpolation, edges repeated.
    np.testing.assert_allclose(line.flatten(), [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7])


def test_low_resolution_can_leave_axis_0_alone() -> None:
    steps = torch.arange(6.0).view(6, 1, 1).expand(6, 8, 8).clone()
    intensity.lower_resolution(steps, 0.5, keep_axis_0=True)
    torch.testing.assert_close(steps[:, 0, 0], torch.arange(6.0))


def test_full_zoom_changes_nothing(channel: torch.Tensor) -> None:
    before = channel.clone()
    intensity.lower_resolution(channel, 1.0, keep_axis_0=False)
    torch.testing.assert_close(channel, before)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_bends_and_restores_mean_and_deviation(channel: torch.Tensor, exponent: float, inverted: bool) -> None:
    x = channel.numpy().astype(np.float64) * (-1 if inverted else 1)
    bent = ((x - x.min()) / np.ptp(x)) ** exponent * np.ptp(x) + x.min()
    wanted = ((bent - bent.mean()) / bent.std() * x.std() + x.mean()) * (-1 if inverted else 1)
    intensity.change_gamma(channel, exponent, inverted=inverted)
    np.testing.assert_allclose(channel.numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_channels_survive_all_transforms(value: float) -> None:
    flat = torch.full((4, 5, 6), value)
    intensity.change_gamma(flat, 1.3, inverted=False)
    intensity.change_gamma(flat, 0.8, inverted=True)
    intensity.change_contrast(flat, 1.2)
    intensity.blur(flat, (0.7, 0.7, 0.7))
    torch.testing.assert_close(flat, torch.full((4, 5, 6), value))
