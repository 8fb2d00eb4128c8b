"""Intensity statistics in bounded memory: one small sketch per case and channel, pooled so that all cases weigh the same.

nnU-Net draws the same number of foreground voxels, with replacement, from every case and pools about 10⁸ of them. Drawn
without end, that sample is the mixture of the cases' own distributions with equal weights; we compute that mixture.
Means, deviations and extremes are exact; percentiles come from each case's quantiles at `GRID`, fine in the tails,
where the outer percentiles are read.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from planners.contract import Contract
from planners.fingerprint import IntensityStatistics

GRID = np.unique(np.concatenate([np.linspace(0, 0.02, 201), np.linspace(0.02, 0.98, 385), np.linspace(0.98, 1, 201)]))
SAMPLE = 10**6


class IntensitySketch(Contract):
    """The intensities of one channel of one case over its foreground.

    quantiles   at the probabilities `GRID`: little-endian float32, base64
    """

    voxels: int = Field(ge=1)
    mean: float
    std: float = Field(ge=0)
    min: float
    max: float
    quantiles: str

    def curve(self) -> np.ndarray:
        """The quantiles at `GRID`, float64."""
        return np.frombuffer(base64.b64decode(self.quantiles), dtype="<f4").astype(np.float64)

    def quantile(self, probability: float) -> float:
        """The quantile at one probability, interpolated."""
        return float(np.interp(probability, GRID, self.curve()))


def sketch(values: np.ndarray) -> IntensitySketch | None:
    """The sketch of the (n,) foreground intensities of one channel; None where there are none.

    Mean, deviation and extremes are of all values; quantiles of at most a million, drawn with a fixed seed.
    """
    if not len(values):
        return None
    curve = quantiles(values, GRID).astype("<f4")
    return IntensitySketch(
        voxels=len(values),
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        min=float(values.min()),
        max=float(values.max()),
        quantiles=base64.b64encode(curve.tobytes()).decode(),
    )


def quantiles(values: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Quantiles of (n,) values, float64, linear between neighbours; of a million drawn by a fixed seed where n is larger."""
    if len(values) > SAMPLE:
        values = values[np.random.default_rng(0).integers(0, len(values), SAMPLE)]
    at: np.ndarray = np.interp(probabilities * (len(values) - 1), np.arange(len(values)), np.sort(values))
    return at


def pooled(sketches: Sequence[IntensitySketch]) -> IntensityStatistics:
    """Statistics of the mixture of all cases, every case weighing the same. Raises ValueError where there is no case."""
    if not sketches:
        raise ValueError("no case has foreground intensities to pool")
    means = np.array([s.mean for s in sketches])
    variance = np.mean([s.std**2 for s in sketches]) + means.var()
    low, median, high = _mixture_quantiles(sketches, (0.005, 0.5, 0.995))
    return IntensityStatistics(
        mean=float(means.mean()),
        median=median,
        std=float(np.sqrt(variance)),
        min=min(s.min for s in sketches),
        max=max(s.max for s in sketches),
        percentile_00_5=low,
        percentile_99_5=high,
    )


def _mixture_quantiles(sketches: Sequence[IntensitySketch], probabilities: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of the equal mixture; each case stands as its quantiles, weighted by the probability around each."""
    edges = np.concatenate([[0], (GRID[1:] + GRID[:-1]) / 2, [1]])
    values = np.concatenate([s.curve() for s in sketches])
    weights = np.tile(np.diff(edges), len(sketches)) / len(sketches)
    order = np.argsort(values, kind="stable")
    centres = np.cumsum(weights[order]) - weights[order] / 2
    return tuple(float(v) for v in np.interp(probabilities, centres, values[order]))
