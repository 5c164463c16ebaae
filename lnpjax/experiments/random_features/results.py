"""What a sweep over random feature models says, by exponent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import (
    MeanDraws,
    Uncertain,
    draws_of_log_means,
    mean_of,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.spectra import inverse_participation_ratio
from lnpjax.theory.random_features import power_law_variances

if TYPE_CHECKING:
    from lnpjax.experiments.random_features.config import RandomFeatureConfig


class Averages(NamedTuple):
    """Averages over seeds, one per exponent, with their standard errors."""

    mean: Float[np.ndarray, " beta"]
    sem: Float[np.ndarray, " beta"]

    def over(self, other: Averages) -> Averages:
        """The quotient, with the error to first order of two that are independent."""
        quotient = self.mean / other.mean
        relative = np.hypot(self.sem / self.mean, other.sem / other.mean)
        return Averages(quotient, np.abs(quotient) * relative)


def averages(groups: Sequence[Sequence[float] | Float[np.ndarray, " n"]]) -> Averages:
    """Averages of groups of independent values.

    Args:
        groups: two values or more for each exponent.

    Returns:
        Means and their standard errors.

    Example:
        >>> found = averages([[1.0, 3.0], [2.0, 2.0]])
        >>> found.mean.tolist(), found.sem.tolist()
        ([2.0, 2.0], [1.0, 0.0])
    """
    means = [mean_of(group) for group in groups]
    return Averages(
        np.array([mean.value for mean in means]), np.array([mean.error for mean in means])
    )


def component(config: RandomFeatureConfig, sweep: Sweep, name: str) -> Averages:
    """Return a measured component, averaged over all seeds."""
    return averages(by_beta(config, sweep, "components", name))


def of_spectra(config: RandomFeatureConfig, sweep: Sweep, name: str) -> Averages:
    """Return what kernels' spectra say, averaged over those that were diagonalised."""
    return averages(by_beta(config, sweep, "spectrum", name))


def log_component(config: RandomFeatureConfig, sweep: Sweep, name: str, *, seed: int) -> MeanDraws:
    """Return the logarithm of a measured component, with draws of where it may lie."""
    return draws_of_log_means(by_beta(config, sweep, "components", name), seed=seed)


def log_of_spectra(config: RandomFeatureConfig, sweep: Sweep, name: str, *, seed: int) -> MeanDraws:
    """Return the logarithm of what kernels' spectra say, with draws of where it may lie."""
    return draws_of_log_means(by_beta(config, sweep, "spectrum", name), seed=seed)


def by_beta(
    config: RandomFeatureConfig, sweep: Sweep, kind: str, name: str
) -> list[Float[np.ndarray, " seeds"]]:
    """Return a column of the rows of a kind, one value per seed, for every exponent."""
    rows = sweep.rows(kind=kind)
    if kind == "spectrum":
        rows = [row for row in rows if row["dimension"] == config.dimension]
    return [
        np.array([row[name] for row in rows if row["beta"] == beta], float) for beta in config.betas
    ]


def tail_exponents(
    config: RandomFeatureConfig, sweep: Sweep
) -> dict[float, dict[int, Float[np.ndarray, " seeds"]]]:
    """Return the exponent over ranks that are a fixed share of d, by exponent b and by d."""
    rows = sweep.rows(kind="spectrum")
    return {
        beta: {
            d: np.array([row["tail_exponent"] for row in chosen if row["dimension"] == d], float)
            for d in sorted({row["dimension"] for row in chosen})
        }
        for beta in config.betas
        for chosen in ([row for row in rows if row["beta"] == beta],)
    }


def population_law(config: RandomFeatureConfig) -> Float[np.ndarray, " beta"]:
    """Return the right-hand side of equation 11, with d terms in its sums."""
    spectra = [power_law_variances(config.dimension, beta) for beta in config.betas]
    return np.asarray(inverse_participation_ratio(jnp.asarray(spectra)))


def log_law(config: RandomFeatureConfig) -> MeanDraws:
    """Return the logarithm of `population_law`, which is known."""
    logarithms = np.log(population_law(config))
    return MeanDraws(logarithms[None], np.zeros(len(logarithms)))


def proportionality(measured: MeanDraws, predicted: MeanDraws) -> Uncertain:
    """Return the exponent p of ``measured ~ predicted^p``; one if they are proportional.

    Args:
        measured: logarithms, one per exponent.
        predicted: logarithms of as many predictions.

    Example:
        >>> law = draws_of_log_means([np.full(2, 1.0), np.full(2, 3.0)])
        >>> round(proportionality(MeanDraws(2 * law.rows, law.errors), law).value, 6)
        2.0
    """
    x = predicted.rows - predicted.rows.mean(axis=1, keepdims=True)
    return measured.estimate(np.sum(measured.rows * x, axis=1) / np.sum(x**2, axis=1))


def constant_over(values: Float[np.ndarray, " beta"], law: Float[np.ndarray, " beta"]) -> float:
    """Return the one factor between them: the geometric mean of their ratios.

    Example:
        >>> round(constant_over(np.array([2.0, 8.0]), np.array([1.0, 4.0])), 6)
        2.0
    """
    return float(np.exp(np.mean(np.log(values / law))))
