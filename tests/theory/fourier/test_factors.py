"""The two-layer model against the integrated flow of its two factors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from lnpjax.theory.fourier import factors as fourier_factors

TARGETS = np.array([1.0, 0.4, 0.0, 0.0, 2.0])
BAND = TARGETS > 0
INITIAL = np.array([0.01, 0.3, 0.2, 1e-3, 0.5])
products = jax.jit(fourier_factors.factor_products)


def integrated(targets, first, second, times):
    """u and v, each ``(time, mode)``."""

    def flow(_, state):
        u, v = np.split(state, 2)
        error = u * v - targets
        return -np.concatenate([error * v, error * u])

    start = np.concatenate([first, second])
    solution = scipy.integrate.solve_ivp(
        flow, (0, times[-1]), start, t_eval=times, rtol=1e-11, atol=1e-14
    )
    return np.split(solution.y.T, 2, axis=1)


@pytest.mark.parametrize("initial", [INITIAL, np.array([3.0, 0.4, 1.0, 1.0, 2.5])])
def test_balanced_modes_are_logistic(x64, initial):
    """F.11, both branches; from below, at and above the targets."""
    times, start = np.array([0.0, 0.3, 2.0, 9.0]), np.sqrt(initial)
    u, v = integrated(TARGETS, start, start, times)
    np.testing.assert_allclose(u, v, rtol=1e-14)
    learned = products(TARGETS, initial, times)
    np.testing.assert_allclose(learned, u * v, rtol=1e-8)
    np.testing.assert_allclose(np.sqrt(learned), u, rtol=1e-8)


def test_the_formula_needs_the_balance(x64):
    """With the same product but unequal factors the flow is another, and faster."""
    start = np.sqrt(INITIAL)
    u, v = integrated(TARGETS, 2 * start, start / 2, np.array([0.0, 0.3]))
    balanced = products(TARGETS, INITIAL, 0.3)
    np.testing.assert_array_less(1e-2, abs(u[-1] * v[-1] - balanced)[BAND] / balanced[BAND])


def test_the_branches_join(x64):
    times = np.array([0.1, 10.0, 1e4])
    near = products(np.array([1e-13]), np.array([0.7]), times)
    np.testing.assert_allclose(near, products(np.zeros(1), np.array([0.7]), times), rtol=1e-8)
    assert products(np.ones(1), np.array([1e-3]), 1e6) == 1


@pytest.mark.parametrize("power", [1, 2])
def test_concentration_on_the_band_only_grows(x64, power):
    """F.12, with H from the integrated factors and its rate by differences."""
    times = np.linspace(0, 6, 61)
    start = np.sqrt(INITIAL)
    u, v = integrated(TARGETS, start, start, np.sort(np.append(times, times + 1e-4)))
    energies = (u * v) ** power
    concentration = energies[:, BAND].sum(axis=1) / energies.sum(axis=1)
    assert np.all(np.diff(concentration[::2]) > 0)
    learned = products(TARGETS, INITIAL, times)
    np.testing.assert_allclose(
        fourier_factors.band_concentration(learned**power, BAND), concentration[::2], rtol=1e-8
    )
    rates = fourier_factors.band_concentration_rate(TARGETS, learned, BAND, power=power)
    np.testing.assert_allclose(rates, np.diff(concentration)[::2] / 1e-4, rtol=2e-3)
    assert np.all(rates > 0)


def test_concentration_of_a_band_above_its_targets_falls(x64):
    """The hypothesis m_r(0) < beta_r is needed."""
    initial = np.array([4.0, 2.0, 1e-3, 1e-3, 8.0])
    learned = products(TARGETS, initial, np.array([0.0, 0.2]))
    concentration = fourier_factors.band_concentration(learned, BAND)
    assert concentration[1] < concentration[0]
    assert fourier_factors.band_concentration_rate(TARGETS, learned[0], BAND) < 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fourier_factors.factor_products(-jnp.ones(1), jnp.ones(1), 1.0), "targets: "),
        (lambda: fourier_factors.factor_products(jnp.ones(1), jnp.zeros(1), 1.0), "initial: "),
        (lambda: fourier_factors.factor_products(jnp.ones(1), jnp.ones(1), -1.0), "time: "),
        (lambda: fourier_factors.band_concentration(jnp.ones(2), jnp.ones(3) > 0), "band: .*2 mod"),
        (lambda: fourier_factors.band_concentration(-jnp.ones(2), jnp.ones(2) > 0), "energies: "),
        (
            lambda: fourier_factors.band_concentration_rate(
                jnp.ones(2), jnp.ones(2), jnp.ones(2) > 0, power=0
            ),
            "power: ",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
