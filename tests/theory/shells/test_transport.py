"""Transport and dissipation in closed form, against their differential equations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from lnpjax.theory.shells import transport as shells

EQUATIONS = ("conservative", "advective")
DRIFTS = (0.6, 0.0, -0.4, -1.0, -1.7)


def hump(u):
    """A spectrum of no particular kind."""
    return jnp.exp(-((jnp.log(u) + 2) ** 2)) + 0.1 / (1 + u)


@functools.partial(jax.jit, static_argnums=(1, 2))
def left_over(c0, residual_of, density_of, eigenvalue=0.3, time=2.5):
    """What is left of an equation, relative to its largest term."""

    def density(x, t):
        return shells.transported_density(hump, x, t, c0=c0, t0=1.5, equation=density_of)

    def flux(x, t):
        return shells.drift(x, t, c0=c0) * density(x, t)

    changes = jax.grad(density, 1)(eigenvalue, time)
    dissipation = 2 * eigenvalue * density(eigenvalue, time)
    if residual_of == "conservative":
        transport = jax.grad(flux)(eigenvalue, time)
    else:
        velocity = shells.drift(eigenvalue, time, c0=c0)
        transport = velocity * jax.grad(density)(eigenvalue, time)
    return (changes + transport + dissipation) / dissipation


@pytest.mark.parametrize("c0", DRIFTS)
@pytest.mark.parametrize("equation", EQUATIONS)
def test_each_density_solves_its_own_equation(x64, c0, equation):
    assert abs(left_over(c0, equation, equation)) < 1e-12


@pytest.mark.parametrize("c0", [0.6, -0.4])
@pytest.mark.parametrize(("residual_of", "density_of"), [EQUATIONS, EQUATIONS[::-1]])
def test_neither_solves_the_other(x64, c0, residual_of, density_of):
    """What is left is ``(c0 / t) eps``, the term that equation 10 leaves out."""
    sign = 1 if residual_of == "conservative" else -1
    expected = sign * c0 / 2.5 / (2 * 0.3)
    assert left_over(c0, residual_of, density_of) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_no_drift_is_dissipation_alone(x64, equation):
    eigenvalues = np.geomspace(1e-2, 10, 7)
    density = shells.transported_density(hump, eigenvalues, 4.0, c0=0.0, t0=1.5, equation=equation)
    expected = hump(eigenvalues) * np.exp(-2 * eigenvalues * 2.5)
    np.testing.assert_allclose(density, expected, rtol=1e-13)


@pytest.mark.parametrize("c0", DRIFTS)
def test_at_the_initial_time_nothing_has_happened(x64, c0):
    for equation in EQUATIONS:
        density = shells.transported_density(hump, 0.7, 1.5, c0=c0, t0=1.5, equation=equation)
        assert density == pytest.approx(float(hump(0.7)), rel=1e-14)


@pytest.mark.parametrize("c0", DRIFTS)
def test_characteristics_follow_the_drift(x64, c0):
    """Equations 8 and 9, and the dissipation along them (11), by an ODE solver."""
    label, t0, end = 0.3, 1.5, 6.0

    def rates(t, state):
        return [c0 * state[0] / t, -2 * state[0]]

    path = scipy.integrate.solve_ivp(rates, (t0, end), [label, 0.0], rtol=1e-11, atol=1e-13)
    eigenvalue, log_energy = path.y[:, -1]
    assert shells.characteristic(label, end, c0=c0, t0=t0) == pytest.approx(eigenvalue, rel=1e-9)
    dissipated = -2 * label * shells.dissipation_time(end, c0=c0, t0=t0)
    assert dissipated == pytest.approx(log_energy, rel=1e-9)


@pytest.mark.parametrize("c0", [-1.0, -1 + 1e-5, -1 - 3e-5, -1 + 1e-3])
def test_dissipation_time_is_smooth_where_its_formula_is_not(x64, c0):
    """At c0 = -1, where it is a logarithm, and on both sides of it."""
    expected, _ = scipy.integrate.quad(lambda t: (t / 2) ** c0, 2, 9, epsabs=0, epsrel=1e-13)
    assert shells.dissipation_time(9.0, c0=c0, t0=2.0) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(jax.grad(lambda c: shells.dissipation_time(9.0, c0=c, t0=2.0))(c0))


@pytest.mark.parametrize("c0", DRIFTS)
def test_transport_conserves_energy_only_where_it_says_so(x64, c0):
    """The amplitude is the density without dissipation; all of it, integrated."""
    x, dx = jnp.linspace(-30, 30, 4001, retstep=True)

    def energy(time, equation):
        carried = shells.amplitude(
            lambda u: jnp.exp(-((jnp.log(u)) ** 2)), jnp.exp(x), time, c0=c0, equation=equation
        )
        return float(jnp.sum(carried * jnp.exp(x)) * dx)

    assert energy(5.0, "conservative") == pytest.approx(energy(1.0, "conservative"), rel=1e-12)
    assert energy(5.0, "advective") == pytest.approx(5**c0 * energy(1.0, "advective"), rel=1e-12)


@pytest.mark.parametrize("c0", [0.6, -0.4])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_amplitude_growth_is_the_derivative(x64, c0, equation):
    eigenvalues = np.geomspace(1e-2, 3, 5)
    times = np.array([[2.0], [7.0]])

    def amplitude(t):
        return shells.amplitude(hump, eigenvalues, t, c0=c0, t0=1.5, equation=equation)

    _, derivative = jax.jvp(amplitude, (jnp.asarray(times),), (jnp.ones((2, 1)),))
    growth = shells.amplitude_growth(hump, eigenvalues, times, c0=c0, t0=1.5, equation=equation)
    assert growth.shape == (2, 5)
    np.testing.assert_allclose(growth, derivative, rtol=1e-10)


def test_energy_moves_up_with_a_positive_drift():
    """Section 6.3 has it move down while it takes c0 > 0."""
    assert shells.characteristic(1.0, 10.0, c0=0.5) > 1
    assert shells.drift(1.0, 10.0, c0=0.5) > 0


@pytest.mark.parametrize("enable", [False, True])
def test_runs_under_jit_in_either_precision(enable):
    jax.config.update("jax_enable_x64", enable)
    try:
        density = jax.jit(
            lambda x, t, c0: shells.transported_density(hump, x, t, c0=c0, equation="advective")
        )(jnp.array([0.1, 1.0]), 2.0, 0.5)
        assert density.dtype == (jnp.float64 if enable else jnp.float32)
        expected = shells.transported_density(
            hump, np.array([0.1, 1.0]), 2.0, c0=0.5, equation="advective"
        )
        np.testing.assert_allclose(density, expected, rtol=1e-5)
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: shells.drift(-1.0, 1.0, c0=0.5), "eigenvalues"),
        (lambda: shells.drift(1.0, 0.0, c0=0.5), "time"),
        (lambda: shells.characteristic(1.0, 1.0, c0=0.5, t0=-1.0), "t0"),
        (lambda: shells.dissipation_time(np.nan, c0=0.5), "time"),
        (lambda: shells.amplitude(hump, 1.0, 1.0, c0=0.5, equation="paper"), "equation"),
        (lambda: shells.amplitude_growth(hump, 0.0, 1.0, c0=0.5), "eigenvalues"),
        (lambda: shells.transported_density(hump, 1.0, np.inf, c0=0.5), "time"),
        (lambda: shells.check_edges(np.array([1.0])), "edges"),
        (lambda: shells.check_edges(np.array([1.0, 1.0])), "edges"),
    ],
)
def test_bad_input(call, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        call()
