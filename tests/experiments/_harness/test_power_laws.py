"""Power laws that are known, read from means with noise."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.experiments._harness.estimates import UNKNOWN, draws_of_log_means
from lnpjax.experiments._harness.power_laws import bent_power_law, exponent, limited_exponent

SCALES = 2.0 ** np.arange(3, 11)


def members(means, scatter, seed, count=20):
    rng = np.random.default_rng(seed)
    return [mean * (1 + scatter * rng.standard_normal(count)) for mean in means]


@pytest.mark.parametrize("truth", [0.5, 0.3, 1.0])
def test_an_exponent_next_to_a_limit_is_not_biased(truth):
    fits = [
        limited_exponent(SCALES, members(0.8 + 1.5 * SCALES**-truth, 0.02, seed), seed=seed)
        for seed in range(20)
    ]
    assert np.mean([fit.value for fit in fits]) == pytest.approx(truth, abs=0.03)
    held = [fit.interval(0.95).low <= truth <= fit.interval(0.95).high for fit in fits]
    assert sum(held) >= 17


def test_a_limit_is_never_negative():
    # Steeper than any power law with a limit above zero: the limit is zero.
    fit = limited_exponent(SCALES, members(SCALES**-0.4, 1e-4, 0))
    assert fit.value == pytest.approx(0.4, abs=0.011)
    assert limited_exponent(SCALES[:3], members(SCALES[:3], 0.01, 0)) is UNKNOWN


def test_a_misfit_widens_the_interval():
    smooth = 0.8 + SCALES**-0.5
    rough = smooth * (1 + 0.03 * (-1.0) ** np.arange(8))
    lengths = []
    for means in (smooth, rough):
        low, high = limited_exponent(SCALES, members(means, 0.01, 1)).interval(0.95)
        lengths.append(high - low)
    assert lengths[1] > 3 * lengths[0]


def test_bends_and_their_uncertainty():
    scales = 2.0 ** np.arange(9)
    exact = np.where(scales < 16, scales**0.5, 4 * (scales / 16) ** -0.1)
    fit = bent_power_law(scales, draws_of_log_means(members(exact, 0.1, 0)))
    for estimate, truth in ((fit.bend, 16), (fit.below, 0.5), (fit.above, -0.1)):
        low, high = estimate.interval(0.95)
        assert low < truth < high
    assert fit.bend.interval(0.95).high < 32
    straight = exponent(scales, draws_of_log_means([np.full(3, s**-0.7) for s in scales]))
    assert straight.value == pytest.approx(-0.7)
    assert straight.interval(0.95).low == pytest.approx(straight.interval(0.95).high)


def test_what_has_no_logarithm_is_unknown():
    scales = np.array([1.0, 2.0, 4.0, 8.0])
    means = draws_of_log_means([np.array([-1.0, -2.0]), *(np.full(2, s) for s in scales[1:])])
    bent = bent_power_law(scales, means)
    assert bent.bend is UNKNOWN
    assert np.all(np.isnan(bent.fitted))
    assert np.isnan(exponent(scales, means).interval(0.95).low)
    with pytest.raises(ValueError, match="scales: expected ascending scales"):
        bent_power_law(scales[::-1], means)
