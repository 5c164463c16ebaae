"""What the figures and the claims of scale-free transport read off the finished sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import Uncertain
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.scale_free.config import ScaleFreeConfig


class Transport(NamedTuple):
    """What crossed the edges of shells in one regime (`measure.transport`), over seeds.

    Attributes:
        times: in units of the inverse of the largest eigenvalue at the start.
        losses: over that at the start.
        flux: up across edges by fluxes, by interval of time.
        total: up across edges by fluxes and along with modes.
        supposed: what both are in units of c0, if eq. 6 is true.
    """

    times: Float[np.ndarray, " time"]
    losses: Float[np.ndarray, "seed time"]
    flux: Float[np.ndarray, "seed interval edge"]
    total: Float[np.ndarray, "seed interval edge"]
    supposed: Float[np.ndarray, "seed interval edge"]


def transport_of(config: ScaleFreeConfig, sweep: Sweep, regime: str) -> Transport:
    """Return the transport of a regime."""
    arrays = sweep.arrays(f"{regime}-profiles")
    names = ("losses", "flux", "total", "supposed")
    times = config.steps * config.step
    return Transport(times, *(np.asarray(arrays[name], float) for name in names))


def mean_energies(sweep: Sweep, regime: str) -> Float[np.ndarray, "time shell"]:
    """Return the energies of shells, mean over seeds."""
    return np.asarray(sweep.arrays(f"{regime}-profiles")["energies"], float).mean(axis=0)


def fitted(sweep: Sweep, regime: str, equation: str, name: str) -> Uncertain:
    """Return a number of the fits with its jackknife error over seeds."""
    rows = sweep.rows(kind="fit", regime=regime, equation=equation)
    values = {row["left_out"]: float(row[name]) for row in rows}
    return jackknife(values.pop(-1), np.array(list(values.values())))


def jackknife(value: float, without: Float[np.ndarray, " seeds"]) -> Uncertain:
    """Return a statistic of all seeds with the error that its values without one seed each give.

    Example:
        The mean of 1 and 3, whose standard error is 1:

        >>> jackknife(2.0, np.array([3.0, 1.0])).error
        1.0
    """
    count = len(without)
    squares = np.sum((without - without.mean()) ** 2)
    return Uncertain(value, float(((count - 1) / count * squares) ** 0.5), count - 1)


def over_seeds(num_seeds: int, statistic: Callable[[np.ndarray], float]) -> Uncertain:
    """Return a statistic of chosen seeds, with its jackknife error.

    Args:
        num_seeds: how many there are.
        statistic: of an array of seeds' numbers.

    Example:
        >>> values = np.array([1.0, 3.0])
        >>> over_seeds(2, lambda seeds: float(values[seeds].mean())).value
        2.0
    """
    seeds = np.arange(num_seeds)
    without = [statistic(np.delete(seeds, seed)) for seed in seeds]
    return jackknife(statistic(seeds), np.array(without))


def drift_exponent(
    moved: Float[np.ndarray, "seed interval edge"],
    supposed: Float[np.ndarray, "seed interval edge"],
    seeds: np.ndarray,
    intervals: slice = slice(None),
    edges: slice = slice(None),
) -> float:
    """Return c0 of eq. 6: what crossed edges over what does if c0 is one, of chosen parts.

    Example:
        >>> supposed = np.ones((2, 3, 4))
        >>> drift_exponent(0.5 * supposed, supposed, np.array([0, 1]))
        0.5
    """
    parts = (array[seeds][:, intervals, edges].sum() for array in (moved, supposed))
    return float(np.divide(*parts))


def loss_exponent_of(transport: Transport, seeds: np.ndarray) -> float:
    """Return the exponent alpha of ``L ~ t^-alpha`` over the window, of the mean over seeds."""
    return -float(log_slope(transport.times, np.log(transport.losses[seeds].mean(axis=0))))
