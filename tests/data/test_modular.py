"""Modular-arithmetic sequences: the recurrence, the laws they are drawn from, and the probes."""

from __future__ import annotations

import numpy as np
import pytest

from lnpjax.data.modular import ModularTask, band_sequences, modular_sequences, teacher_power

TASK = ModularTask(vocab_size=48, context_length=12)


def _check_walks(sequences):
    tokens, cycle, step, offset, phase = (np.asarray(column, int) for column in sequences)
    position = np.arange(tokens.shape[1])
    expected = offset[:, None] + (phase[:, None] + position * step[:, None]) % cycle[:, None]
    np.testing.assert_array_equal(tokens, expected)
    assert np.all((step >= 1) & (step < cycle) & (phase >= 0) & (phase < cycle))
    assert tokens.min() >= 0
    assert tokens.max() < TASK.vocab_size


def test_sequences_walk_around_their_cycles():
    sequences = modular_sequences(TASK, 2000, seed=3)
    _check_walks(sequences)
    assert sequences.cycle.min() >= TASK.min_cycle
    assert np.all(sequences.offset + sequences.cycle <= TASK.vocab_size)


def test_a_seed_gives_its_sequences():
    first, again, other = (modular_sequences(TASK, 50, seed=seed).tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_cycles_and_offsets_follow_their_power_laws():
    count = 40_000
    sequences = modular_sequences(TASK, count, seed=0)
    cycles = np.arange(TASK.min_cycle, TASK.vocab_size + 1)
    probability = cycles**-1.3 / np.sum(cycles**-1.3)
    observed = np.bincount(sequences.cycle, minlength=49)[cycles] / count
    assert np.max(np.abs(observed - probability) / np.sqrt(probability / count)) < 4.5
    offsets = sequences.offset[sequences.cycle == 40]  # 0 ... 8
    probability = np.arange(1, 10.0) ** -1.2
    probability /= probability.sum()
    observed = np.bincount(offsets, minlength=9) / len(offsets)
    assert np.max(np.abs(observed - probability) / np.sqrt(probability / len(offsets))) < 4.5


def test_steps_that_share_a_divisor():
    """For c = 36, a step is coprime only if it was not rounded down to a multiple of a divisor."""
    always = ModularTask(vocab_size=36, context_length=4, min_cycle=36, noncoprime_probability=1)
    step = modular_sequences(always, 4000, seed=0).step
    assert np.all(np.gcd(step, 36) > 1)
    never = ModularTask(vocab_size=36, context_length=4, min_cycle=36, noncoprime_probability=0)
    step = modular_sequences(never, 4000, seed=0).step
    assert set(step.tolist()) == set(range(4, 36))


def test_a_probe_has_each_place_with_each_step_once():
    probe = band_sequences(TASK, cycle=17, offset=20)
    _check_walks(probe)
    place = probe.tokens[:, -2] - 20
    pairs = set(zip(place.tolist(), probe.step.tolist(), strict=True))
    assert pairs == {(m, d) for m in range(17) for d in range(2, 17)}
    assert len(place) == len(pairs)
    np.testing.assert_array_equal(place, np.arange(len(place)) // 15)


def test_teacher_power_is_that_of_the_mean_next_token():
    """Over steps, the next place's characters average to multiples of the last place's."""
    probe = band_sequences(TASK, cycle=17, offset=20)
    last, following = probe.tokens[:, -2] - 20, probe.tokens[:, -1] - 20
    modes = np.arange(1, 9)
    characters = np.exp(2j * np.pi * np.outer(following - last, modes) / 17)
    np.testing.assert_allclose(teacher_power(TASK, 17), np.abs(characters.mean(0)) ** 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ModularTask(min_cycle=1), "min_cycle: expected an integer from 2"),
        (lambda: ModularTask(min_step_fraction=2), r"min_step_fraction: expected a number in"),
        (lambda: ModularTask(context_length=0), "context_length: expected an integer >= 1"),
        (lambda: modular_sequences(TASK, 0, seed=0), "count: expected an integer >= 1, got 0"),
        (lambda: band_sequences(TASK, cycle=40, offset=9), "offset: expected 0 <= offset"),
        (lambda: band_sequences(TASK, cycle=1, offset=0), "cycle: expected an integer >= 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
