"""The incomplete gamma function against quadrature, its recurrence, and scipy's."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from lnpjax.theory.shells import upper_incomplete_gamma

gamma = jax.jit(upper_incomplete_gamma)


def by_quadrature(order, lower):
    """In the logarithm of ``y / x``, piece by piece, so that neither end is special."""
    pieces = np.linspace(0, np.log(800 / lower + 2), 25)

    def integrand(log):
        return np.exp(order * (log + np.log(lower)) - lower * np.exp(log))

    return sum(
        scipy.integrate.quad(integrand, *ends, epsabs=0, epsrel=1e-13)[0]
        for ends in itertools.pairwise(pieces)
    )


@pytest.mark.parametrize("order", [-6.5, -2 + 1e-9, -1.0, -1e-6, 0.0, 0.3])
@pytest.mark.parametrize("lower", [1e-5, 1.999, 2.001, 25.0])
def test_every_order(x64, order, lower):
    np.testing.assert_allclose(gamma(order, lower), by_quadrature(order, lower), rtol=1e-12)


def test_positive_orders_are_those_of_scipy(x64):
    order, lower = np.meshgrid(np.linspace(0.05, 25, 41), np.geomspace(1e-8, 50, 40))
    expected = scipy.special.gammaincc(order, lower) * scipy.special.gamma(order)
    np.testing.assert_allclose(gamma(order, lower), expected, rtol=2e-12)


def test_the_recurrence(x64):
    order, lower = np.meshgrid(np.linspace(-4.3, 3.1, 23), np.geomspace(1e-3, 20, 17))
    higher = order * gamma(order, lower) + lower**order * np.exp(-lower)
    np.testing.assert_allclose(gamma(order + 1, lower), higher, rtol=1e-10, atol=1e-15)


def test_single_precision_needs_no_more_than_its_own_rounding():
    order, lower = np.meshgrid(np.linspace(-2, 3, 21), np.geomspace(1e-3, 20, 15))
    single = gamma(order.astype(np.float32), lower.astype(np.float32))
    exact = np.vectorize(by_quadrature)(order[::5, ::5], lower[::5, ::5])
    np.testing.assert_allclose(single[::5, ::5], exact, rtol=2e-5)


def test_derivatives(x64):
    derivatives = jax.jit(jax.grad(upper_incomplete_gamma, (0, 1)))
    step = 1e-5
    for order, lower in [(0.0, 0.5), (-1.0, 3.0), (0.4, 1e-3), (2.5, 1.0)]:
        by_order, by_lower = derivatives(order, lower)
        difference = (gamma(order + step, lower) - gamma(order - step, lower)) / (2 * step)
        np.testing.assert_allclose(by_order, difference, rtol=1e-7)
        np.testing.assert_allclose(by_lower, -(lower ** (order - 1)) * np.exp(-lower), rtol=1e-10)


def test_the_ends(x64):
    assert gamma(0.5, 0.0) == pytest.approx(np.sqrt(np.pi), rel=1e-14)
    assert np.isinf(gamma(-0.5, 0.0))
    assert np.isnan(gamma(0.5, -1.0))
    assert np.isnan(gamma(np.nan, 1.0))
