"""The signed-rank test against all sign patterns and scipy's, Holm's correction by hand."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from autoseg3d.evaluation.signed_rank import holm, signed_rank_p


def _by_permutation(differences: np.ndarray) -> float:
    """All sign patterns, one by one."""
    ranks = rankdata(np.abs(differences))
    signs = np.array(list(product((0, 1), repeat=len(ranks))))
    middle = ranks.sum() / 2
    return float((np.abs(signs @ ranks - middle) >= abs(ranks[differences > 0].sum() - middle) - 1e-9).mean())


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_the_exact_test_is_that_of_all_sign_patterns_also_with_ties(count: int) -> None:
    for seed in range(5):
        differences = np.random.default_rng(seed).integers(1, 5, count) * np.random.default_rng(seed + 9).choice([-1.0, 1.0], count)
        assert signed_rank_p(differences, np.zeros(count)) == pytest.approx(_by_permutation(differences))


@pytest.mark.parametrize("count", [20, 50, 80])
def test_the_test_is_that_of_scipy_without_ties(count: int) -> None:
    values = np.random.default_rng(count).normal(0.2, 1, (count, 2))
    method = "exact" if count <= 50 else "auto"  # the normal approximation, whatever its name
    assert signed_rank_p(values[:, 0], values[:, 1]) == pytest.approx(wilcoxon(values[:, 0], values[:, 1], method=method).pvalue)


def test_pairs_that_are_equal_do_not_count() -> None:
    a = np.array([1.0, 2.0, 3.0, 5.0, 7.0])
    assert signed_rank_p(a, a) is None
    assert signed_rank_p(np.r_[a, 4.0], np.r_[a - [1, 2, 3, 4, 5], 4.0]) == signed_rank_p(a, a - [1, 2, 3, 4, 5]) == 2 / 2**5


def test_an_infinite_difference_has_the_highest_rank() -> None:
    b = np.zeros(4)
    assert signed_rank_p(np.array([1.0, 2.0, 3.0, np.inf]), b) == signed_rank_p(np.array([1.0, 2.0, 3.0, 4.0]), b)
    assert signed_rank_p(np.array([1.0, 2.0, 3.0, -np.inf]), b) == signed_rank_p(np.array([1.0, 2.0, 3.0, -4.0]), b)


def test_holm_corrects_the_smallest_most_and_never_turns_the_order_round() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
