"""Bootstrap over cases: cases are drawn with replacement, whole, so that everything about a case moves together.

Percentile intervals of the mean (Efron 1979). The same numbers come out for the same values and seed, on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Interval = tuple[float, float] | tuple[None, None]

SEED = 1234


def resampled_means(values: np.ndarray, *, resamples: int, seed: int = SEED) -> np.ndarray:
    """The mean over finite values in each draw of cases: from (cases, …) to (draws, …), NaN where a draw has none."""
    cases = len(values)
    if not cases:
        return np.empty((0, *values.shape[1:]))
    weights = _draws(cases, resamples, seed)
    flat = values.reshape(cases, -1)
    finite = np.isfinite(flat)
    means = ratio(weights @ np.where(finite, flat, 0.0), weights @ finite)
    return means.reshape(resamples, *values.shape[1:])


@lru_cache(maxsize=1)
def _draws(cases: int, resamples: int, seed: int) -> np.ndarray:
    """How often each case stands in each draw: (draws, cases). Kept, since one analysis asks for the same draws again and again."""
    drawn = np.random.default_rng(seed).multinomial(cases, [1 / cases] * cases, size=resamples).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def interval(means: np.ndarray, *, confidence: float, cases: int) -> Interval:
    """The middle `confidence` of the means of the draws; none for less than two cases."""
    if cases < 2:
        return None, None
    low, high = np.nanpercentile(means, (50 - 50 * confidence, 50 + 50 * confidence))
    return float(low), float(high)


def label_means(values: np.ndarray) -> np.ndarray:
    """Means over the finite values of axis 0; NaN where there are none."""
    finite = np.isfinite(values)
    return ratio(np.where(finite, values, 0.0).sum(axis=0), finite.sum(axis=0))


def ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where count is 0."""
    result: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return result
