"""The scale-free spectrum against quadrature of its density, and its exponents against slopes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from lnpjax.theory.shells import ScaleFree, scale_free, self_similar
from lnpjax.theory.shells import transport as shells

EQUATIONS = ("conservative", "advective")
SPECTRA = (
    ScaleFree(0.6, -0.4, 1.7, 1.5, 0.3),
    ScaleFree(-0.5, 0.8, 0.2, 0.5, 0.0),
    ScaleFree(-1.0, -1.0, 3.0, 1.0, 2.0),
    ScaleFree(1.2, -2.3, 1.0, 2.0, 0.1),
    ScaleFree(-1.6, 0.0, 1.0, 1.0, 1.0),
)

loss = jax.jit(scale_free.loss, static_argnames="equation")
density = jax.jit(scale_free.energy_density, static_argnames="equation")
energy_balance = jax.jit(scale_free.energy_balance, static_argnames="equation")
shell_energies = jax.jit(scale_free.shell_energies, static_argnames=("equation", "moment"))

density_rate = jax.jit(jax.grad(scale_free.energy_density, 2), static_argnames="equation")


def integral(model, time, low, high, equation, moment=0):
    """By a fine sum in the logarithm, end points at half weight."""
    logs, width = np.linspace(np.log(low), np.log(high), 200_001, retstep=True)
    eigenvalues = np.exp(logs)
    values = np.asarray(density(model, eigenvalues, time, equation=equation))
    values = values * eigenvalues ** (1 + moment)
    return (values.sum() - (values[0] + values[-1]) / 2) * width


@pytest.mark.parametrize("model", SPECTRA)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_density_stays_a_power_with_a_cutoff(x64, model, equation):
    eigenvalues, time = np.geomspace(1e-2, 3, 6), 3.7
    expected = (
        scale_free.prefactor(model, time, equation=equation)
        * eigenvalues**model.p
        * np.exp(-scale_free.cutoff_at(model, time) * eigenvalues)
    )
    np.testing.assert_allclose(
        density(model, eigenvalues, time, equation=equation), expected, rtol=1e-12
    )


@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_papers_spectrum(x64, equation):
    """Equation 15 as it is printed; the conservative solution has ``t^-c0`` more."""
    c0, p, time = 0.4, -0.7, 5.0
    eigenvalues = np.geomspace(1e-3, 2, 6)
    printed = (eigenvalues * time**-c0) ** p * np.exp(-2 * eigenvalues * time / (1 + c0))
    factor = time**-c0 if equation == "conservative" else 1
    np.testing.assert_allclose(
        density(self_similar(c0, p), eigenvalues, time, equation=equation),
        factor * printed,
        rtol=1e-12,
    )


@pytest.mark.parametrize("model", SPECTRA)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_loss_and_shells_are_integrals_of_the_density(x64, model, equation):
    edges, time = np.geomspace(1e-3, 200, 12), 3.7
    whole = loss(model, time, lambda_min=1e-3, equation=equation)
    assert whole == pytest.approx(integral(model, time, 1e-3, 200, equation), rel=1e-9)
    energies = shell_energies(model, edges, time, equation=equation)
    assert float(energies.sum()) == pytest.approx(float(whole), rel=1e-10)
    for shell in (0, 3, 6):
        expected = integral(model, time, *edges[shell : shell + 2], equation)
        assert energies[shell] == pytest.approx(expected, rel=1e-9)
    first_moment = shell_energies(model, edges, time, equation=equation, moment=1)
    expected = integral(model, time, *edges[2:4], equation, moment=1)
    assert first_moment[2] == pytest.approx(expected, rel=1e-9)


def test_shells_whose_energy_no_float_can_hold():
    edges = jnp.array([6.0, 9.0, 13.0])
    model = self_similar(0.0, 0.0)
    logs = scale_free.log_shell_energies(model, edges, 10.0)
    assert jnp.all(scale_free.shell_energies(model, edges, 10.0) == 0)
    # integral e^(-20 x) = e^(-20 low) / 20
    np.testing.assert_allclose(logs, -20 * edges[:2] - np.log(20), rtol=1e-5)


@pytest.mark.parametrize(
    ("c0", "p"),
    [(0.5, 0.3), (-0.4, -0.6), (0.0, 1.0), (0.7, -1.8), (-0.4, -2.5), (-1.5, 0.5), (-1.5, -2.0)],
)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_loss_exponent_is_the_slope(x64, c0, p, equation):
    """From a pure power law, and for c0 < -1 from one without dissipation to come."""
    model = ScaleFree(c0, p, cutoff=1e-3)
    times = np.array([1e8, 1e9])
    losses = loss(model, times, lambda_min=1e-60 if p > -1 else 1e-30, equation=equation)
    slope = np.diff(np.log(losses)) / np.diff(np.log(times))
    exponent = scale_free.loss_exponent(c0, p, equation=equation)
    np.testing.assert_allclose(-slope[0], exponent, atol=2e-4)
    # The slope is that of one equation, not of the other.
    other = EQUATIONS[equation == "conservative"]
    assert abs(slope[0] + scale_free.loss_exponent(c0, p, equation=other)) > 1e-3 or c0 == 0


def test_exponents_as_printed():
    c0, p = 0.5, 0.3
    assert scale_free.loss_exponent(c0, p) == pytest.approx((1 + c0) * (p + 1), rel=1e-6)
    printed = (1 + c0) * p + 1
    assert scale_free.loss_exponent(c0, p, equation="advective") == pytest.approx(printed, rel=1e-6)


def test_loss_at_its_limits(x64):
    assert np.isinf(scale_free.loss(ScaleFree(0.5, 0.0), 1.0))  # a power law without a cutoff
    assert np.isinf(scale_free.loss(self_similar(0.5, -1.5), 2.0))  # and one without a lower end
    pure = scale_free.loss(ScaleFree(0.5, -3.0), 1.0, lambda_min=0.5)
    assert pure == pytest.approx(0.5**-2 / 2, rel=1e-14)
    # No drift: dissipation alone, and the two equations are one.
    frozen = ScaleFree(0.0, 0.5, cutoff=1.0)
    expected, _ = scipy.integrate.quad(lambda x: np.sqrt(x) * np.exp(-x * (1 + 2 * 2)), 0, 60)
    for equation in EQUATIONS:
        assert loss(frozen, 3.0, equation=equation) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("model", SPECTRA)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_books_balance(x64, model, equation):
    edges = np.geomspace(1e-3, 10, 9)
    balance = energy_balance(model, edges, jnp.array([2.5, 4.0]), equation=equation)
    total = balance.inflow + balance.created - balance.dissipation
    np.testing.assert_allclose(balance.rate, total, rtol=1e-9, atol=1e-10)
    # Fluxes between shells cancel: only the outer edges are left.
    later = jnp.array([[2.5], [4.0]])
    flux = shells.drift(edges, later, c0=model.c0) * density(model, edges, later, equation=equation)
    np.testing.assert_allclose(balance.inflow.sum(-1), flux[:, 0] - flux[:, -1], rtol=1e-9)
    assert bool(jnp.any(balance.created)) == (equation == "advective")


@pytest.mark.parametrize(("c0", "p"), [(0.8, -1.9), (0.8, -0.4), (-0.5, 0.6), (-0.5, -0.3)])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_growth_ends_where_the_density_peaks_in_time(x64, c0, p, equation):
    end = float(scale_free.growth_ends(0.3, c0=c0, p=p, equation=equation))
    rate = functools.partial(density_rate, self_similar(c0, p), 0.3, equation=equation)
    if end > 0:
        assert rate(0.99 * end) > 0 > rate(1.01 * end)
    else:
        assert rate(1e-3) < 0
        assert rate(10.0) < 0


def test_runs_under_jit_and_vmap():
    models = jax.vmap(lambda c0, p: self_similar(c0, p))(
        jnp.array([0.0, 0.5]), jnp.array([1.0, 0.0])
    )
    exponents = jax.jit(jax.vmap(lambda m: scale_free.loss_exponent(m.c0, m.p)))(models)
    np.testing.assert_allclose(exponents, [2.0, 1.5])
    losses = jax.jit(jax.vmap(lambda m: scale_free.loss(m, 2.0)))(models)
    np.testing.assert_allclose(losses, [1 / 16, 2**-0.5 * 3 / 8], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: self_similar(-1.0, 0.0), "c0"),
        (lambda: self_similar(0.5, 0.0, t0=0.0), "t0"),
        (lambda: scale_free.loss(SPECTRA[0], 1.0, lambda_min=-1.0), "lambda_min"),
        (lambda: scale_free.loss(SPECTRA[0], 1.0, equation="eq. 7"), "equation"),
        (lambda: scale_free.loss_exponent(0.5, 1.0, equation="eq. 7"), "equation"),
        (lambda: scale_free.shell_energies(SPECTRA[0], np.array([2.0, 1.0]), 1.0), "edges"),
        (lambda: scale_free.cutoff_at(SPECTRA[0], -1.0), "time"),
        (lambda: scale_free.growth_ends(0.0, c0=0.5, p=0.0), "eigenvalues"),
        (lambda: scale_free.growth_ends(1.0, c0=-1.5, p=0.0), "c0"),
    ],
)
def test_bad_input(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        call()
