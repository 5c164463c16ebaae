"""Bands of the toy: how often each occurs in training, and what random states show on it."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from lnpjax.data.modular import ModularSequences, ModularTask, teacher_power
from lnpjax.experiments.spectral_lens_toy.config import Band, ToyConfig
from lnpjax.experiments.spectral_lens_toy.fourier_probes import (
    first_component_peak_mass,
    task_band,
)
from lnpjax.experiments.spectral_lens_toy.training import ToyData

MOST_CHANCE = 0.65
"""H_S of random states above which a band cannot show that a network concentrates."""
NUM_RANDOM = 32  # networks with random states


def band_name(band: Band) -> str:
    """A band as the authors write it, "cycle:offset".

    Example:
        >>> band_name((23, 10))
        '23:10'
    """
    return f"{band[0]}:{band[1]}"


def task_modes(task: ModularTask, cycle: int) -> Bool[np.ndarray, " modes"]:
    """S: the modes of a cycle that the task determines."""
    return task_band(teacher_power(task, cycle))


def chance_of_task_modes(modes: Bool[np.ndarray, " modes"], cycle: int) -> float:
    """H_S of states that are drawn at random, independently for each place: its expectation.

    All modes then have the same energy, but for the middle one of an even cycle, which has no
    mirror image and half of it.

    Args:
        modes: S.
        cycle: c.

    Returns:
        A number from 0 to 1; 1 where S holds every mode, so that H_S is 1 by construction.

    Example:
        >>> chance_of_task_modes(np.array([True, False, True]), 6)
        0.6
    """
    energies = np.where(2 * np.arange(1, len(modes) + 1) == cycle, 0.5, 1.0)
    return float(energies[modes].sum() / energies.sum())


@functools.cache
def chance_of_first_component(cycle: int, hidden_size: int) -> float:
    """PC1 peak mass of states that are drawn at random, independently for each place.

    Args:
        cycle: c.
        hidden_size: width of the states.

    Returns:
        The mean over `NUM_RANDOM` draws.

    Example:
        >>> 0.2 < chance_of_first_component(31, 64) < 0.3
        True
    """
    states = np.random.default_rng(0).standard_normal((NUM_RANDOM, cycle, hidden_size))
    return float(np.mean([first_component_peak_mass(means) for means in states]))


def occurrences(sequences: ModularSequences) -> Counter[Band]:
    """How many sequences walk on each band."""
    return Counter(zip(sequences.cycle.tolist(), sequences.offset.tolist(), strict=True))


def frequent_bands(sequences: ModularSequences, count: int, *, least_cycle: int) -> list[Band]:
    """The bands of prime cycles that occur most often.

    On a prime cycle every walk visits every place.

    Args:
        sequences: trained on.
        count: how many bands.
        least_cycle: shortest cycle.

    Returns:
        The bands by cycle, then by offset.

    Example:
        >>> from lnpjax.data.modular import modular_sequences
        >>> sequences = modular_sequences(ModularTask(vocab_size=32), 1000, seed=0)
        >>> frequent_bands(sequences, 2, least_cycle=11)
        [(11, 0), (13, 0)]
    """
    prime = (
        (band, number)
        for band, number in occurrences(sequences).most_common()
        if band[0] >= least_cycle and all(band[0] % d for d in range(2, math.isqrt(band[0]) + 1))
    )
    return sorted(band for band, _ in [next(prime) for _ in range(count)])


def deciding_bands(task: ModularTask, bands: Sequence[Band]) -> list[Band]:
    """The bands on which H_S can tell a network from random states: chance is low enough.

    Example:
        >>> deciding_bands(ModularTask(vocab_size=64), [(11, 0), (31, 0)])
        [(31, 0)]
    """
    return [
        band
        for band in bands
        if chance_of_task_modes(task_modes(task, band[0]), band[0]) <= MOST_CHANCE
    ]


def training_counts(config: ToyConfig) -> dict[Band, int]:
    """How many training sequences walk on each of the probed bands."""
    found = _all_counts(config.task, config.num_train)
    return {band: found[band] for band in config.bands}


@functools.cache
def _all_counts(task: ModularTask, num_train: int) -> Counter[Band]:
    return occurrences(ToyData(task=task, num_train=num_train, num_validation=1, seed=0).drawn)
