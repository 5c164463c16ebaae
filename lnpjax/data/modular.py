"""Modular-arithmetic sequences: next-token prediction with known Fourier features.

A sequence walks around a cycle of tokens with a constant step (*Spectral Lens*, eq. 8)::

    token_j = offset + (phase + j * step) mod cycle,    j = 0 ... context_length

so that what a network has to learn is a rotation of the cyclic group, and the characters
``exp(2 pi i r m / cycle)`` of a token's place m on its cycle are the natural coordinates.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lnpjax._base.checks import check_count, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModularTask:
    """The distribution that sequences are drawn from.

    The paper gives the context length, the vocabulary and the recurrence; how cycle, step and
    offset are drawn it leaves open. The defaults are those of the authors' scripts.

    Attributes:
        vocab_size: V, number of tokens.
        context_length: L, tokens that a network sees; a sequence has one more.
        min_cycle: shortest cycle; lengths c up to V have probability proportional to
            ``c^-zipf_cycle``.
        zipf_cycle: exponent of that law.
        zipf_offset: offsets o from 0 to V - c have probability proportional to
            ``(o + 1)^-zipf_offset``.
        min_step_fraction: steps are uniform on the integers from this fraction of the cycle
            (rounded down, at least 1) to c - 1.
        noncoprime_probability: how often the step is rounded down to a multiple of a divisor of c
            (uniform among those from 2 to sqrt(c); none for a prime), so that the walk misses
            tokens.

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> int(ModularTask(vocab_size=32).smallest_step(16))
        2
    """

    vocab_size: int = 1024
    context_length: int = 64
    min_cycle: int = 5
    zipf_cycle: float = 1.3
    zipf_offset: float = 1.2
    min_step_fraction: float = 0.125
    noncoprime_probability: float = 0.3

    def __post_init__(self) -> None:
        check_count("context_length", self.context_length)
        require(
            2 <= self.min_cycle <= self.vocab_size,
            "min_cycle",
            expected=f"an integer from 2 to vocab_size={self.vocab_size}",
            got=self.min_cycle,
        )
        for name, value in (
            ("min_step_fraction", self.min_step_fraction),
            ("noncoprime_probability", self.noncoprime_probability),
        ):
            require(0 <= value <= 1, name, expected="a number in [0, 1]", got=value)

    def smallest_step(self, cycle: Int[np.ndarray, "*n"] | int) -> Int[np.ndarray, "*n"]:
        """Return the smallest step on a cycle, before steps are made to share a divisor with it."""
        least = np.floor(self.min_step_fraction * np.asarray(cycle)).astype(np.int64)
        return np.clip(least, 1, np.asarray(cycle) - 1)


class ModularSequences(NamedTuple):
    """Sequences with the numbers that made them, one of each per sequence.

    Attributes:
        tokens: `(n, context_length + 1)`.
        cycle: c, length of the cycle.
        step: d, from 1 to c - 1.
        offset: o, the first token of the cycle.
        phase: a, where on the cycle the sequence begins.
    """

    tokens: Int[np.ndarray, "n time"]
    cycle: Int[np.ndarray, " n"]
    step: Int[np.ndarray, " n"]
    offset: Int[np.ndarray, " n"]
    phase: Int[np.ndarray, " n"]


def modular_sequences(task: ModularTask, count: int, *, seed: int) -> ModularSequences:
    """Draw sequences (*Spectral Lens*, section 5 and F.3).

    Args:
        task: the distribution.
        count: n, how many.
        seed: of the draws.

    Returns:
        The sequences, int32.

    Raises:
        ValueError: if `count` is not positive.

    Example:
        >>> sequences = modular_sequences(ModularTask(vocab_size=32, context_length=8), 3, seed=0)
        >>> sequences.tokens.shape
        (3, 9)
        >>> place = sequences.tokens - sequences.offset[:, None]
        >>> bool(np.all(np.diff(place) % sequences.cycle[:, None] == sequences.step[:, None]))
        True
    """
    check_count("count", count)
    rng = np.random.default_rng((seed, 0x6D6F64))
    cycles = np.arange(task.min_cycle, task.vocab_size + 1)
    cycle = cycles[_inverse_cdf(np.cumsum(cycles**-task.zipf_cycle), rng.random(count))]

    # Offsets that leave room for the cycle: the same weights for all, cut off at V - c.
    offset_weights = np.cumsum(np.arange(1.0, task.vocab_size + 1) ** -task.zipf_offset)
    largest = task.vocab_size - cycle
    offset = np.searchsorted(offset_weights, rng.random(count) * offset_weights[largest])
    offset = np.minimum(offset, largest)

    step = rng.integers(task.smallest_step(cycle), cycle)
    divisors, num_divisors = _divisor_table(task.vocab_size)
    drawn = divisors[cycle, np.floor(rng.random(count) * num_divisors[cycle]).astype(np.int64)]
    shares = (rng.random(count) < task.noncoprime_probability) & (num_divisors[cycle] > 0)
    step = np.where(shares, np.maximum(drawn, step // drawn * drawn), step)

    phase = rng.integers(0, cycle)
    return _walk(task.context_length, cycle=cycle, step=step, offset=offset, phase=phase)


def band_sequences(task: ModularTask, *, cycle: int, offset: int) -> ModularSequences:
    """Return every walk on one cycle: each place of the last input token with each step, once.

    A probe of what a network represents at one cycle of tokens ("band", F.3): averages over steps
    at a given last token have no sampling error. The authors draw such walks at random; for a prime
    cycle, where no step shares a divisor with it, the averages are the same in expectation.

    Args:
        task: context length, vocabulary and range of steps.
        cycle: c, length of the cycle.
        offset: o, its first token.

    Returns:
        Sequences ordered by the place m of the last input token, then by step; there are
        c times the number of steps of them, and the place is sequence number // number of steps.

    Raises:
        ValueError: if the cycle does not lie within the vocabulary.

    Example:
        >>> task = ModularTask(vocab_size=32, context_length=4)
        >>> probe = band_sequences(task, cycle=7, offset=10)
        >>> len(probe.tokens), probe.tokens[::6, -2].tolist()
        (42, [10, 11, 12, 13, 14, 15, 16])
    """
    check_count("cycle", cycle, least=2)
    require(
        0 <= offset <= task.vocab_size - cycle,
        "offset",
        expected=f"0 <= offset <= vocab_size - cycle = {task.vocab_size - cycle}",
        got=offset,
    )
    steps = np.arange(int(task.smallest_step(cycle)), cycle)
    place, step = (grid.ravel() for grid in np.meshgrid(np.arange(cycle), steps, indexing="ij"))
    phase = (place - step * (task.context_length - 1)) % cycle
    size = len(step)
    return _walk(
        task.context_length,
        cycle=np.full(size, cycle),
        step=step,
        offset=np.full(size, offset),
        phase=phase,
    )


def teacher_power(task: ModularTask, cycle: int) -> Float[np.ndarray, " modes"]:
    """Return how much of the next token's Fourier modes a token's place on the cycle determines.

    With the step unknown, ``E[chi_r(place_{j+1}) | place_j] = chi_r(place_j) E_d[chi_r(d)]`` for
    the characters ``chi_r(m) = exp(2 pi i r m / cycle)``: the mean over steps keeps a mode to the
    extent that the steps do not cover the cycle evenly. This is what a network's state, averaged
    over steps at a given last token, has to carry of the target, and so what `H_S` calls the task's
    modes (*Spectral Lens*, eq. 9: "teacher-supported"; the paper does not say which they are).

    Args:
        task: range of steps; those that share a divisor with the cycle are not counted twice.
        cycle: c.

    Returns:
        ``|E_d[chi_r(d)]|^2`` for r = 1 ... floor(c / 2).

    Example:
        >>> teacher_power(ModularTask(vocab_size=32), 16).argmax()
        np.int64(0)
    """
    steps = np.arange(int(task.smallest_step(cycle)), cycle)
    modes = np.arange(1, cycle // 2 + 1)
    return np.abs(np.exp(2j * math.pi * np.outer(modes, steps) / cycle).mean(axis=1)) ** 2


def _walk(length: int, **numbers: Int[np.ndarray, " n"]) -> ModularSequences:
    cycle, step, offset, phase = (
        numbers[name].astype(np.int64) for name in ("cycle", "step", "offset", "phase")
    )
    places = (phase[:, None] + np.arange(length + 1) * step[:, None]) % cycle[:, None]
    columns = (offset[:, None] + places, cycle, step, offset, phase)
    return ModularSequences(*(column.astype(np.int32) for column in columns))


def _inverse_cdf(
    cumulative: Float[np.ndarray, " k"], uniform: Float[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    indices = np.searchsorted(cumulative, uniform * cumulative[-1])
    return np.minimum(indices, len(cumulative) - 1)


def _divisor_table(
    largest: int,
) -> tuple[Int[np.ndarray, "numbers divisors"], Int[np.ndarray, " numbers"]]:
    """Tabulate the divisors from 2 to the square root of each number; padded with 1."""
    divisors: list[list[int]] = [[] for _ in range(largest + 1)]
    for divisor in range(2, math.isqrt(largest) + 1):
        for number in range(divisor * divisor, largest + 1, divisor):
            divisors[number].append(divisor)
    counts = np.array([len(of_number) for of_number in divisors])
    table = np.ones((largest + 1, max(counts.max(), 1)), np.int64)
    for number, of_number in enumerate(divisors):
        table[number, : len(of_number)] = of_number
    return table, counts
