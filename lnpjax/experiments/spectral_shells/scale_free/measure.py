"""Power-law regression against the scale-free solution (Spectral Shells, section 5).

Inputs whose covariance is a power law and linear targets with another one give a spectrum of the
kernel, and of the error in it, that is a power law over a range. Tanh networks learn it in two
regimes (see `lnpjax.experiments.spectral_shells.flows`). Measured over a window of time: the
energies of all shells, to which the solutions of eqs. 7 and 10 are fitted; the drift that eq. 6
supposes, ``c0 = J t / (lambda eps)`` at the edges of shells, once with J the flux of definition 4.1
and once with all energy that crosses an edge, by fluxes and along with the modes; and the loss.

What the paper leaves open, and what is done here: the set-up; the scale-free window (chosen on
frozen kernels alone, so that the frontier stays between the first modes and the end of the power
law: with fewer inputs or at later times the last input, whose eigenvalue is ``d^-1.5`` of the
first, bends the loss); and J, which section 4.6 writes as ``v g`` and eq. 7 as ``v eps``: the
latter is taken. Shells are in units of the largest eigenvalue at the start, energies in units of
the first loss, so that seeds can be averaged.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_shells.books import dissipated_in_intervals
from lnpjax.experiments.spectral_shells.flows import (
    REGIMES,
    Batch,
    Moment,
    Regime,
    flowed,
    moment,
    network,
    seed_key,
    stacked,
)
from lnpjax.experiments.spectral_shells.scale_free.config import ScaleFreeConfig
from lnpjax.experiments.spectral_shells.scale_free.results import EQUATIONS
from lnpjax.shells import boundary_flux, log_shells
from lnpjax.theory.shells import fit_scale_free


def measure(config: ScaleFreeConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train, measure and fit what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: samples are drawn.
    """
    for regime in REGIMES:
        profiles = sweep.unit(
            f"{regime}-profiles", functools.partial(profiles_unit, config, regime)
        )
        energies = profiles.arrays["energies"]
        sweep.unit(f"{regime}-fits", functools.partial(fits_unit, config, regime, energies))


