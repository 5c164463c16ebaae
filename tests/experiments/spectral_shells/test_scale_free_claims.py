"""Every rule on scale-free transport on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments._harness.estimates import without_one
from lnpjax.experiments.spectral_shells.scale_free import claims
from lnpjax.experiments.spectral_shells.scale_free.config import PRESETS
from lnpjax.experiments.spectral_shells.scale_free.measure import edges_of, fits_unit
from lnpjax.experiments.spectral_shells.scale_free.results import EQUATIONS, Fit, Transport, fit_of
from lnpjax.theory.shells import ScaleFree, shell_energies

CONFIG = PRESETS["cpu"]
SEEDS, TIMES = CONFIG.num_seeds, CONFIG.steps * CONFIG.step
NUM_EDGES = 12
FEW = 10  # where whole profiles are fitted
PAPER, OURS = EQUATIONS
LOSS = {PAPER: lambda c0, p: (1 + c0) * p + 1, OURS: lambda c0, p: (1 + c0) * (p + 1)}


def transport(rng, *, c0=0.6, flux=0.6, late=0.0, high=0.0, power=0.0):
    """Energy that crosses edges with a drift, and a loss that falls with a power of time.

    Seeds' drifts scatter by 0.06, and what each interval and edge sees of one by another 0.3.
    """
    shape = (SEEDS, len(TIMES) - 1, NUM_EDGES)
    supposed = np.exp(0.3 * rng.standard_normal(shape))
    shares = np.linspace(-1, 1, shape[1])[:, None], np.linspace(-1, 1, NUM_EDGES)
    common = 0.06 * rng.standard_normal((SEEDS, 1, 1))
    drift = late * shares[0] + high * shares[1] + common + 0.3 * rng.standard_normal(shape)
    losses = TIMES**-power * np.exp(0.1 * rng.standard_normal((SEEDS, 1)))
    return Transport(TIMES, losses, (flux + drift) * supposed, (c0 + drift) * supposed, supposed)


def fit(rng, *, c0=0.6, p=-0.3, residual=0.3):
    """A fit whose numbers are means over seeds, which scatter as in the rows."""

    def number(value, scatter):
        seeds = value + scatter * rng.standard_normal(SEEDS)
        return np.array([seeds[some].mean() for some in without_one(SEEDS)])

    ones = np.ones(SEEDS + 1)
    return Fit(number(c0, 0.1), number(p, 0.1), ones, ones, number(residual, 0.18), ones)


def linear(rng, **shape):
    return claims.linear_drift(transport(rng, **shape), [])


def fluxes(rng, flux):
    return claims.fluxes_carry(transport(rng, flux=flux), [])


def described(rng, residual):
    fits = {"lazy": fit(rng, residual=0.3), "feature": fit(rng, residual=residual)}
    return claims.described(OURS, fits, [])


def fitted_drift(rng, c0):
    return claims.drift_is_fitted(OURS, fit(rng, c0=c0), transport(rng, c0=0.6), [])


def exponent(rng, equation, true, c0=0.6, p=-0.3):
    """A loss that falls as one equation says, judged by another or the same."""
    fits = {"lazy": fit(rng, c0=0.0, p=p), "feature": fit(rng, c0=c0, p=p)}
    found = {
        "lazy": transport(rng, c0=0.0, power=p + 1),
        "feature": transport(rng, c0=c0, power=LOSS[true](c0, p)),
    }
    return claims.exponent(equation, fits, found, [])


def straight(rng, bend):
    found = transport(rng, power=0.8)
    losses = found.losses * np.exp(-bend * np.log(TIMES / TIMES[0]) ** 2)
    return claims.straight({"feature": found._replace(losses=losses)}, [])


WORLDS = {
    "a straight loss": World(functools.partial(straight, bend=0.02), "holds"),
    "a loss that bends": World(functools.partial(straight, bend=0.2), "does not hold"),
    "one drift": World(linear, "holds"),
    "a drift that falls": World(functools.partial(linear, late=-0.6), "does not hold"),
    "a drift by eigenvalue": World(functools.partial(linear, high=0.6), "does not hold"),
    "a drift at the bound": World(functools.partial(linear, late=0.2), "not holds"),
    "carried by fluxes": World(functools.partial(fluxes, flux=0.6), "holds"),
    "carried by crossings": World(functools.partial(fluxes, flux=0.0), "does not hold"),
    "described": World(functools.partial(described, residual=0.3), "holds"),
    "not described": World(functools.partial(described, residual=1.2), "does not hold"),
    "fitted drift": World(functools.partial(fitted_drift, c0=0.6), "holds"),
    "other fitted drift": World(functools.partial(fitted_drift, c0=0.0), "does not hold"),
    "ours, true": World(functools.partial(exponent, equation=OURS, true=OURS), "holds"),
    "ours, false": World(functools.partial(exponent, equation=OURS, true=PAPER), "does not hold"),
    "paper's, true": World(functools.partial(exponent, equation=PAPER, true=PAPER), "holds"),
    "paper's, false": World(
        functools.partial(exponent, equation=PAPER, true=OURS), "does not hold"
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)


# Fits of whole profiles: energies of seeds that scatter about the solution of an equation.


def fits_of_profiles(rng, true, c0, scatter, bump=0.0):
    """Fits by both equations to profiles of a world in which one of them is true."""
    model = ScaleFree(c0=c0, p=-0.3, cutoff=5.0, t0=TIMES[0])
    with jax.enable_x64(True):
        mean = np.asarray(shell_energies(model, edges_of(CONFIG, 1.0), TIMES, equation=true))
    mean = mean * np.exp(bump * np.cos(np.pi * np.arange(mean.shape[1])))
    seeds = mean * np.exp(scatter * rng.standard_normal((SEEDS, 1, mean.shape[1])))
    rows = fits_unit(CONFIG, "feature", seeds).rows
    return {
        equation: fit_of([row for row in rows if row["equation"] == equation])
        for equation in EQUATIONS
    }


@pytest.mark.parametrize("true", EQUATIONS)
def test_profiles_tell_the_drift(true):
    """By the true equation; the other's may be as near, since profiles hardly tell them apart."""
    for trial in range(FEW):
        rng = np.random.default_rng(trial)
        fits = fits_of_profiles(rng, true, 0.6, 0.2)
        for c0, verdict in ((0.6, "holds"), (0.1, "does not hold")):
            found = transport(rng, c0=c0)
            assert claims.drift_is_fitted(true, fits[true], found, []).verdict == verdict


