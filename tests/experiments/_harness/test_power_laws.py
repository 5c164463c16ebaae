"""Power laws that are known, read from means with noise."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    draws_of_log_means,
    draws_of_log_ratios,
    standard_error,
)
from lnpjax.experiments._harness.power_laws import (
    bent_power_law,
    crossover,
    exponent,
    limited_exponent,
    moving_bend,
)

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


@pytest.mark.parametrize("place", [20.0, 300.0, 2000.0])
def test_a_crossover_is_found_also_at_the_ends(place):
    means = 30 / (1 + SCALES / place)
    fits = [
        crossover(SCALES, draws_of_log_means(members(means, 0.05, seed), seed=seed)).scale
        for seed in range(10)
    ]
    assert np.median([fit.value for fit in fits]) == pytest.approx(place, rel=0.05)
    held = [fit.interval(0.95).low <= place <= fit.interval(0.95).high for fit in fits]
    assert sum(held) >= 8


def test_a_misfit_widens_the_interval_of_a_crossover():
    smooth = 1 / (1 + SCALES / 100)
    lengths = []
    for means in (smooth, smooth * (1 + 0.1 * (-1.0) ** np.arange(8))):
        fit = crossover(SCALES, draws_of_log_means(members(means, 0.02, 0)))
        low, high = np.log(fit.scale.interval(0.95))
        lengths.append(high - low)
    assert lengths[1] > 3 * lengths[0]
    assert crossover(SCALES[:3], draws_of_log_means(members(SCALES[:3], 0.1, 0))).scale is UNKNOWN


@pytest.mark.parametrize("move", [0.0, 0.5, 1.0])
def test_a_bend_that_moves_is_told_from_one_that_stays(move):
    sizes = np.array([0.25, 1.0, 4.0])
    curves = []
    for seed, size in enumerate(sizes):
        bend = 64 * size**move
        exact = np.minimum(SCALES / bend, 1.0) ** 0.3
        curves.append(draws_of_log_means(members(exact, 0.05, seed), seed=seed))
    found = moving_bend(SCALES, curves, sizes)
    low, high = found.interval(0.95)
    assert low <= move <= high
    assert high - low < 0.5


def test_straight_curves_say_nothing_about_their_bends():
    curves = [draws_of_log_means(members(SCALES**0.2, 0.05, seed), seed=seed) for seed in (1, 2)]
    low, high = moving_bend(SCALES, curves, np.array([1.0, 16.0])).interval(0.95)
    assert high - low > 1.5
    assert moving_bend(SCALES, curves[:1], np.array([1.0])) is UNKNOWN


def test_a_bend_that_is_known():
    exact = np.where(SCALES < 64, SCALES**0.5, 8 * (SCALES / 64) ** -0.1)
    means = draws_of_log_means(members(exact, 1e-3, 0))
    fit = bent_power_law(SCALES, means, bend=64.0)
    assert (fit.below.value, fit.above.value) == pytest.approx((0.5, -0.1), abs=1e-3)
    with pytest.raises(ValueError, match="bend: expected within the scales"):
        bent_power_law(SCALES, means, bend=8.0)


def test_ratios_of_means_know_that_values_are_paired():
    rng = np.random.default_rng(0)
    below = np.exp(0.4 * rng.standard_normal(400))
    above = 3 * below * (1 + 0.02 * rng.standard_normal(400))
    found = draws_of_log_ratios([above], [below])
    assert np.exp(found.rows[0, 0]) == pytest.approx(3, rel=0.01)
    assert found.errors[0] < 0.1 * standard_error(above) / above.mean()