def num_units(config: ScaleFreeConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_shells.scale_free.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        4
    """
    return 2 * len(REGIMES)


def problem(config: ScaleFreeConfig, seed: int) -> Batch:
    """Return inputs with a power-law covariance of trace d, and a linear target of unit size."""
    inputs_key, signs_key = jax.random.split(seed_key(config.seed, seed, 0))
    shape = (config.num_samples, config.num_inputs)
    normals = jax.random.normal(inputs_key, shape, jnp.float64)
    ranks = jnp.arange(1, config.num_inputs + 1, dtype=jnp.float64)
    variances = ranks**-config.input_exponent
    signs = jax.random.rademacher(signs_key, (config.num_inputs,), jnp.float64)
    targets = normals @ (signs * ranks ** (-config.target_exponent / 2))
    scale = jnp.sqrt(config.num_inputs * variances / jnp.sum(variances))
    return normals * scale, targets / jnp.sqrt(jnp.mean(targets**2))


def profiles_unit(config: ScaleFreeConfig, regime: Regime) -> UnitResult:
    """Follow all seeds of a regime."""
    rows, columns = [], []
    with jax.enable_x64(True):
        model = network(regime, config.num_inputs, config.width, 1)
        for seed in range(config.num_seeds):
            params, batch = model.init(seed_key(config.seed, seed, 1)), problem(config, seed)
            start = moment(model, params, batch, edges_of(config, 1.0))
            top, loss = float(start.eigenvalues[0]), float(jnp.sum(start.energies))
            edges, moments, done = edges_of(config, top), [], 0
            for steps in config.steps:
                params = flowed(model, params, batch, config.step / top, steps - done)
                moments.append(moment(model, params, batch, edges))
                done = steps
            columns.append(transport(config, stacked(moments), top, loss))
            row: dict[str, Any] = {"kind": "network", "regime": regime, "seed": seed}
            last = float(moments[-1].eigenvalues[0])
            rows.append(row | {"first_eigenvalue": top, "last_eigenvalue": last, "loss": loss})
    arrays = {name: np.stack([one[name] for one in columns]) for name in columns[0]}
    return UnitResult(rows, {name: array.astype(np.float32) for name, array in arrays.items()})


def edges_of(config: ScaleFreeConfig, top: float) -> Array:
    """Return the edges of the shells for a largest eigenvalue at the start."""
    return log_shells(config.lowest * top, config.growth * top, ratio=config.ratio)


def transport(
    config: ScaleFreeConfig, moments: Moment, top: float, loss: float
) -> dict[str, Float[np.ndarray, ...]]:
    """Return energies, and what crosses the edges between shells.

    Args:
        config: the size.
        moments: at all times.
        top: the largest eigenvalue at the start.
        loss: at the start.

    Returns:
        `energies` by time and shell; by interval and inner edge, times ``dt``: `flux` up by eq. 3,
        `total` up by all that is not dissipation, and `supposed`, ``lambda eps dt / t``, of which
        both are c0 times as much if eq. 6 is true.
    """
    times = config.steps * config.step / top
    edges = edges_of(config, top)
    lengths = np.diff(times)[:, None]
    flux = -np.asarray(boundary_flux(jnp.asarray(moments.net)))
    gained = np.diff(moments.energies, axis=0) + dissipated_in_intervals(moments, times, edges)
    density = edge_density(np.asarray(moments.energies)[:, 1:], config.ratio)
    middles = np.sqrt(times[1:] * times[:-1])[:, None]
    inner = slice(1, -1)  # the upper edges of all shells except the remainder and the highest
    return {
        "energies": moments.energies[:, 1:] / loss,
        "losses": moments.energies.sum(axis=1) / loss,
        "flux": (flux[1:] + flux[:-1])[:, inner] / 2 * lengths / loss,
        "total": -np.cumsum(gained, axis=1)[:, inner] / loss,
        "supposed": (density[1:] + density[:-1]) / 2 * lengths / middles / loss,
    }


def edge_density(
    energies: Float[np.ndarray, "time shell"], ratio: float
) -> Float[np.ndarray, "time edge"]:
    """Return ``lambda eps`` at the edges between shells: E over ln q, the mean of both sides.

    Example:
        >>> edge_density(np.array([[1.0, 3.0]]), np.e)
        array([[2.]])
    """
    return (energies[:, 1:] + energies[:, :-1]) / 2 / np.log(ratio)


# Compiled once for all means.
_fit = jax.jit(fit_scale_free, static_argnames=("equation", "floor"))


def fits_unit(
    config: ScaleFreeConfig, regime: Regime, energies: Float[np.ndarray, "seed time shell"]
) -> UnitResult:
    """Fit both equations to the mean of all seeds, and to the means without one seed each."""
    rows: list[dict[str, Any]] = []
    with jax.enable_x64(True):
        edges, times = edges_of(config, 1.0), jnp.asarray(config.steps * config.step)
        for equation in EQUATIONS:
            for left_out in (-1, *range(config.num_seeds)):
                kept = [seed for seed in range(config.num_seeds) if seed != left_out]
                mean = jnp.asarray(energies[kept].mean(axis=0, dtype=np.float64))
                fit = _fit(edges, mean, times, equation=equation, floor=config.floor)
                rows.append(
                    {
                        "kind": "fit",
                        "regime": regime,
                        "equation": equation,
                        "left_out": left_out,
                        "c0": float(fit.model.c0),
                        "p": float(fit.model.p),
                        "cutoff": float(fit.model.cutoff),
                        "amplitude": float(fit.model.amplitude),
                        "residual": float(fit.residual),
                        "num_points": int(fit.num_points),
                        "converged": bool(fit.converged),
                    }
                )
    return UnitResult(rows)
