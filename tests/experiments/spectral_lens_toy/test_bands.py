"""Which bands decide anything: they are trained on, and chance is lower than what they may show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lnpjax.data.modular import ModularTask, modular_sequences
from lnpjax.experiments.spectral_lens_toy.bands import (
    chance_of_first_component,
    chance_of_task_modes,
    deciding_bands,
    frequent_bands,
    task_modes,
    training_counts,
)
from lnpjax.experiments.spectral_lens_toy.config import PRESETS
from lnpjax.experiments.spectral_lens_toy.fourier_probes import (
    band_concentration,
    fourier_profile,
)

OUR_OWN = ["cpu", "long"]


@pytest.mark.parametrize("preset", OUR_OWN)
def test_our_bands_are_those_trained_on_most(preset):
    config = PRESETS[preset]
    sequences = modular_sequences(config.task, config.num_train, seed=0)
    assert list(config.bands) == frequent_bands(sequences, 8, least_cycle=13)
    assert min(training_counts(config).values()) >= config.least_occurrences
    first = [band for band in deciding_bands(config.task, config.bands) if band[1] == 0]
    assert list(config.tracked_bands) == first


def test_counts_are_those_of_the_training_sequences():
    assert training_counts(PRESETS["cpu"])[13, 0] == 300
    never = dataclasses.replace(PRESETS["cpu"], bands=(*PRESETS["cpu"].bands, (37, 5)))
    assert training_counts(never)[37, 5] < 5
    paper = training_counts(PRESETS["paper"])
    assert paper[97, 200] == paper[179, 50] == 0


@pytest.mark.parametrize("cycle", [11, 13, 20, 31])
def test_chance_is_what_random_states_show(cycle):
    modes = task_modes(ModularTask(vocab_size=64), cycle)
    rng = np.random.default_rng(cycle)
    shown = [
        band_concentration(fourier_profile(rng.standard_normal((cycle, 16))), modes)
        for _ in range(200)
    ]
    expected = chance_of_task_modes(modes, cycle)
    assert np.mean(shown) == pytest.approx(expected, abs=3e-2)
    assert (expected == 1) == (cycle <= 13)


def test_a_wider_state_has_less_chance_of_a_single_wave():
    assert chance_of_first_component(31, 64) < chance_of_first_component(13, 64)
