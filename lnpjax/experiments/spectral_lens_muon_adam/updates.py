"""Updates of one batch as random matrices: their mean is the signal, what is about it the noise.

A batch of B sequences is drawn with replacement from a population whose gradients are all known, so
the mean of its gradient is the population's exactly, and the variance of an entry is ``s^2 / B``.
For the gradient and for Adam, signal and noise then have closed forms (`expected_power`).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from lnpjax.spectra import effective_rank
from lnpjax.theory.fourier import polar_factor

RULES = ("gradient", "Muon", "polar factor", "Adam")
ADAM_EPSILON = 1e-8  # optax's default
_MUON = optax.contrib.scale_by_muon(
    beta=0.0, nesterov=False, weight_dimension_numbers=optax.contrib.MuonDimensionNumbers()
)


class Power(NamedTuple):
    """Squared Frobenius norms.

    Attributes:
        signal: of the mean update.
        noise: expected, of a batch's deviation from it.
    """

    signal: Float[Array, ""]
    noise: Float[Array, ""]


class Population(NamedTuple):
    """The gradients of one matrix, over all sequences that batches are drawn from.

    Attributes:
        rows: of each sequence.
        mean: over the sequences.
        variance: over them, of every entry.
    """

    rows: Float[Array, "samples m n"]
    mean: Float[Array, "m n"]
    variance: Float[Array, "m n"]


def population_of(rows: Float[Array, "samples m n"]) -> Population:
    """Return the population of these gradients.

    Example:
        >>> population_of(jnp.array([[[1.0]], [[3.0]]])).variance
        Array([[1.]], dtype=float32)
    """
    return Population(rows, jnp.mean(rows, axis=0), jnp.var(rows, axis=0))


class Measured(NamedTuple):
    """What updates of one rule and batch size are like, over many batches.

    Attributes:
        power: of signal and noise, neither biased by the number of batches.
        alignment: mean cosine of an update with that of the population's gradient.
        along: part of the mean update that lies along it.
        distance: from the polar factor of the population's gradient, over its norm; root of the
            mean square.
        rank: effective rank of an update, of its squared singular values.
        signal_values: singular values of the mean over batches, which keeps some of the noise.
        noise_values: of a batch's deviation, by rank; roots of the mean squares.
    """

    power: Power
    alignment: Float[Array, ""]
    along: Float[Array, ""]
    distance: Float[Array, ""]
    rank: Float[Array, ""]
    signal_values: Float[Array, " k"]
    noise_values: Float[Array, " k"]


def update(
    rule: str,
    gradient: Float[Array, "m n"],
    population: Population,
    batch_size: Float[Array, ""] | float,
) -> Float[Array, "m n"]:
    """Return the update of a batch's gradient, without momentum and without a rate.

    "Muon" is what optax makes of it, by five Newton-Schulz steps; "polar factor" is what the theory
    has instead (F.17). "Adam" divides by the root of the second moment, which is taken to have
    converged: ``E[g_B^2] = g^2 + s^2 / B``.

    Args:
        rule: one of `RULES`.
        gradient: of a batch.
        population: that it is drawn from.
        batch_size: its sequences.

    Returns:
        The update; where the rule is Adam's and an entry has no gradient at all, 0.

    Example:
        >>> rows = jnp.array([[[3.0, 0.0]], [[1.0, 0.0]]])
        >>> update("Adam", rows[0], population_of(rows), 1.0)[0, 0].round(3)  # 3 / sqrt(5)
        Array(1.342, dtype=float32)
    """
    if rule == "gradient":
        return gradient
    if rule == "polar factor":
        return polar_factor(gradient)
    if rule == "Muon":
        return _MUON.update(gradient, _MUON.init(gradient), gradient)[0]
    second = population.mean**2 + population.variance / batch_size
    return gradient / (jnp.sqrt(second) + ADAM_EPSILON)


def expected_power(rule: str, population: Population, batch_size: float) -> Power:
    """Return signal and noise of the gradient or of Adam in closed form.

    With mean g and variance s^2 of an entry, the gradient has the signal ``sum g^2`` and the noise
    ``sum s^2 / B``; Adam divides both, entry by entry, by ``g^2 + s^2 / B``.

    Args:
        rule: "gradient" or "Adam".
        population: that batches are drawn from.
        batch_size: their sequences.

    Returns:
        Both, but for Adam's epsilon.

    Example:
        >>> rows = jnp.array([[[3.0]], [[1.0]]])
        >>> [round(float(part), 3) for part in expected_power("Adam", population_of(rows), 1)]
        [0.8, 0.2]
    """
    signal, noise = population.mean**2, population.variance / batch_size
    if rule == "Adam":
        total = jnp.where(signal + noise > 0, signal + noise, 1.0)
        signal, noise = signal / total, noise / total
    return Power(jnp.sum(signal), jnp.sum(noise))


def power_of(updates: Float[Array, "draws m n"]) -> Power:
    """Estimate signal and noise from two or more independent updates, without bias.

    The signal is the mean inner product of two of them.

    Example:
        >>> [float(part) for part in power_of(jnp.array([[[1.0]], [[3.0]]]))]
        [3.0, 2.0]
    """
    count = len(updates)
    own = jnp.sum(updates**2) / count
    signal = (jnp.sum(jnp.sum(updates, axis=0) ** 2) / count - own) / (count - 1)
    return Power(signal, own - signal)


@partial(jax.jit, static_argnums=0)
def measure_updates(
    rule: str,
    population: Population,
    counts: Float[Array, "draws samples"],
    batch_sizes: Float[Array, " 2"],
) -> Measured:
    """Measure the updates of many batches.

    Args:
        rule: one of `RULES`.
        population: that they are drawn from.
        counts: how often each sequence is in each batch.
        batch_sizes: sequences of a batch; and of the largest ones, whose second moment Adam has at
            the gradient of the population.
    """
    size, largest = batch_sizes
    gradients = jnp.tensordot(counts, population.rows, axes=1) / size
    updates = jax.vmap(lambda gradient: update(rule, gradient, population, size))(gradients)
    limit = update(rule, population.mean, population, largest)
    factor = polar_factor(population.mean)
    mean = jnp.mean(updates, axis=0)
    spread = len(updates) / (len(updates) - 1)  # of deviations from a mean of so many
    squares = jax.vmap(_squared_singular_values)
    norms = jnp.sqrt(jnp.sum(updates**2, axis=(1, 2)))
    away = jnp.mean(jnp.sum((updates - factor) ** 2, axis=(1, 2)))
    return Measured(
        power=power_of(updates),
        alignment=jnp.mean(jnp.tensordot(updates, limit, axes=2) / norms) / _norm(limit),
        along=jnp.sum(mean * limit) / _norm(limit),
        distance=jnp.sqrt(away) / _norm(factor),
        rank=jnp.mean(effective_rank(squares(updates))),
        signal_values=jnp.sqrt(_squared_singular_values(mean)),
        noise_values=jnp.sqrt(spread * jnp.mean(squares(updates - mean), axis=0)),
    )


def draw_counts(
    num_samples: int, batch_size: int, num_draws: int, *, seed: tuple[int, ...]
) -> Int[np.ndarray, "draws samples"]:
    """Draw batches with replacement, as how often each sample is in each of them.

    Example:
        >>> draw_counts(5, 3, 2, seed=(0,)).sum(axis=1)
        array([3, 3])
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(batch_size, np.full(num_samples, 1 / num_samples), size=num_draws)


def _norm(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(matrix**2))


def _squared_singular_values(matrix: Float[Array, "m n"]) -> Float[Array, " k"]:
    return jnp.linalg.svd(matrix, compute_uv=False) ** 2
