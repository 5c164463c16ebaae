"""Every rule on equal compute on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import worlds_of_runs as worlds
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.isocompute import claims
from lnpjax.experiments.spectral_reach.isocompute.config import PRESETS, IsocomputeConfig
from lnpjax.experiments.spectral_reach.isocompute.measure import check_budgets
from lnpjax.experiments.spectral_reach.isocompute.results import Plane, curve_of

SHARES = PRESETS["cpu"].shares
TOKENS = worlds.TOKENS_PER_STEP


def best_at(place: float):
    """Losses that are least, at equal compute, at ``N = place * sqrt(C / 6e12)``."""

    def loss(steps, parameters):
        budget = parameters * steps * TOKENS / 1e12
        return 3.0 * np.exp(0.02 * np.log(parameters / place / budget**0.5) ** 2) * budget**-0.05

    return loss


def worst_at(place: float):
    """Losses that are highest there."""
    return lambda steps, parameters: 9.0 / best_at(place)(steps, parameters)


def plane(rng, *, place=2.5e5, sign=1.0, away=1.0, law_of=best_at):
    """Positions that go with losses, or against them, or with losses whose best size is another."""
    loss = law_of(place)
    sizes = [worlds.runs(rng, parameters, loss=loss) for parameters in worlds.PARAMETERS]
    shared = rng.standard_normal(len(sizes[0].steps))
    for size in sizes:
        shape = size.components["chi_pos"].shape
        law = best_at(place * away)(size.steps + 1.0, size.num_parameters) ** (20 * sign) * 1e-12
        own = 0.87 * rng.standard_normal(shape) + 0.5 * shared
        size.components["chi_pos"] = law * (1 + 0.3 * own)
    return Plane("stories", sizes, [curve_of(sizes, share) for share in SHARES])


def judged(rng, rule, **options):
    return rule([plane(rng, **options)], [])


rule = functools.partial
WORLDS = {
    "in tandem": World(rule(judged, rule=claims.in_tandem, place=5e4), "holds"),
    "opposed": World(rule(judged, rule=claims.in_tandem, place=5e4, sign=-1.0), "does not hold"),
    "an optimum": World(rule(judged, rule=claims.has_optimum), "holds"),
    "no optimum": World(rule(judged, rule=claims.has_optimum, law_of=worst_at), "does not hold"),
    "one optimum": World(rule(judged, rule=claims.same_optimum), "holds"),
    "two optima": World(rule(judged, rule=claims.same_optimum, away=4.0), "does not hold"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(2)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(100)


def test_a_curve_is_read_between_measured_steps():
    """At equal compute, losses are those of the law at each size's own step."""
    sizes = [
        worlds.runs(np.random.default_rng(0), parameters, loss=best_at(2.5e5), seed_scatter=0.0)
        for parameters in worlds.PARAMETERS
    ]
    curve = curve_of(sizes, 0.05)
    steps = 0.05 * worlds.STEPS * worlds.PARAMETERS[-1] / curve.parameters
    assert [size.num_parameters for size in curve.sizes] == list(worlds.PARAMETERS)
    expected = best_at(2.5e5)(steps, curve.parameters)
    np.testing.assert_allclose(curve.test_loss[0], expected, rtol=2e-3)


def test_budgets_that_too_few_sizes_reach_are_refused():
    check_budgets((0.05,), worlds.PARAMETERS, (50, 1200), least=4)
    with pytest.raises(ValueError, match=r"^shares: expected budgets that 3 sizes reach"):
        check_budgets((0.05, 0.9), worlds.PARAMETERS, (50, 1200), least=3)


@pytest.mark.parametrize("shares", [(), (0.0, 0.5), (0.5, 1.5), (0.5, 0.1)])
def test_shares_are_shares(shares):
    with pytest.raises(ValueError, match=r"^shares: expected"):
        IsocomputeConfig(runs=PRESETS["smoke"].runs, shares=shares)
