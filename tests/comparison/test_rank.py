"""Rank correlations against scipy's, and their chance against counting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lnpjax.comparison import family_correlations, min_max_normalize, spearman

X = np.array([0.3, 0.1, 0.9, 0.5, 0.5])
Y = np.array([2.0, 1.0, 1.5, 3.0, 2.0])


def test_rho_is_scipys_with_ties_and_p_counts_all_orders():
    found = spearman(X, Y)
    assert found.rho == pytest.approx(stats.spearmanr(X, Y).statistic)
    others = [
        stats.spearmanr(X, Y[list(order)]).statistic for order in itertools.permutations(range(5))
    ]
    assert found.p_value == pytest.approx(np.mean(np.abs(others) >= abs(found.rho) - 1e-9))
    assert found.exact
    assert found.num_runs == 5


@pytest.mark.parametrize("n", [3, 4, 6, 8])
def test_a_perfect_order_has_two_chances_in_n_factorial(n):
    """Chance does as well with the same order or its reverse."""
    x = np.arange(n, dtype=float)
    for sign in (1, -1):
        found = spearman(x, sign * np.exp(x))
        assert found.rho == pytest.approx(sign)
        assert found.p_value == pytest.approx(2 / math.factorial(n))


def test_many_runs_are_compared_with_a_sample_of_orders():
    rng = np.random.default_rng(1)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    found = spearman(x, y)
    assert not found.exact
    assert spearman(x, y) == found  # the same sample
    # The sample of 20 000 knows p to within sqrt(p / 20 000); scipy's is Student's approximation.
    reference = stats.spearmanr(x, y)
    assert found.rho == pytest.approx(reference.statistic)
    assert found.p_value == pytest.approx(reference.pvalue, rel=0.25)


def test_what_has_no_order_is_undefined():
    for x, y in (([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([], [])):
        found = spearman(np.array(x), np.array(y))
        assert math.isnan(found.rho)
        assert math.isnan(found.p_value)
    left = spearman(np.array([1, math.nan, 2, 3, 4.0]), np.array([1, 2, 3, math.nan, 4.0]))
    assert left.num_runs == 3
    with pytest.raises(ValueError, match="two vectors of one length"):
        spearman(np.zeros(3), np.zeros(4))


def test_normalising_keeps_proportions():
    values, degenerate = min_max_normalize(np.array([2.0, 6.0, math.nan, 3.0]))
    np.testing.assert_allclose(values, [0, 1, math.nan, 0.25])
    assert not degenerate
    assert min_max_normalize(np.array([math.nan])).degenerate


def test_families_within_on_average_and_pooled():
    x = [np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]), np.array([1.0, 1.0, 1.0])]
    y = [np.array([1.0, 1.5, 2.0]), np.array([1.0, 1.2, 1.4]), np.array([1.0, 2.0, 3.0])]
    found = family_correlations(x, y)
    rho = [stats.spearmanr(a, b).statistic for a, b in zip(x[:2], y[:2], strict=True)]
    assert [one.rho for one in found.within[:2]] == pytest.approx(rho)
    assert math.isnan(found.within[2].rho)
    assert found.num_families == 2
    assert found.mean.rho == pytest.approx(np.mean(rho))

    pooled_x = np.array([0, 0.5, 1, 0, 1, 0.5])
    pooled_y = np.concatenate(y[:2])
    assert found.pooled.rho == pytest.approx(stats.spearmanr(pooled_x, pooled_y).statistic)
    three = list(itertools.permutations(range(3)))
    orders = [[*a, *(3 + np.array(b))] for a, b in itertools.product(three, three)]
    others = np.array([stats.spearmanr(pooled_x, pooled_y[order]).statistic for order in orders])
    off = abs(others - others.mean())
    assert found.pooled.p_value == pytest.approx(np.mean(off >= off[0] - 1e-9))
    assert found.pooled.num_runs == 6
    # Three runs are ordered by 6 orders: both families at least as well, or as badly, by chance.
    means = [
        np.mean([r, s])
        for r in (1, 0.5, 0.5, -0.5, -0.5, -1)
        for s in (1, 0.5, 0.5, -0.5, -0.5, -1)
    ]
    assert found.mean.p_value == pytest.approx(np.mean(np.abs(means) >= np.mean(rho) - 1e-9))


def test_no_family_with_a_correlation():
    found = family_correlations([np.zeros(3)], [np.arange(3.0)])
    assert found.num_families == 0
    assert math.isnan(found.mean.rho)
    assert math.isnan(found.pooled.rho)
    with pytest.raises(ValueError, match="efficiencies: expected one per family"):
        family_correlations([np.zeros(3)], [])
