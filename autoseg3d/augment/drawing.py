"""Draw: the random numbers of one training sample, as a record that says everything `apply` will do."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from planners.contract import Contract, PositiveTriple, Triple
from planners.plan import AugmentationPlan, Range

Angles = tuple[float, float, float]
Sigmas = tuple[float, float, float]


class Noise(Contract):
    """Additive Gaussian noise: its standard deviation, and the seed that its field is generated from."""

    sigma: float = Field(ge=0)
    seed: int = Field(ge=0)


class Drawn(Contract):
    """What happens to one patch. None stands for a transform that was not drawn; tuples run over image channels.

    patch_size        (Z, Y, X) of the patch that comes out
    channels          image channels that intensity transforms work on; further channels of an image are one-hot masks
    in_plane          True where rotation and scaling stay in the plane of axes 1 and 2
    rotation_degrees  turns about axes 0, 1 and 2
    scale             multiplies the sampling grid: above 1 objects shrink
    noise             one field per channel, one sigma
    blur              Gaussian sigma per axis in voxels
    brightness        multiplier
    contrast          multiplier of the distance to the mean
    low_resolution    zoom, at most 1
    gamma_inverted    exponent, applied to the negated channel
    gamma             exponent
    mirror            axes to flip
    """

    patch_size: PositiveTriple
    channels: int = Field(ge=0)
    in_plane: bool = False
    rotation_degrees: Angles | None = None
    scale: float | None = Field(default=None, gt=0)
    noise: Noise | None = None
    blur: tuple[Sigmas | None, ...] | None = None
    brightness: tuple[float, ...] | None = None
    contrast: tuple[float, ...] | None = None
    low_resolution: tuple[float | None, ...] | None = None
    gamma_inverted: tuple[float, ...] | None = None
    gamma: tuple[float, ...] | None = None
    mirror: tuple[int, ...] = ()

    @property
    def is_spatial(self) -> bool:
        """Whether the patch is turned or scaled, so that voxels are interpolated."""
        return self.rotation_degrees is not None or self.scale is not None


def draw(plan: AugmentationPlan, rng: np.random.Generator, *, channels: int, patch_size: Triple, mirror_axes: tuple[int, ...]) -> Drawn:
    """Draws the transforms of one sample with the plan's probabilities and ranges.

    The recipe is nnU-Net v2's (its default training transforms), in its order. A patch of a single slice is turned
    and scaled in its plane, like every patch of a plan with `dummy_2d`.
    """
    in_plane = plan.dummy_2d or patch_size[0] == 1
    each = range(channels)
    return Drawn(
        patch_size=patch_size,
        channels=channels,
        in_plane=in_plane,
        rotation_degrees=_rotation(plan, rng, in_plane) if rng.random() < plan.rotation_probability else None,
        scale=float(rng.uniform(*plan.scale)) if rng.random() < plan.scale_probability else None,
        noise=_noise(plan, rng) if rng.random() < plan.noise_probability else None,
        blur=tuple(_sigmas(plan, rng) for _ in each) if rng.random() < plan.blur_probability else None,
        brightness=tuple(_multiplier(plan.brightness, rng) for _ in each) if rng.random() < plan.brightness_probability else None,
        contrast=tuple(_multiplier(plan.contrast, rng) for _ in each) if rng.random() < plan.contrast_probability else None,
        low_resolution=tuple(_zoom(plan, rng) for _ in each) if rng.random() < plan.low_resolution_probability else None,
        gamma_inverted=tuple(_multiplier(plan.gamma, rng) for _ in each) if rng.random() < plan.gamma_inverted_probability else None,
        gamma=tuple(_multiplier(plan.gamma, rng) for _ in each) if rng.random() < plan.gamma_probability else None,
        mirror=tuple(axis for axis in mirror_axes if rng.random() < 0.5),
    )


def _rotation(plan: AugmentationPlan, rng: np.random.Generator, in_plane: bool) -> Angles:
    a, b, c = (float(rng.uniform(-limit, limit)) for limit in plan.rotation_degrees)
    return (a, 0.0, 0.0) if in_plane else (a, b, c)


def _noise(plan: AugmentationPlan, rng: np.random.Generator) -> Noise:
    return Noise(sigma=float(rng.uniform(*plan.noise_sigma)), seed=int(rng.integers(2**63)))


def _sigmas(plan: AugmentationPlan, rng: np.random.Generator) -> Sigmas | None:
    if rng.random() >= plan.blur_channel_probability:
        return None
    z, y, x = (float(rng.uniform(*plan.blur_sigma)) for _ in range(3))
    return (z, y, x)


def _zoom(plan: AugmentationPlan, rng: np.random.Generator) -> float | None:
    if rng.random() >= plan.low_resolution_channel_probability:
        return None
    return float(rng.uniform(*plan.low_resolution_zoom))


def _multiplier(limits: Range, rng: np.random.Generator) -> float:
    """Half of the time from [low, 1], half from [1, high], so that weakening and strengthening are equally likely."""
    low, high = limits
    if rng.random() < 0.5 and low < 1:
        return float(rng.uniform(low, min(1.0, high)))
    return float(rng.uniform(max(low, 1.0), max(high, 1.0, low)))
