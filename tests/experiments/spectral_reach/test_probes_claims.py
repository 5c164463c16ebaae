"""Every rule on linear probes on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import worlds_of_runs as worlds
from synthetic_truth import World

from lnpjax.experiments.spectral_reach.linear_probes import claims
from lnpjax.experiments.spectral_reach.linear_probes.config import PRESETS
from lnpjax.experiments.spectral_reach.linear_probes.measure import PROBES, stacked
from lnpjax.experiments.spectral_reach.linear_probes.results import Probed, contrast

STEPS = PRESETS["cpu"].steps
SEEDS = worlds.RECIPE.num_seeds


def probed(rng, parameters, *, random=2e-4, trained=1e-4, scatter=1e-4, moves=0.0, growth=1.0):
    """Probes whose positions scatter from step to step about means, on random and other backbones.

    Means scatter by a tenth between seeds.
    """
    windows = worlds.RECIPE.windows(STEPS)
    shape = (len(PROBES), SEEDS, len(windows.steps))
    means = np.array([random, trained, trained])[:, None, None]
    means = means * np.exp(0.1 * rng.standard_normal((*shape[:2], 1)))
    drift = 10 ** (moves * windows.steps / STEPS)
    return Probed(
        worlds.runs(rng, parameters, loss=worlds.power_law(), growth=growth),
        STEPS,
        windows.steps,
        np.searchsorted(windows.starts, windows.steps, side="right") - 1,
        means + scatter * rng.standard_normal(shape),
        1e6 * drift * np.exp(0.02 * rng.standard_normal(shape)),
        np.zeros(shape[:2]),
    )


def judged(rng, rule, **options):
    sizes = [probed(rng, parameters, **options) for parameters in worlds.PARAMETERS]
    return rule({"stories": sizes}, [])


def lower(*, selected):
    return functools.partial(claims.lower, readout="fresh", selected=selected)


rule = functools.partial
WORLDS = {
    "lower, of all": World(rule(judged, rule=lower(selected=False)), "holds"),
    "lower, of the top": World(rule(judged, rule=lower(selected=True), scatter=3e-5), "holds"),
    "higher, of all": World(
        rule(judged, rule=lower(selected=False), random=5e-5, scatter=7e-5), "does not hold"
    ),
    "equal": World(rule(judged, rule=lower(selected=False), random=1e-4), "not holds"),
    "one that is negative": World(
        rule(judged, rule=lower(selected=False), random=-5e-5), "does not hold"
    ),
    "constant": World(rule(judged, rule=claims.constant), "holds"),
    "not constant": World(rule(judged, rule=claims.constant, moves=0.5), "does not hold"),
    "grows": World(rule(judged, rule=claims.grows), "holds"),
    "does not grow": World(rule(judged, rule=claims.grows, growth=-0.5), "does not hold"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(2)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(100)


def test_the_selection_alone_decides_where_one_scatters_more():
    """Equal means, of which one scatters from step to step: the top 10 % tell them apart."""
    size = probed(np.random.default_rng(0), 100_000, random=1e-4, scatter=0.0)
    rng = np.random.default_rng(1)
    size.chi_pos[0] += 1e-4 * rng.standard_normal(size.chi_pos[0].shape)
    assert contrast(size, "fresh", selected=True).value > 0.3
    assert abs(contrast(size, "fresh", selected=False).value) < 0.1


def test_only_the_late_steps_count_and_of_them_the_top():
    size = probed(np.random.default_rng(0), 100_000)
    size.chi_pos[:] = size.steps
    late = size.steps[size.steps >= 0.9 * STEPS]
    assert size.late_positions(selected=False)[0, 0] == late.mean()
    assert size.late_positions(selected=True)[0, 0] == late[-len(late) // 10 :].mean()


def test_probes_start_from_the_parts_that_they_should():
    def network(value):
        return {"body": np.full((SEEDS, 2), value), "head": np.full((SEEDS, 3), value)}

    params = stacked(network(0.0), network(1.0), network(2.0))
    starts = {name: leaf[::SEEDS, 0].tolist() for name, leaf in params.items()}
    assert starts == {"body": [0.0, 1.0, 1.0], "head": [0.0, 2.0, 1.0]}
