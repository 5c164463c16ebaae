"""Every rule on the balance of shells on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments.spectral_shells.balance import claims
from lnpjax.experiments.spectral_shells.balance.config import PRESETS

WIDTHS, SEEDS = PRESETS["cpu"].widths, PRESETS["cpu"].num_seeds


def by_width(rng, mean, scatter):
    """Positive numbers about a mean for every width; half of the scatter is that of seeds."""
    width = np.log1p(scatter**2) ** 0.5
    shared, own = rng.standard_normal((1, SEEDS)), rng.standard_normal((len(WIDTHS), SEEDS))
    factors = np.exp(width * (shared + own) / 2**0.5 - width**2 / 2)
    means = [mean(w) if callable(mean) else mean for w in WIDTHS]
    return {w: m * factor for w, m, factor in zip(WIDTHS, means, factors, strict=True)}


def identity(rng, level):
    logarithms = {w: np.log10(x) for w, x in by_width(rng, 10.0**level, 2.0).items()}
    return claims.identity("", "", "", {"lazy": logarithms}, claims.DIFFERENCES, [])


def crossings(rng, ratio):
    """As in the rows where features are learned."""
    fluxes = by_width(rng, 0.05, 0.5)
    moved = by_width(rng, ratio * 0.05, 0.5)
    return claims.nothing_else({"feature": fluxes}, {"feature": moved}, [])


def definition(rng, index, ratio):
    ratios = {"lazy": by_width(rng, ratio, 1.0), "feature": by_width(rng, ratio, 1.0)}
    return claims.definition(ratios, ratios, [])[index]


def regimes(rng, index, power):
    shares = by_width(rng, lambda w: 0.1 * w**power, 0.4)
    return claims.regimes({"lazy": shares, "feature": shares}, [])[index]


WORLDS = {
    "identity, true": World(functools.partial(identity, level=-9), "holds"),
    "identity, false": World(functools.partial(identity, level=-4), "does not hold"),
    "crossings, few": World(functools.partial(crossings, ratio=0.03), "holds"),
    "crossings, at the bound": World(functools.partial(crossings, ratio=0.1), "not holds"),
    "crossings, many": World(functools.partial(crossings, ratio=1.0), "does not hold"),
    "fluxes, bounded": World(functools.partial(definition, index=0, ratio=0.2), "holds"),
    "fluxes, just unbounded": World(functools.partial(definition, index=0, ratio=1.5), "not holds"),
    "fluxes, unbounded": World(functools.partial(definition, index=0, ratio=8.0), "does not hold"),
    "remainder, small": World(functools.partial(definition, index=1, ratio=0.02), "holds"),
    "remainder, large": World(functools.partial(definition, index=1, ratio=1.0), "does not hold"),
    "lazy, vanishes": World(functools.partial(regimes, index=0, power=-0.9), "holds"),
    "lazy, stays": World(functools.partial(regimes, index=0, power=0.0), "not holds"),
    "lazy, grows": World(functools.partial(regimes, index=0, power=0.6), "does not hold"),
    "features, stays": World(functools.partial(regimes, index=1, power=0.0), "holds"),
    "features, at the bound": World(functools.partial(regimes, index=1, power=-0.2), "not holds"),
    "features, vanishes": World(functools.partial(regimes, index=1, power=-0.9), "does not hold"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)


@pytest.mark.parametrize(("left", "met"), [(0.005, True), (0.03, False)])
def test_books_must_close_at_every_width(left, met):
    moved = {"lazy": {16: np.full(SEEDS, 0.1), 32: np.full(SEEDS, 0.1)}}
    unexplained = {"lazy": {16: np.full(SEEDS, 0.001), 32: np.full(SEEDS, left)}}
    assert claims.closes(unexplained, moved, moved).met == met


def test_seeds_and_widths_are_needs():
    assert [need.met for need in claims.enough(PRESETS["cpu"])] == [True, True]
    assert [need.met for need in claims.enough(PRESETS["smoke"])] == [False, False]
