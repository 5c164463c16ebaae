"""Times of the linear model against its integrated equation; what concentration predicts."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from lnpjax.theory.fourier import times as fourier_times

RATES = np.array([2.5, 1.3, 0.9, 0.2])
time_to_loss = jax.jit(fourier_times.time_to_loss)
BANDS = ("num_fast", "num_modes")
two_band_time = jax.jit(fourier_times.two_band_time, static_argnames=BANDS)
two_band_time_slope = jax.jit(fourier_times.two_band_time_slope, static_argnames=BANDS)
differentiated = jax.jit(jax.grad(fourier_times.two_band_time), static_argnames=BANDS)


def integrated(rates, targets, *, until=None, loss=None):
    """Coefficients by integration from zero, at a time or where the loss is reached."""

    def remaining(_, a):
        return np.sum((a - targets) ** 2) / 2 - loss

    remaining.terminal = True
    solution = scipy.integrate.solve_ivp(
        lambda _, a: rates * (targets - a),
        (0, until or 1e3),
        np.zeros(len(rates)),
        events=remaining if loss else None,
        rtol=1e-10,
        atol=1e-13,
    )
    return solution.t[-1], solution.y[:, -1]


@pytest.mark.parametrize("loss", [0.05, 0.7, 1.9])
def test_matched_loss_leaves_the_spectrum_open(x64, loss):
    """F.4, with both times and both shares from integration."""
    targets = np.ones(4)
    shares = []
    for rates in (np.full(4, 0.8), RATES):
        time, coefficients = integrated(rates, targets, loss=loss)
        matched = time_to_loss(rates, targets, loss)
        np.testing.assert_allclose(matched, time, rtol=1e-7)
        shares.append(fourier_times.normalized_mass(jnp.asarray(coefficients**2))[0])
    np.testing.assert_allclose(time_to_loss(np.full(4, 0.8), targets, loss), np.log(2 / loss) / 1.6)
    np.testing.assert_allclose(shares[0], 1 / 4, rtol=1e-12)
    assert shares[1] > 1 / 4


def test_the_share_of_the_fastest_mode_only_falls(x64):
    times = np.geomspace(1e-3, 100, 50)[:, None]
    shares = np.asarray(fourier_times.normalized_mass(jnp.asarray(np.expm1(-RATES * times) ** 2)))
    assert np.all(np.diff(shares[:, 0]) < 0)
    np.testing.assert_allclose(shares[0], RATES**2 / np.sum(RATES**2), rtol=3e-3)
    np.testing.assert_allclose(shares[-1], 1 / 4, rtol=1e-8)


def test_time_to_loss_of_many_losses_and_far_rates(x64):
    rates, targets = np.array([1e6, 1.0, 1e-6]), np.array([1.0 + 1j, 0.5, 2.0])
    losses = np.array([[2.9, 2.1], [2.001, 1e-3]])
    times = time_to_loss(rates, targets, losses)
    remaining = np.abs(targets) ** 2 * np.exp(-2 * rates * np.asarray(times)[..., None])
    np.testing.assert_allclose(remaining.sum(axis=-1) / 2, losses, rtol=1e-10)


def test_concentration_predicts_time_to_target(x64):
    """F.5: both derivatives, by integrated dynamics at two slow rates and by differentiation."""
    bands = {"fast_rate": 1.5, "num_fast": 2, "num_modes": 5}
    time, loss, slow_rates = 0.4, 0.3, np.array([0.3, 0.3001])
    targets = np.ones(5)
    concentrations, times = [], []
    for slow_rate in slow_rates:
        rates = np.repeat([1.5, slow_rate], [2, 3])
        early = integrated(rates, targets, until=time)[1] ** 2
        concentrations.append(early[:2].sum() / early.sum())
        times.append(integrated(rates, targets, loss=loss)[0])
    np.testing.assert_allclose(
        fourier_times.fast_band_concentration(time, slow_rates, **bands), concentrations, rtol=1e-9
    )
    np.testing.assert_allclose(two_band_time(0.3, loss=loss, **bands), times[0], rtol=1e-8)
    slope = fourier_times.fast_band_concentration_slope(time, 0.3, **bands)
    np.testing.assert_allclose(np.diff(concentrations) / 1e-4, slope, rtol=1e-3)
    time_slope = two_band_time_slope(0.3, loss=loss, **bands)
    np.testing.assert_allclose(np.diff(times) / 1e-4, time_slope, rtol=1e-3)
    assert slope < 0
    assert time_slope < 0
    np.testing.assert_allclose(differentiated(0.3, loss=loss, **bands), time_slope, rtol=1e-12)


def test_between_fast_rates_concentration_predicts_the_opposite(x64):
    """F.5 holds in its family only: where the fast rate varies, more concentrated is sooner."""
    bands = {"num_fast": 2, "num_modes": 5}
    slow, fast = (
        (
            fourier_times.fast_band_concentration(0.4, 0.3, fast_rate=rate, **bands),
            two_band_time(0.3, fast_rate=rate, loss=1.6, **bands),
        )
        for rate in (1.0, 1.5)
    )
    assert fast[0] > slow[0]
    assert fast[1] < slow[1]


@pytest.mark.parametrize("targets", [None, np.array([0.5, 1.0, 2.0, 0.7])])
def test_crossovers_are_where_integrated_updates_cross(x64, targets):
    """F.10, by roots of the difference of the two update energies."""
    beta = np.ones(4) if targets is None else targets
    times = np.asarray(fourier_times.crossover_times(jnp.asarray(RATES), targets))
    np.testing.assert_array_equal(np.isnan(times), np.eye(4, dtype=bool))
    crossed = 0
    for i, j in itertools.combinations(range(4), 2):

        def excess(time, pair=(i, j)):
            remaining = beta - integrated(RATES, beta, until=time)[1]
            first, second = (RATES * remaining)[list(pair)] ** 2
            return first - second

        if times[i, j] > 0:
            crossed += 1
            root = scipy.optimize.brentq(excess, times[i, j] / 2, 2 * times[i, j], xtol=1e-8)
            assert root == pytest.approx(times[i, j], rel=1e-6)
            assert excess(times[i, j] / 10) > 0
        assert excess(max(times[i, j], 0) + 0.5) < 0
    assert crossed == (6 if targets is None else 3)


def test_the_last_crossover_is_that_of_the_slowest_pair(x64):
    rates = np.random.default_rng(0).uniform(0.1, 3, size=12)
    time = fourier_times.reversal_time(jnp.asarray(rates))
    pairs = fourier_times.crossover_times(jnp.asarray(rates))
    np.testing.assert_allclose(time, np.nanmax(pairs), rtol=1e-12)
    order = np.argsort(rates)
    for factor, reversed_now in ((1.001, True), (0.999, False)):
        updates = (rates * np.exp(-rates * factor * time))[order]
        assert bool(np.all(np.diff(updates) < 0)) == reversed_now
    # By then all modes but the slowest are learned to 1 - 1/e.
    assert np.all(np.exp(-rates * time)[order[1:]] < np.exp(-1))


PAIR = {"fast_rate": 1.0, "num_modes": 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fourier_times.time_to_loss(jnp.zeros(2), jnp.ones(2), 0.5), "rates: "),
        (lambda: fourier_times.time_to_loss(jnp.ones(2), jnp.ones(2), 1.0), "loss: .*initial loss"),
        (lambda: fourier_times.time_to_loss(jnp.ones(2), jnp.ones(2), 0.0), "loss: "),
        (lambda: fourier_times.fast_band_concentration(1.0, 1.0, num_fast=2, **PAIR), "num_fast"),
        (lambda: fourier_times.two_band_time(1.0, loss=0.1, num_fast=0, **PAIR), "num_fast"),
        (lambda: fourier_times.two_band_time(-1.0, loss=0.1, num_fast=1, **PAIR), "slow_rate"),
        (lambda: fourier_times.crossover_times(jnp.array([1.0, 0.0])), "rates: "),
        (lambda: fourier_times.reversal_time(jnp.ones(1)), "rates: .*two"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
