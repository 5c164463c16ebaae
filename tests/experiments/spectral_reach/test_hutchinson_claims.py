"""Every rule on Hutchinson's estimator on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.hutchinson_convergence import claims
from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import PRESETS
from lnpjax.experiments.spectral_reach.hutchinson_convergence.results import (
    convergence_of,
    cost_in_gradients,
)

CPU = PRESETS["cpu"]
SPREADS = {"shared": 0.5, "independent": 0.2, "closed_forms": 0.15}


def drawn(rng, spread, *, mean=1.0, correlated=0.0):
    """Draws of a skewed distribution, as sums of squares are; neighbours may agree."""
    shape = 1 / spread**2
    draws = rng.gamma(shape, mean / shape, CPU.num_draws)
    if correlated:  # all draws of an estimate have a part in common
        draws = (
            draws
            + mean
            * correlated
            * np.repeat(rng.standard_normal(-(-CPU.num_draws // 50)), 50)[: CPU.num_draws]
        )
    return convergence_of(CPU, draws)


def ways(rng, *, shared=0.5, mean=1.0, correlated=0.0):
    return {
        way: drawn(
            rng,
            shared if way == "shared" else spread,
            mean=mean if way == "shared" else 1.0,
            correlated=correlated,
        )
        for way, spread in SPREADS.items()
    }


def judged(rng, rule, pick=None, **world):
    found = ways(rng, **world)
    return rule(found if pick is None else found[pick], [])


def world(rule, verdict, **settings):
    return World(functools.partial(judged, rule=rule, **settings), verdict)


TEN = 10**0.5
WORLDS = {
    "inverse root": world(claims.inverse_root, "holds"),
    "slower": world(claims.inverse_root, "not holds", correlated=0.5),
    "paper's number": world(claims.variation_at_ten, "holds", pick="shared", shared=0.23 * TEN),
    "half of it": world(claims.variation_at_ten, "does not hold", pick="shared", shared=0.11 * TEN),
    "steps": world(claims.steps_are_as_good_as_probes, "holds", pick="shared"),
    "unbiased": world(claims.unbiased, "holds", shared=0.8),
    "biased": world(claims.unbiased, "does not hold", shared=0.8, mean=1.12),
    "worth more": world(claims.worth_of_a_probe, "holds"),
    "worth less": world(claims.worth_of_a_probe, "does not hold", shared=0.08),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(500)


def test_estimates_are_means_of_draws_of_their_own():
    """All draws are used once: the reference, then every repeat of every number of probes."""
    draws = np.arange(float(CPU.num_draws))
    found = convergence_of(CPU, draws)
    sums = [estimates.sum() * m for m, estimates in zip(CPU.probes, found.estimates, strict=True)]
    reference = found.reference.value * CPU.num_reference
    np.testing.assert_allclose(reference + sum(sums), draws.sum())


def test_cost_and_needs():
    assert cost_in_gradients(np.array([1.0])) == 1.0
    assert [need.met for need in claims.needs(CPU)] == [True, True]
    assert [claims.papers_model(PRESETS[name]).met for name in ("cpu", "paper")] == [False, True]
