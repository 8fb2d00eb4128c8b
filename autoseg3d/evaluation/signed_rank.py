"""Wilcoxon's signed-rank test of paired values, and Holm's correction of several p values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EXACT_UP_TO = 50


def signed_rank_p(a: np.ndarray, b: np.ndarray) -> float | None:
    """The two-sided p value of paired values (cases,); None where no pair differs.

    Equal pairs are left out (Wilcoxon 1945). Infinite differences count as the largest. Exact, also with ties, up to 50
    pairs; the normal approximation beyond.
    """
    from scipy.stats import rankdata, wilcoxon

    unequal = a != b
    if not unequal.any():
        return None
    differences = a[unequal] - b[unequal]
    beyond = 1 + np.abs(differences[np.isfinite(differences)]).max(initial=0.0)
    differences = np.clip(differences, -beyond, beyond)
    if len(differences) > _EXACT_UP_TO:
        # With so many pairs the normal approximation, which is named otherwise in older versions of scipy.
        return float(wilcoxon(differences, method="auto").pvalue)
    return _exact_p(np.round(2 * rankdata(np.abs(differences))).astype(int), differences > 0)


def _exact_p(doubled_ranks: np.ndarray, positive: np.ndarray) -> float:
    """The share of all sign patterns whose sum of positive ranks is as far from its mean; ranks doubled, so that ties are whole."""
    total = int(doubled_ranks.sum())
    share = np.zeros(total + 1)
    share[0] = 1.0
    for rank in doubled_ranks:
        share[rank:] = (share[rank:] + share[: total + 1 - rank]) / 2
        share[:rank] /= 2
    distance = np.abs(2 * np.arange(total + 1) - total)
    observed = abs(2 * int(doubled_ranks[positive].sum()) - total)
    return min(1.0, float(share[distance >= observed].sum()))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) correction of p values among each other; None stays None and is not counted."""
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[i] = highest
    return corrected
