"""What a sweep over random feature models says, by exponent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

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


def averages(groups: Sequence[Sequence[float]]) -> Averages:
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
    values = [np.asarray(group, np.float64) for group in groups]
    return Averages(
        np.array([group.mean() for group in values]),
        np.array([group.std(ddof=1) / np.sqrt(len(group)) for group in values]),
    )


def component(config: RandomFeatureConfig, sweep: Sweep, name: str) -> Averages:
    """A measured component, averaged over all seeds."""
    return _by_beta(config, sweep, "components", name)


def of_spectra(config: RandomFeatureConfig, sweep: Sweep, name: str) -> Averages:
    """What kernels' spectra say, averaged over those that were diagonalised."""
    return _by_beta(config, sweep, "spectrum", name)


def _by_beta(config: RandomFeatureConfig, sweep: Sweep, kind: str, name: str) -> Averages:
    where = {} if kind == "components" else {"dimension": config.dimension}
    return averages(
        [[row[name] for row in sweep.rows(kind=kind, beta=beta, **where)] for beta in config.betas]
    )


def population_law(config: RandomFeatureConfig) -> Float[np.ndarray, " beta"]:
    """The right-hand side of equation 11, with d terms in its sums."""
    spectra = [power_law_variances(config.dimension, beta) for beta in config.betas]
    return np.asarray(inverse_participation_ratio(jnp.asarray(spectra)))


class Proportionality(NamedTuple):
    """How well a quantity is a constant times a law.

    Attributes:
        constant: the one factor, the geometric mean of the ratios.
        ratios: quantity over constant times law; ones if it is proportional.
        slope: of the logarithm of one on that of the other; one if it is proportional.
        correlation: Pearson's, of the logarithms.
    """

    constant: float
    ratios: Float[np.ndarray, " beta"]
    slope: float
    correlation: float


def proportionality(
    values: Float[np.ndarray, " beta"], law: Float[np.ndarray, " beta"]
) -> Proportionality:
    """Fit one constant of proportionality.

    Args:
        values: positive.
        law: positive, as many.

    Returns:
        The fit.

    Example:
        >>> fit = proportionality(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0]))
        >>> print(f"{fit.constant:.3f} {fit.slope:.3f} {fit.correlation:.3f}")
        2.000 1.000 1.000
    """
    log_values, log_law = np.log(values), np.log(law)
    constant = float(np.exp(np.mean(log_values - log_law)))
    return Proportionality(
        constant,
        values / (constant * law),
        float(np.polyfit(log_law, log_values, 1)[0]),
        float(np.corrcoef(log_law, log_values)[0, 1]),
    )
