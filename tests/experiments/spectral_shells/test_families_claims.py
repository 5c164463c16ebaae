"""Every rule on shells of language models on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from synthetic_truth import World

from lnpjax.experiments.spectral_shells.families import claims
from lnpjax.experiments.spectral_shells.families.config import PRESETS
from lnpjax.experiments.spectral_shells.families.results import (
    Convergence,
    Family,
    convergence,
    end_of_shells,
    second_maximum,
)

CONFIG = PRESETS["cpu"]
RUNS, STEPS, CENTERS = CONFIG.num_runs, np.array(CONFIG.checkpoints, float), CONFIG.centers


def family(rng, *, peak=0.5, moves=-0.3, slope=1.5, bends=0.0, grows=0.5, bump=0.0, end=1e-4):
    """Runs whose profiles are powers with an exponential cut-off, at every checkpoint.

    Shells scatter as in the rows: by a fifth about the peak, and the more the less energy they
    have; the part that a run has in common, by a tenth.
    """
    place = np.log(STEPS / STEPS[0])
    slopes = slope + bends * place[:, None]
    peaks = peak * np.exp(moves * place + 0.1 * rng.standard_normal((RUNS, 1)))[..., None]
    runs = np.exp(0.1 * rng.standard_normal((RUNS, 1, 1)))
    energies = runs * np.exp(grows * place)[:, None] * CENTERS**slopes
    energies = energies * np.exp(-slopes * CENTERS / peaks)
    largest = energies.max(axis=-1, keepdims=True)
    energies += bump * largest * np.exp(-(np.log(CENTERS / (peaks / 60)) ** 2))
    energies = np.maximum(energies, end * largest)
    scatter = 0.2 * (energies / largest) ** -0.2
    energies *= np.exp(scatter * rng.standard_normal(energies.shape) - scatter**2 / 2)
    return Family("37K", STEPS, CENTERS, energies, energies, np.ones(energies.shape))


def one_maximum(rng, bump):
    return claims.one_maximum([family(rng, bump=bump)], [])


def cut_off(rng, end):
    return claims.cut_off([family(rng, end=end)], [])


def peak_moves(rng, moves):
    return claims.peak_moves_down([family(rng, moves=moves)], [])


def parallel(rng, bends):
    return claims.parallel([family(rng, slope=0.6, bends=bends, moves=-0.05)], [])


def amplitude(rng, grows):
    return claims.amplitude_grows([family(rng, grows=grows)], [])


def sizes(rng, index, slope=1.5, peak=0.5):
    return claims.sizes_agree([family(rng), family(rng, slope=slope, peak=peak)], [])[index]


WORLDS = {
    "one maximum": World(functools.partial(one_maximum, bump=0.0), "holds"),
    "two maxima": World(functools.partial(one_maximum, bump=0.9), "does not hold"),
    "cut off": World(functools.partial(cut_off, end=1e-4), "holds"),
    "not cut off": World(functools.partial(cut_off, end=0.1), "does not hold"),
    "peak moves down": World(functools.partial(peak_moves, moves=-0.3), "holds"),
    "peak stays": World(functools.partial(peak_moves, moves=0.0), "not holds"),
    "peak moves up": World(functools.partial(peak_moves, moves=0.3), "does not hold"),
    "parallel": World(functools.partial(parallel, bends=0.0), "holds"),
    "not parallel": World(functools.partial(parallel, bends=0.5), "does not hold"),
    "amplitude grows": World(functools.partial(amplitude, grows=0.5), "holds"),
    "amplitude falls": World(functools.partial(amplitude, grows=-0.5), "does not hold"),
    "sizes are parallel": World(functools.partial(sizes, index=0), "holds"),
    "sizes are not": World(functools.partial(sizes, index=0, slope=2.6), "does not hold"),
    "peaks are near": World(functools.partial(sizes, index=1), "holds"),
    "peaks are not": World(functools.partial(sizes, index=1, peak=2.5), "does not hold"),
}


@pytest.mark.parametrize("name", WORLDS)
def test_rule(name):
    assert not WORLDS[name].fails(20)


@pytest.mark.parametrize("name", WORLDS)
def test_rule_many_times(name):
    assert not WORLDS[name].fails(300)


def test_products_that_are_too_few_are_a_need():
    found = [family(np.random.default_rng(0))]
    assert convergence(found[0]) == (0, 0)
    for doubled, met in ((Convergence(0.01, 0.1), True), (Convergence(0.2, 0.1), False)):
        assert claims.measured_well(found, [doubled])[1].met == met


def test_runs_are_a_need():
    found = family(np.random.default_rng(0))
    few = Family("37K", STEPS, CENTERS, found.energies[:2], found.energies[:2], found.reached[:2])
    assert claims.measured_well([found], [Convergence(0, 0)])[0].met
    assert not claims.measured_well([found, few], [Convergence(0, 0)])[0].met


def test_a_shell_that_few_batches_reach_is_not_the_end():
    found = family(np.random.default_rng(0))
    found.reached[..., -3:] = 0.2
    found.energies[..., -4] = found.energies.max(axis=-1)
    assert np.all(end_of_shells(found) == 0)


@pytest.mark.parametrize(
    ("energies", "expected"),
    [([1, 2, 4, 2, 1], 0), ([3, 1, 4, 2, 1], np.log(3)), ([1, 4, 2, 1, 1.5], np.log(1.5))],
)
def test_a_second_maximum_by_hand(energies, expected):
    assert second_maximum(np.log(energies)) == pytest.approx(expected)
