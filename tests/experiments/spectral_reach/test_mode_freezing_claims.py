"""Every rule on frozen modes on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.mode_freezing import claims
from lnpjax.experiments.spectral_reach.mode_freezing.arms import ARMS
from lnpjax.experiments.spectral_reach.mode_freezing.config import PRESETS
from lnpjax.experiments.spectral_reach.mode_freezing.results import Losses

CPU = PRESETS["cpu"]
SCATTER = 0.02
"""Of the logarithm of the last loss between seeds, beyond what their samples share."""


def losses(rng, *, kind="dense", advantage=0.6, left=0.0, own=0.0, control=0.3, mirror=0.1, reach):
    """Networks whose loss falls with size, and of which arms leave stated parts of the fall."""
    sizes = CPU.widths if kind == "dense" else CPU.hidden_sizes
    seeds = CPU.num_seeds if kind == "dense" else CPU.num_ritz_seeds
    fall = np.linspace(0, 1, len(sizes))[:, None]
    samples = 0.05 * rng.standard_normal(seeds)

    def ends(mean):
        return 0.25 * np.exp(mean + samples + SCATTER * rng.standard_normal((len(sizes), seeds)))

    free = -advantage * fall
    means = {
        "free": free,
        "own": free + own,
        "common": left * free,
        "top": control + 0 * fall,
        "random": control + 0 * fall,
        "tail_only": 0.5 - mirror * fall,
    }
    positions = np.asarray(sizes, float)[:, None] ** reach
    positions = 1e-3 * positions * np.exp(0.2 * rng.standard_normal((len(sizes), seeds)))
    return Losses(kind, sizes, {arm: ends(means[arm]) for arm in ARMS}, positions)


def judged(rng, rule, **world):
    return rule(losses(rng, **{"reach": -0.3} | world))


def world(rule, verdict, **settings):
    return World(functools.partial(judged, rule=rule, **settings), verdict)


WORLDS = {
    "equal without the tail": world(claims.equalises, "holds"),
    "equal without the tail, Ritz": world(claims.equalises, "holds", kind="llama"),
    "half is left": world(claims.equalises, "does not hold", left=0.5),
    "a quarter is left": world(claims.equalises, "not holds", left=0.25),
    "no advantage to lose": world(claims.equalises, "set-up short of the paper", advantage=0.0),
    "as good as the smallest": world(claims.explains_the_gap, "holds"),
    "stops a quarter lower": world(claims.explains_the_gap, "does not hold", left=0.5),
    "own suffices": world(claims.own_suffices, "holds"),
    "own costs a third": world(claims.own_suffices, "does not hold", own=0.3),
    "controls stop higher": world(claims.controls_stop_higher, "holds"),
    "controls are the same": world(claims.controls_stop_higher, "does not hold", control=0.0),
    "tail keeps the order": world(claims.tail_keeps_order, "holds", mirror=0.2),
    "tail has no order": world(claims.tail_keeps_order, "not holds", mirror=0.0),
    "reach grows": world(claims.reach_grows, "holds"),
    "reach shrinks": world(claims.reach_grows, "does not hold", reach=0.3),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)
