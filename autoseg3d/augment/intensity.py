"""Intensity transforms: noise, blur, brightness, contrast, simulated low resolution, gamma.

Each changes a float32 tensor in place: `add_noise` a whole image (C, Z, Y, X), the others one channel (Z, Y, X).
Statistics stay on the device, so that nothing waits for it. Source: nnU-Net v2's default training transforms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

_EPSILON = 1e-7


def add_noise(image: torch.Tensor, *, sigma: float, seed: int) -> None:
    """Adds Gaussian noise of standard deviation `sigma`; one seed gives one field on one kind of device."""
    generator = torch.Generator(device=image.device).manual_seed(seed)
    image.add_(torch.randn(image.shape, generator=generator, device=image.device), alpha=sigma)


def blur(channel: torch.Tensor, sigmas: Sequence[float]) -> None:
    """Gaussian smoothing with one sigma (voxels) per axis, edges reflected about the outermost voxel.

    Axes of a single voxel are left alone.
    """
    source, target = channel.clone(), channel
    for axis, sigma in enumerate(sigmas):
        if channel.shape[axis] > 1:
            _convolve(source, gaussian_kernel(sigma), axis, out=target)
            source, target = target, source
    if source is not channel:
        channel.copy_(source)


def gaussian_kernel(sigma: float) -> list[float]:
    """The centre tap and the taps to one side of it of a normalised kernel; its full length is the odd number nearest 6σ + 0.5."""
    reach = int((6 * sigma + 0.5) // 2)
    taps = torch.exp(-0.5 * (torch.arange(reach + 1, dtype=torch.float64) / sigma) ** 2)
    return (taps / (2 * taps.sum() - taps[0])).tolist()


def _convolve(source: torch.Tensor, taps: Sequence[float], axis: int, *, out: torch.Tensor) -> None:
    torch.mul(source, taps[0], out=out)
    n = source.shape[axis]
    for shift, tap in enumerate(taps[1:], start=1):
        inner = max(0, n - shift)
        if inner:
            out.narrow(axis, 0, inner).add_(source.narrow(axis, shift, inner), alpha=tap)
            out.narrow(axis, shift, inner).add_(source.narrow(axis, 0, inner), alpha=tap)
        for start, direction in ((inner, shift), (0, -shift)):
            edge = [_reflected(i + direction, n) for i in range(start, start + n - inner)]
            mirrored = source.index_select(axis, torch.tensor(edge, device=source.device))
            out.narrow(axis, start, n - inner).add_(mirrored, alpha=tap)


def _reflected(i: int, n: int) -> int:
    period = 2 * (n - 1)
    i %= period
    return min(i, period - i)


def change_brightness(channel: torch.Tensor, factor: float) -> None:
    """Multiplies by `factor`."""
    channel.mul_(factor)


def change_contrast(channel: torch.Tensor, factor: float) -> None:
    """Multiplies the distance to the mean by `factor`, then clamps to the range the channel had."""
    low, high = torch.aminmax(channel)
    mean = channel.mean()
    channel.mul_(factor).add_(mean * (1 - factor)).clamp_(low, high)


def lower_resolution(channel: torch.Tensor, zoom: float, *, keep_axis_0: bool) -> None:
    """Picks the nearest voxels of a grid `zoom` times as dense and interpolates linearly back."""
    shape = tuple(max(1, round(n * zoom)) for n in channel.shape)
    if keep_axis_0:
        shape = (channel.shape[0], *shape[1:])
    coarse = functional.interpolate(channel[None, None], shape, mode="nearest-exact")
    channel.copy_(functional.interpolate(coarse, tuple(channel.shape), mode="trilinear", align_corners=False)[0, 0])


def change_gamma(channel: torch.Tensor, exponent: float, *, inverted: bool) -> None:
    """Raises the channel, scaled to 0…1, to a power; mean and standard deviation stay what they were.

    `inverted` works on the negated channel, so that it bends the bright end instead of the dark one.
    """
    if inverted:
        channel.neg_()
    mean = channel.mean()
    scratch = channel - mean
    deviation = _root_sum_of_squares(scratch)
    low, high = torch.aminmax(channel)
    channel.sub_(low).div_((high - low).clamp_min(_EPSILON)).pow_(exponent)
    channel.sub_(channel.mean())
    torch.mul(channel, channel, out=scratch)
    channel.mul_(deviation / scratch.sum().sqrt().clamp_min(_EPSILON)).add_(mean)
    if inverted:
        channel.neg_()


def _root_sum_of_squares(scratch: torch.Tensor) -> torch.Tensor:
    return scratch.mul_(scratch).sum().sqrt()
