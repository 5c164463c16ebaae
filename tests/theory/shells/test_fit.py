"""The fit finds what made the profiles, says how well, and rejects the other equation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lnpjax.status import Status
from lnpjax.theory.shells import ScaleFree, fit_scale_free, shell_energies

EQUATIONS = ("conservative", "advective")
EDGES = jnp.logspace(-4, 1, 13)
TIMES = jnp.array([2.0, 7.0, 30.0])
SPECTRA = ((0.3, -0.5, 1.0), (-0.4, 0.2, 3.0), (0.9, -1.4, 0.2), (-1.4, -0.5, 1.0))

# Compiled once for each equation: compilation is nearly all that a fit of this size costs.
fit = functools.cache(
    lambda equation: jax.jit(functools.partial(fit_scale_free, equation=equation))
)


def profiles(c0, p, cutoff, equation):
    return shell_energies(ScaleFree(c0, p, 2.5, TIMES[0], cutoff), EDGES, TIMES, equation=equation)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_exact_profiles_give_their_parameters_back(x64, equation):
    for c0, p, cutoff in SPECTRA:
        result = fit(equation)(EDGES, profiles(c0, p, cutoff, equation), TIMES)
        found = result.model
        np.testing.assert_allclose(
            [found.c0, found.p, found.amplitude, found.cutoff], [c0, p, 2.5, cutoff], rtol=1e-9
        )
        assert result.residual < 1e-10
        assert bool(result.converged)
        assert int(result.status) == Status.OK
        assert int(result.num_points + result.num_left_out) == 36


def test_the_other_equation_does_not_fit(x64):
    for c0, p, cutoff in SPECTRA:
        energies = profiles(c0, p, cutoff, "conservative")
        wrong = fit("advective")(EDGES, energies, TIMES)
        assert wrong.residual > 0.1
        assert abs(wrong.model.c0 - c0) > 0.05


def test_noise_is_covered_by_the_standard_errors(x64):
    """Deviations of c0 and p over 24 noisy copies, in units of the errors that the fit states."""
    c0, p, cutoff = 0.3, -0.5, 1.0
    exact = np.asarray(profiles(c0, p, cutoff, "conservative"))
    noise = np.exp(0.1 * np.random.default_rng(3).normal(size=(24, *exact.shape)))
    results = [fit("conservative")(EDGES, exact * factor, TIMES) for factor in noise]
    for index, (name, truth) in enumerate([("c0", c0), ("p", p)]):
        found = np.array([getattr(result.model, name) for result in results])
        stated = np.array([result.standard_errors[index] for result in results])
        deviations = (found - truth) / stated
        assert 0.6 < np.sqrt(np.mean(deviations**2)) < 1.5
        assert np.abs(found - truth).max() < 0.1
    residuals = np.array([result.residual for result in results])
    np.testing.assert_allclose(residuals.mean(), 0.1, rtol=0.1)


def test_given_errors_weight_the_points():
    c0, p, cutoff = 0.3, -0.5, 1.0
    exact = profiles(c0, p, cutoff, "conservative")
    spoiled = exact.at[1, 3].mul(3.0)
    errors = 0.01 * exact
    weighted = jax.jit(lambda e, s: fit_scale_free(EDGES, e, TIMES, errors=s))
    trusted, told = weighted(spoiled, errors), weighted(spoiled, errors.at[1, 3].mul(1e4))
    assert abs(told.model.c0 - c0) < 1e-3 < abs(trusted.model.c0 - c0)
    assert told.residual < 0.1 < trusted.residual


def test_what_is_no_energy_is_left_out():
    energies = profiles(0.3, -0.5, 1.0, "conservative")
    energies = energies.at[0, 2].set(jnp.nan).at[1, 0].set(0.0).at[2, 4].set(jnp.inf)
    clean = fit("conservative")(EDGES, profiles(0.3, -0.5, 1.0, "conservative"), TIMES)
    result = fit("conservative")(EDGES, energies, TIMES)
    assert int(clean.num_points - result.num_points) == 3
    assert result.model.c0 == pytest.approx(0.3, abs=1e-4)
    assert result.model.p == pytest.approx(-0.5, abs=1e-4)


def test_too_few_points_are_flagged():
    energies = jnp.zeros((3, 12)).at[:2, :2].set(1.0)
    result = fit("conservative")(EDGES, energies, TIMES)
    assert int(result.status) == Status.TOO_FEW_POINTS
    assert int(result.num_points) == 4
    assert not bool(result.converged)
    assert np.isnan(result.model.c0)
    assert np.isnan(result.residual)


@pytest.mark.parametrize(
    ("change", "error", "argument"),
    [
        ({"energies": np.ones((3, 11))}, ValueError, "energies"),
        ({"energies": np.ones((3, 12), int)}, TypeError, "energies"),
        ({"errors": np.ones((3, 11))}, ValueError, "errors"),
        ({"errors": np.zeros((3, 12))}, ValueError, "errors"),
        ({"times": np.array([1.0])}, ValueError, "times"),
        ({"times": np.array([1.0, 3.0, 2.0])}, ValueError, "times"),
        ({"edges": np.ones(13)}, ValueError, "edges"),
        ({"floor": 1.0}, ValueError, "floor"),
        ({"equation": "both"}, ValueError, "equation"),
    ],
)
def test_bad_input(change, error, argument):
    arguments = {"edges": EDGES, "energies": np.ones((3, 12)), "times": TIMES}
    with pytest.raises(error, match=f"^{argument}: expected"):
        fit_scale_free(**(arguments | change))
