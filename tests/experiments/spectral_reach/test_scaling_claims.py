"""Every rule on scaling laws on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import worlds_of_runs as worlds
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.claims import trained_well
from lnpjax.experiments.spectral_reach.scaling_laws import claims
from lnpjax.experiments.spectral_reach.scaling_laws.config import PRESETS
from lnpjax.experiments.spectral_reach.scaling_laws.results import Family, fitted_floor

CONFIG = PRESETS["cpu"]


def test_worlds_have_the_size_of_the_preset():
    for task in CONFIG.tasks:
        sizes = range(len(task.sizes))
        models = [task.model(size, vocab_size=256, context_length=64) for size in sizes]
        assert tuple(model.num_parameters for model in models) == worlds.PARAMETERS


def family(rng, *, loss=None, floors=None, falls=None, chosen=slice(None), **options):
    """All sizes, with floors of chi_pos and exponents of its fall."""
    loss = worlds.power_law() if loss is None else loss
    floors = [1e-6] * 5 if floors is None else floors
    falls = [1.3] * 5 if falls is None else falls
    options["common"] = rng.standard_normal(len(worlds.RECIPE.windows(worlds.STEPS).steps))
    sizes = [
        worlds.runs(rng, parameters, loss=loss, floor=floor, fall=fall, **options)
        for parameters, floor, fall in zip(worlds.PARAMETERS, floors, falls, strict=True)
    ]
    return Family("stories", sizes[chosen])


def judged(rng, rule, **options):
    return rule([family(rng, **options)], [])


def overfitting(steps, parameters):
    """Training losses that fall twice as fast with N as those of `power_law`."""
    return worlds.power_law()(steps, parameters) * (parameters / 1e5) ** -0.08


def lagging(rng):
    """Test losses whose exponent is half that of the training losses."""
    found, train = family(rng), family(rng, loss=overfitting)
    pairs = zip(found.sizes, train.sizes, strict=True)
    sizes = [dataclasses.replace(size, train_loss=other.train_loss) for size, other in pairs]
    return claims.tests_agree([Family("stories", sizes)], [])


LOWER = 3e-5 * (np.array(worlds.PARAMETERS) / worlds.PARAMETERS[0]) ** -0.7
OF_BYTES = 0.4
"""How chi_pos scatters from step to step on bytes; on pixels it is 0.85, and that of the worlds lies
in between."""
FLAT_TO_FALLING = {"floors": [3e-5, 1e-5, 3e-6, 1e-6, 0], "falls": [2.0, 1.3, 1.0, 0.9, 0.9]}
rule = functools.partial
WORLDS = {
    "a power law": World(rule(judged, rule=claims.power_law), "holds"),
    "no power law": World(
        rule(judged, rule=claims.power_law, loss=worlds.power_law(-1.0, limit=3.0)), "not holds"
    ),
    "losses rise": World(
        rule(judged, rule=claims.power_law, loss=worlds.power_law(0.05)), "does not hold"
    ),
    "tests agree": World(rule(judged, rule=claims.tests_agree, test_gap=0.05), "holds"),
    "tests lag": World(lagging, "does not hold"),
    "position falls": World(rule(judged, rule=claims.falls), "holds"),
    "position stays": World(rule(judged, rule=claims.falls, floors=[5e-4] * 5), "does not hold"),
    "ordered": World(rule(judged, rule=claims.ordered, floors=LOWER), "holds"),
    "not ordered": World(rule(judged, rule=claims.ordered), "not holds"),
    "the wrong order": World(
        rule(judged, rule=claims.ordered, floors=LOWER[::-1]), "does not hold"
    ),
    "flattens": World(
        rule(judged, rule=claims.flattens, step_scatter=OF_BYTES, **FLAT_TO_FALLING), "holds"
    ),
    "all flat": World(
        rule(judged, rule=claims.flattens, floors=[3e-5] * 5, falls=[2.0] * 5), "not holds"
    ),
    "none flat": World(
        rule(judged, rule=claims.flattens, floors=[0] * 5, falls=[1.0] * 5), "does not hold"
    ),
    "chi_loss follows": World(rule(judged, rule=claims.loss_component), "holds"),
    "chi_net grows": World(rule(judged, rule=claims.network_grows), "holds"),
    "chi_net stays": World(rule(judged, rule=claims.network_grows, growth=0.0), "does not hold"),
    "chi_net outgrows": World(
        rule(judged, rule=claims.network_grows, growth=1.0, floors=[3e-4] * 5), "does not hold"
    ),
    "product falls": World(rule(judged, rule=claims.product), "holds"),
    "product stays": World(
        rule(judged, rule=claims.product, growth=1.0, floors=[1e-4] * 5), "does not hold"
    ),
    "floors fall": World(rule(judged, rule=claims.floors, floors=LOWER, falls=[1.5] * 5), "holds"),
    "floors stay": World(
        rule(judged, rule=claims.floors, floors=[1e-5] * 5, falls=[1.5] * 5), "not holds"
    ),
    "floors are foretold": World(
        rule(judged, rule=claims.floor_foretold, floors=LOWER, falls=[2.0] * 5), "holds"
    ),
    "floors are not": World(
        rule(judged, rule=claims.floor_foretold, floors=[*LOWER[:4], 3e-5], falls=[1.5] * 5),
        "does not hold",
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(2)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(100)


def test_a_fitted_floor_by_hand():
    size = worlds.runs(
        np.random.default_rng(0),
        100_000,
        loss=worlds.power_law(),
        floor=2e-5,
        fall=1.5,
        seed_scatter=0,
        step_scatter=0,
    )
    assert fitted_floor(size, np.arange(3)) == pytest.approx(2e-5, rel=0.05)


def test_what_runs_must_be_like():
    good = family(np.random.default_rng(0)).sizes
    assert all(need.met for need in trained_well(good))
    for change in (
        {"at_edge": True},
        {"passes": 9.0},
        {"train_loss": np.full((3, worlds.STEPS), np.nan)},
        {"train_loss": good[0].train_loss[:2]},
    ):
        changed = dataclasses.replace(good[0], **change)
        assert sum(not need.met for need in trained_well([changed])) == 1
