"""Every rule of the toy on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_truth import mostly, rarely, verdicts

from lnpjax.experiments._harness.claims import Need
from lnpjax.experiments.spectral_lens_toy.claims import (
    by_band,
    concentrates,
    few_modes,
    ranks_early,
    smaller_are_steeper,
    spectra_differ,
    untying_jumps,
)
from lnpjax.experiments.spectral_lens_toy.config import PRESETS, STAGES
from lnpjax.experiments.spectral_lens_toy.results import TRANSITIONS, Matched

CPU = PRESETS["cpu"]
SIZES = np.array(CPU.batch_sizes)
BANDS = len(CPU.bands)
ENOUGH = Need("three seeds", True)


def about(rng, mean, scatter=0.02, shape=SIZES.shape):
    return mean + scatter * rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("step", "expected"), [(0.1, ["holds"] * 2), (-0.1, ["does not hold"] * 2)]
)
def test_concentration_that_grows_and_is_ordered(step, expected):
    def claims(rng):
        levels = about(rng, 0.5, 0.1)
        return concentrates(
            {
                stage: np.stack([levels, levels + about(rng, step * (1 + place))], axis=1)
                for place, stage in enumerate(STAGES)
            },
            [],
        )

    for place, verdict in enumerate(expected):
        assert mostly(verdicts(lambda rng, i=place: claims(rng)[i]), verdict)


@pytest.mark.parametrize(("jump", "verdict"), [(0.3, "holds"), (0.0, "does not hold")])
def test_a_jump_that_is_much_larger_than_those_before(jump, verdict):
    def claim(rng):
        means = dict(zip(TRANSITIONS, (0.05, 0.05, jump), strict=True))
        return untying_jumps({pair: about(rng, mean) for pair, mean in means.items()}, [])

    assert mostly(verdicts(claim), verdict)


def final(rng, means, narrow=None):
    values = {stage: about(rng, means[stage], 0.03, (len(SIZES), BANDS)) for stage in STAGES}
    order = np.argsort([cycle for cycle, _ in CPU.bands])
    for stage, gain in (narrow or {}).items():
        values[stage][:, order[:2]] += gain
    return values


def test_peak_masses_by_band():
    ordered = dict(zip(STAGES, (0.2, 0.5, 0.5, 0.9), strict=True))
    reversed_order = dict(zip(STAGES, (0.9, 0.5, 0.5, 0.2), strict=True))
    true, false = {"muon": 0.1, "rope": -0.1}, {"muon": -0.1, "rope": 0.1}
    for place in range(3):
        good = verdicts(lambda rng, i=place: by_band(CPU, final(rng, ordered, true), [])[i])
        bad = verdicts(lambda rng, i=place: by_band(CPU, final(rng, reversed_order, false), [])[i])
        assert mostly(good, "holds")
        assert mostly(bad, "does not hold")


@pytest.mark.parametrize(("sharpness", "verdict"), [(1.5, "holds"), (0.0, "does not hold")])
def test_a_profile_on_few_modes(sharpness, verdict):
    def claim(rng):
        runs = []
        for _ in SIZES:
            flat = 1 + 0.1 * rng.random(18)
            sharp = np.exp(-sharpness * np.arange(18)) * (1 + 0.1 * rng.random(18))
            runs.append((flat / flat.sum(), sharp / sharp.sum()))
        return few_modes({"37:5": runs}, [])

    assert mostly(verdicts(claim), verdict)


def matched(rng, slope, seeds=(0, 1, 2)):
    return [
        Matched(int(size), seed, 1e6, 2.4, 3 + slope * np.log2(size / 32)
                + 0.05 * rng.standard_normal(), 0.02, np.ones(1))
        for size in SIZES for seed in seeds
    ]  # fmt: skip


@pytest.mark.parametrize(("slope", "verdict"), [(-0.3, "holds"), (0.3, "does not hold")])
def test_tails_that_are_steeper_for_smaller_batches(slope, verdict):
    counts = verdicts(lambda rng: smaller_are_steeper(matched(rng, slope, (0,)), []))
    assert mostly(counts, verdict)


def test_spectra_that_differ_by_more_than_seeds_do():
    seeds = PRESETS["paper"].seeds

    def judged(slope):
        return verdicts(lambda rng: spectra_differ(matched(rng, slope, seeds), [], ENOUGH))

    assert mostly(judged(-0.3), "holds")
    assert rarely(judged(0.0), "holds")


@pytest.mark.parametrize(
    ("rho", "verdict"), [([1.0, 1.0, 1.0], "holds"), ([0.1, -0.3, 0.0], "does not hold")]
)
def test_ranks_of_batch_sizes(rho, verdict):
    assert ranks_early(rho, []).verdict == verdict
