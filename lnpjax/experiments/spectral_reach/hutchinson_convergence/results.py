"""What draws of the squared norm say, by the number of probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import NUM_DRAWS, MeanDraws, Uncertain, mean_of
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import HutchinsonConfig


class Convergence(NamedTuple):
    """Estimates of one kind.

    Attributes:
        probes: the numbers M.
        estimates: at each M, independent of one another.
        reference: the mean of the draws that no estimate has.
        mean: of all draws.
    """

    probes: tuple[int, ...]
    estimates: list[Float[np.ndarray, " repeat"]]
    reference: Uncertain
    mean: Uncertain

    def variations(self, *, seed: int = 0) -> MeanDraws:
        """Return logarithms of the coefficients of variation, and where the true ones may lie.

        A sample's variance over the true one is chi-squared, over its degrees of freedom.
        """
        count = len(self.estimates[0]) - 1
        values = [np.log(x.std(ddof=1) / self.reference.value) for x in self.estimates]
        rng = np.random.default_rng(seed)
        spread = np.log(rng.chisquare(count, (NUM_DRAWS, len(values))) / count) / 2
        errors = spread.std(axis=0)
        return MeanDraws(np.vstack([values, values - spread]), errors)

    def exponent(self) -> Uncertain:
        """Return that of the coefficient of variation as a power of M."""
        means = self.variations()
        return means.estimate(log_slope(np.asarray(self.probes, float), means.rows))

    def for_one_probe(self, *, seed: int = 0) -> MeanDraws:
        """Return the logarithm of what the law ``c / sqrt(M)`` has for M = 1."""
        means = self.variations(seed=seed)
        rows = np.mean(means.rows + np.log(self.probes) / 2, axis=1, keepdims=True)
        return MeanDraws(rows, rows[1:].std(axis=0))

    def fitted(self, probes: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the law that is fitted, at some numbers of probes."""
        return np.exp(self.for_one_probe().rows[0, 0]) / np.sqrt(probes)


def convergence(config: HutchinsonConfig, sweep: Sweep, way: str) -> Convergence:
    """Return the estimates of one kind of probes, each from draws of its own."""
    units = [row["unit"] for row in sweep.rows(way=way)]
    draws = np.concatenate([sweep.arrays(unit)["draws"] for unit in units]).astype(float)
    return convergence_of(config, draws)


def convergence_of(config: HutchinsonConfig, draws: Float[np.ndarray, " probe"]) -> Convergence:
    """Cut draws into estimates; the reference comes first."""
    mean = mean_of(draws)
    reference, rest = draws[: config.num_reference], draws[config.num_reference :]
    estimates = []
    for count in config.probes:
        taken, rest = np.split(rest, [count * config.num_repeats])
        estimates.append(taken.reshape(config.num_repeats, count).mean(axis=1))
    return Convergence(config.probes, estimates, mean_of(reference), mean)


def cost_in_gradients(probes: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the cost of an estimate in gradients of the batch (`lnpjax.Hutchinson`)."""
    return 1 / 3 + 2 / 3 * probes
