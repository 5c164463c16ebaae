"""The rules on muP on synthetic truth, at the size of the preset `cpu`, and the smallest run."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments import experiment
from lnpjax.experiments._harness.reproduction import reproduce
from lnpjax.experiments.spectral_reach.maximal_update import claims, results
from lnpjax.experiments.spectral_reach.maximal_update.config import PRESETS

CPU = PRESETS["cpu"]
RATES = np.log(np.array(CPU.rates))


class MadeUp:
    """A sweep whose activations and best learning rates go with powers of the width."""

    def __init__(self, rng, *, coordinates=0.0, rates=0.0, scatter=0.08, center=2.0**-9):
        self.units = {}
        for width in CPU.widths:
            draws = np.exp(scatter * rng.standard_normal((2, CPU.num_seeds)))
            sizes = 0.3 * (width / 64) ** coordinates * draws[0]
            best = np.log(center * (width / 64) ** rates * draws[1])
            ends = 0.5 + 0.1 * (RATES - best[:, None]) ** 2
            self.units[str(width)] = {
                "losses": np.repeat(ends[..., None], CPU.steps, axis=-1),
                "hidden": np.repeat(sizes[:, None], len(CPU.checked), axis=-1),
                "outputs": np.repeat(sizes[:, None], len(CPU.checked), axis=-1),
            }

    def arrays(self, unit):
        return self.units[unit.rpartition("-")[2]]


def coordinates(rng, arm, power):
    region = claims.STAYS if arm == "mup" else claims.GROWS
    return claims.coordinates(CPU, MadeUp(rng, coordinates=power), arm, region, [])


def rates(rng, arm, power):
    region = claims.STAYS if arm == "mup" else claims.FALLS
    return claims.rates(CPU, MadeUp(rng, rates=power), arm, region, [])


WORLDS = {
    "features alike": World(functools.partial(coordinates, arm="mup", power=0.0), "holds"),
    "at the bound": World(functools.partial(coordinates, arm="mup", power=0.2), "not holds"),
    "features grow": World(functools.partial(coordinates, arm="mup", power=0.6), "does not hold"),
    "outputs grow": World(functools.partial(coordinates, arm="standard", power=0.6), "holds"),
    "outputs alike": World(
        functools.partial(coordinates, arm="standard", power=0.0), "does not hold"
    ),
    "rates stay": World(functools.partial(rates, arm="mup", power=0.0), "holds"),
    "rates at the bound": World(functools.partial(rates, arm="mup", power=-0.2), "not holds"),
    "rates move": World(functools.partial(rates, arm="mup", power=-0.7), "does not hold"),
    "rates fall": World(functools.partial(rates, arm="standard", power=-0.7), "holds"),
    "rates do not fall": World(
        functools.partial(rates, arm="standard", power=0.0), "does not hold"
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(1000)


def test_the_best_rate_is_that_of_the_parabola():
    losses = np.array([0.5 + (RATES - np.log(0.003)) ** 2, RATES, np.full(len(RATES), np.inf)])
    found = results.best_rates(CPU, losses)
    np.testing.assert_allclose(found, [0.003, CPU.rates[0], CPU.rates[0]])


def test_a_best_rate_at_the_edge_is_a_lack():
    claim = claims.rates(
        CPU, MadeUp(np.random.default_rng(0), center=CPU.rates[0]), "mup", claims.STAYS, []
    )
    assert claim.verdict == "set-up short of the paper"


def test_the_smallest_size(tmp_path):
    done = reproduce(experiment("maximal-update"), "smoke", tmp_path)
    assert len(done.judged) == 5
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "coordinates.png",
        "learning_rates.png",
    ]
