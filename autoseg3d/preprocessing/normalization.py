"""Bringing intensities to a common scale, channel by channel, by nnU-Net's schemes."""

from __future__ import annotations

import numpy as np

from autoseg3d.errors import DataError
from planners.fingerprint import IntensityStatistics
from planners.plan import Configuration, Normalization

# Below this a standard deviation or range counts as none, so that constant regions stay finite.
_LEAST_SCALE = 1e-8


def normalize(
    image: np.ndarray, configuration: Configuration, intensities: tuple[IntensityStatistics, ...], *, inside: np.ndarray | None
) -> None:
    """Normalises a cropped (C, Z, Y, X) float32 image in place.

    Args:
        image: one channel per entry of `configuration.normalization`.
        intensities: foreground statistics of the training set per channel, for the "ct" scheme.
        inside: bool (Z, Y, X), where a channel with `use_mask_for_norm` is measured and scaled; elsewhere it keeps
            its zeros. Not needed where no channel uses it.

    Raises DataError, E_INTENSITY, where an "rgb_to_0_1" channel leaves 0 to 255.
    """
    for channel, scheme, masked, statistics in zip(
        image, configuration.normalization, configuration.use_mask_for_norm, intensities, strict=True
    ):
        if scheme == "zscore" and masked and inside is not None:
            values = channel[inside]
            _standardize(values)
            channel[inside] = values
        else:
            _normalize_channel(channel, scheme, statistics)


def _normalize_channel(channel: np.ndarray, scheme: Normalization, statistics: IntensityStatistics) -> None:
    match scheme:
        case "ct":
            np.clip(channel, statistics.percentile_00_5, statistics.percentile_99_5, out=channel)
            channel -= statistics.mean
            channel /= max(statistics.std, _LEAST_SCALE)
        case "zscore":
            _standardize(channel)
        case "rescale_to_0_1":
            channel -= channel.min()
            channel /= max(float(channel.max()), _LEAST_SCALE)
        case "rgb_to_0_1":
            low, high = float(channel.min()), float(channel.max())
            if low < 0 or high > 255:
                raise DataError("not a colour channel", code="E_INTENSITY", wanted="values from 0 to 255", got=f"{low:g} to {high:g}")
            channel /= 255.0
        case "none":
            pass


def _standardize(values: np.ndarray) -> None:
    """Shifts and scales an array in place to mean 0 and (population) standard deviation 1."""
    # Sums run in float64 over one slice at a time: exact enough for any size, without a float64 copy of the whole.
    parts = values if values.ndim > 1 else values[None]
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / max(values.size, 1)
    coarse = np.float32(mean)
    values -= coarse
    if rest := np.float32(mean - float(coarse)):
        values -= rest
    variance = sum(float(np.square(part, dtype=np.float64).sum()) for part in parts) / max(values.size, 1)
    values /= np.float32(max(np.sqrt(variance), _LEAST_SCALE))
