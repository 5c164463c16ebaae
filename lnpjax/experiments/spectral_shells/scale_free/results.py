"""What the figures and the claims of scale-free transport read off the finished sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.scale_free.config import ScaleFreeConfig


EQUATIONS = ("advective", "conservative")


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


Numbers = Float[np.ndarray, " left_out"]


class Fit(NamedTuple):
    """One equation fitted to the profiles of one regime (`measure.fits_unit`).

    Every number comes first of all seeds, then of all without one each (`estimates.without_one`).

    Attributes:
        c0: the drift.
        p: the power.
        cutoff: of the power law at the first time.
        amplitude: of the power law.
        residual: rms of ln E about the fit.
        converged: whether the fit did.
    """

    c0: Numbers
    p: Numbers
    cutoff: Numbers
    amplitude: Numbers
    residual: Numbers
    converged: Numbers


def fit_of(rows: Sequence[Mapping[str, Any]]) -> Fit:
    """Return a fit, by its rows of all seeds and of all without one each."""
    ordered = sorted(rows, key=lambda row: row["left_out"])  # -1 is none
    return Fit(*(np.array([row[name] for row in ordered], float) for name in Fit._fields))


def fit_in(sweep: Sweep, regime: str, equation: str) -> Fit:
    """Return a fit that a sweep holds."""
    return fit_of(sweep.rows(kind="fit", regime=regime, equation=equation))


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


def loss_exponent_of(transport: Transport, seeds: np.ndarray, half: slice) -> float:
    """Return the exponent alpha of ``L ~ t^-alpha``, of the mean over chosen seeds and times."""
    mean = transport.losses[seeds].mean(axis=0)
    return -float(log_slope(transport.times[half], np.log(mean[half])))


def halves(transport: Transport) -> dict[str, slice]:
    """Return both halves of the times, which share the middle."""
    middle = len(transport.times) // 2
    return {"earlier half": slice(middle + 1), "later half": slice(middle, None)}