@pytest.mark.parametrize(("bump", "verdict"), [(0.0, "holds"), (1.5, "does not hold")])
def test_profiles_that_a_scale_free_solution_describes(bump, verdict):
    for trial in range(FEW):
        fits = fits_of_profiles(np.random.default_rng(trial), OURS, 0.6, 0.2, bump)
        assert claims.described(OURS, {"feature": fits[OURS]}, []).verdict == verdict


# Needs


@pytest.mark.parametrize(("c0", "met"), [(0.6, True), (0.05, False)])
def test_without_a_drift_nothing_is_said_of_it(c0, met):
    assert claims.drifts(transport(np.random.default_rng(0), c0=c0)).met == met


def test_fits_must_converge():
    good = fit(np.random.default_rng(0))
    assert claims.all_converged({"lazy": good, "feature": good}).met
    assert not claims.all_converged(
        {"lazy": good._replace(converged=np.zeros(SEEDS + 1)), "feature": good}
    ).met


@pytest.mark.parametrize(("power", "met"), [(0.7, True), (1.0, False)])
def test_a_power_law_must_be_long_enough_for_the_loss_of_lazy_networks(power, met):
    rng = np.random.default_rng(0)
    fits = {"lazy": fit(rng, c0=0.0), "feature": fit(rng)}
    found = {"lazy": transport(rng, c0=0.0, power=power), "feature": transport(rng, power=1.1)}
    assert claims.exponent(OURS, fits, found, []).needs[-1].met == met
