"""Every rule of the toy on synthetic truth, at the size of the preset `cpu`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic_truth import mostly, rarely, verdicts

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
from lnpjax.experiments.spectral_lens_toy.needs import occur, seeds, steps
from lnpjax.experiments.spectral_lens_toy.results import Matched

CPU = PRESETS["cpu"]
SEEDS = len(CPU.seeds)
SCATTER = 0.05  # between seeds, of shares of energy
TRIALS = 20


def groups(rng, means, scatter=SCATTER):
    """A number of every run of the stages, that differs between batch sizes too."""
    return {
        (stage, size): mean + 0.02 * place + scatter * rng.standard_normal(SEEDS)
        for stage, mean in means.items()
        for place, size in enumerate(CPU.compared_batch_sizes)
    }


def by_stage(*means):
    return dict(zip(STAGES, means, strict=True))


@pytest.mark.parametrize(("step", "verdict"), [(0.2, "holds"), (-0.2, "does not hold")])
def test_concentration_that_grows_and_is_ordered(step, verdict):
    def claims(rng):
        ends = by_stage(*(step * (1 + place) for place in range(4)))
        return concentrates(groups(rng, by_stage(0, 0, 0, 0), 0.01), groups(rng, ends), [])

    for place in range(2):
        assert mostly(verdicts(lambda rng, i=place: claims(rng)[i], TRIALS), verdict)


def test_concentration_of_random_states_does_not_hold():
    still = by_stage(0, 0, 0, 0)

    def claim(rng, which):
        return concentrates(groups(rng, still), groups(rng, still), [])[which]

    for place in range(2):
        assert rarely(verdicts(lambda rng, i=place: claim(rng, i), TRIALS), "holds")


@pytest.mark.parametrize(("jump", "verdict"), [(0.5, "holds"), (0.0, "does not hold")])
def test_a_jump_that_is_much_larger_than_those_before(jump, verdict):
    rise = 0.05 if jump else 0.15

    def claim(rng):
        means = by_stage(0.2, 0.2 + rise, 0.2 + 2 * rise, 0.2 + 2 * rise + jump)
        return untying_jumps(groups(rng, means, 0.03), [])

    assert mostly(verdicts(claim, TRIALS), verdict)


def final(rng, means, narrow=None):
    """Peak masses by band, higher by so much on narrow bands."""
    gains = narrow or {}
    return {
        band: groups(
            rng,
            {
                stage: mean + (gains.get(stage, 0) if band[0] < 16 else 0)
                for stage, mean in means.items()
            },
        )
        for band in CPU.bands
    }


def test_peak_masses_by_band():
    ordered, reverse = by_stage(0.2, 0.5, 0.5, 0.9), by_stage(0.9, 0.5, 0.5, 0.2)
    true, false = {"muon": 0.15, "rope": -0.15}, {"muon": -0.15, "rope": 0.15}
    for place in range(3):
        good = verdicts(lambda rng, i=place: by_band(final(rng, ordered, true), [])[i], TRIALS)
        bad = verdicts(lambda rng, i=place: by_band(final(rng, reverse, false), [])[i], TRIALS)
        assert mostly(good, "holds")
        assert mostly(bad, "does not hold")


@pytest.mark.parametrize(("sharpness", "verdict"), [(1.5, "holds"), (0.0, "does not hold")])
def test_a_profile_on_few_modes(sharpness, verdict):
    def runs(rng):
        pairs = []
        for _ in range(SEEDS):
            flat = 1 + 0.1 * rng.random(15)
            sharp = np.exp(-sharpness * np.arange(15)) * (1 + 0.1 * rng.random(15))
            pairs.append((flat / flat.sum(), sharp / sharp.sum()))
        return pairs

    def claim(rng):
        return few_modes({"31:0": {("untied", size): runs(rng) for size in CPU.batch_sizes}}, [])

    assert mostly(verdicts(claim, TRIALS), verdict)


def matched(rng, slope, scatter=0.15):
    """Runs whose exponent at the target changes with each doubling of the batch."""
    return [
        Matched(size, seed, 1e6 * size**0.3 * np.exp(0.05 * rng.standard_normal()), 2.4,
                3 + slope * np.log2(size / 4) + scatter * rng.standard_normal(), np.ones(1))
        for size in CPU.batch_sizes for seed in CPU.seeds
    ]  # fmt: skip


@pytest.mark.parametrize(("slope", "verdict"), [(-0.25, "holds"), (0.25, "does not hold")])
def test_tails_that_are_steeper_for_smaller_batches(slope, verdict):
    counts = verdicts(lambda rng: smaller_are_steeper(matched(rng, slope), []), TRIALS)
    assert mostly(counts, verdict)


def test_spectra_that_differ_by_more_than_seeds_do():
    def judged(slope):
        return verdicts(lambda rng: spectra_differ(matched(rng, slope), []), TRIALS)

    assert mostly(judged(-0.3), "holds")
    assert rarely(judged(0.0), "holds")


def ranked(order, trials, scatter=0.05):
    """How often an exponent that follows the tokens in that order is judged how."""

    def claim(rng):
        runs = matched(rng, 0.0)
        places = dict(zip(CPU.batch_sizes, order, strict=True))
        early = np.array([places[run.batch_size] for run in runs], float)
        early += scatter * rng.standard_normal(len(runs))
        return ranks_early(runs, early, [])

    return verdicts(claim, trials)


@pytest.mark.parametrize(
    ("order", "verdict"), [((1, 2, 3, 4, 5), "holds"), ((3, 5, 1, 4, 2), "does not hold")]
)
def test_ranks_of_batch_sizes(order, verdict):
    assert mostly(ranked(order, 2), verdict)


def test_ranks_of_batch_sizes_often():
    assert mostly(ranked((1, 2, 3, 4, 5), 40), "holds")
    assert mostly(ranked((5, 4, 3, 2, 1), 40), "does not hold")
    assert rarely(ranked((1, 1, 1, 1, 1), 40), "holds")


@pytest.mark.parametrize(
    ("preset", "met"), [("cpu", [True] * 3), ("long", [True] * 3), ("paper", [True, True, False])]
)
def test_what_claims_rest_on(preset, met):
    """The authors' bands are never trained on, so that theirs decides nothing about features."""
    config = PRESETS[preset]
    needs = [seeds(config), steps(config), occur(config, config.bands)]
    assert [need.met for need in needs] == met


def test_a_set_up_that_is_short_of_the_paper():
    short = dataclasses.replace(
        CPU, seeds=(0,), num_blocks=60, checkpoints=(0, 60), bands=(*CPU.bands, (37, 5))
    )
    needs = [seeds(short), steps(short), occur(short, short.bands)]
    assert not any(need.met for need in needs)
    start = groups(np.random.default_rng(0), by_stage(0, 0, 0, 0))
    assert concentrates(start, start, needs)[0].verdict == "set-up short of the paper"
