"""The energy balance of spectral shells in small tanh networks (Spectral Shells, sections 3 and 4).

Networks of one hidden layer (preset `cpu`) learn a teacher by gradient flow, in two regimes (see
`lnpjax.experiments.spectral_shells.flows`), with the exact kernel and its exact derivative.
Measured are, at many times: the coupling inside of shells (proposition 1), both sides of eq. 3, the
fluxes, and how much energy modes take along when their eigenvalue crosses an edge, which eqs. 1 to
3 leave out because they differentiate the sum over a shell as if its modes stayed the same.

What the paper leaves open, and what is done here: the networks; the ratio of the shells (2); the
constant of definition 4.1 (none is named: one is taken for "of the order of one"), and "large
alpha" there (shells within two decades of the largest eigenvalue). "Moved by fluxes" is half the
sum of ``|net flux|`` over shells, integrated over time; "moved by crossings" the energy
``g^2 / 2`` of every mode when it changes its shell, halfway between two measurements. Eigenvalues
are followed by their rank: they do not cross one another.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax.experiments._harness.sweep import Sweep, UnitResult
from lnpjax.experiments.spectral_shells.balance.config import BalanceConfig
from lnpjax.experiments.spectral_shells.books import crossed, dissipated_in_intervals, shells_of
from lnpjax.experiments.spectral_shells.flows import (
    REGIMES,
    Batch,
    Moment,
    Network,
    Params,
    flowed,
    moment,
    network,
    seed_key,
    stacked,
    teacher_targets,
)
from lnpjax.shells import boundary_flux, log_shells, renormalisability_ratio
from lnpjax.shells._energies import shell_indices

NUDGE = 1e-3
"""How far eq. 3 is followed to either side, in units of the inverse largest eigenvalue."""
DIFFERENCE = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
"""Weights of energies in a derivative of fourth order, by the number of steps."""


def measure(config: BalanceConfig, sweep: Sweep, data: Path | None) -> None:  # noqa: ARG001
    """Train and measure what the sweep does not hold yet.

    Args:
        config: the size.
        sweep: where results are kept.
        data: not used: samples are drawn.
    """
    for regime in REGIMES:
        for width in config.widths:
            unit = functools.partial(width_unit, config, regime, width)
            sweep.unit(f"{regime}-width{width}", unit)


def num_units(config: BalanceConfig, data: Path | None = None) -> int:  # noqa: ARG001
    """How many units `measure` asks for.

    Example:
        >>> from lnpjax.experiments.spectral_shells.balance.config import PRESETS
        >>> num_units(PRESETS["cpu"])
        14
    """
    return len(REGIMES) * len(config.widths)


def problem(config: BalanceConfig, seed: int) -> Batch:
    """Return the samples of a seed: standard normal inputs, and what a teacher makes of them."""
    inputs_key, teacher_key = jax.random.split(seed_key(config.seed, seed, 0))
    shape = (config.num_samples, config.num_inputs)
    inputs = jax.random.normal(inputs_key, shape, jnp.float64)
    return inputs, teacher_targets(teacher_key, inputs, config.teacher_width)


def width_unit(config: BalanceConfig, regime: Any, width: int) -> UnitResult:
    """Follow all seeds of one width and regime."""
    with jax.enable_x64(True):
        model = network(regime, config.num_inputs, width, config.hidden_layers)
        edges = log_shells(config.lowest, config.highest, ratio=config.ratio)
        seeds = []
        for seed in range(config.num_seeds):
            params = model.init(seed_key(config.seed, seed, 1))
            seeds.append(followed(config, model, params, problem(config, seed), edges))
    rows = [
        {"kind": "network", "regime": regime, "width": width, "seed": seed, **one.row}
        for seed, one in enumerate(seeds)
    ]
    names = seeds[0].arrays
    arrays = {name: np.stack([one.arrays[name] for one in seeds]) for name in names}
    return UnitResult(rows, {name: array.astype(np.float32) for name, array in arrays.items()})


class Followed(NamedTuple):
    """The books of one network: scalars, and arrays over shells or times."""

    row: dict[str, float]
    arrays: dict[str, Float[np.ndarray, " entry"]]


def followed(
    config: BalanceConfig, model: Network, params: Params, batch: Batch, edges: Array
) -> Followed:
    """Follow gradient flow, and keep the books.

    Args:
        config: the size.
        model: the network.
        params: where it starts.
        batch: the samples.
        edges: of the shells.

    Returns:
        What was found.
    """
    first = moment(model, params, batch, edges)
    unit = 1 / float(first.eigenvalues[0])
    step, moments, misfits = config.step * unit, [first], []
    steps = config.steps
    checks = set(np.linspace(1, len(steps) - 1, config.num_checks).round().astype(int).tolist())
    for index, (before, after) in enumerate(itertools.pairwise(steps), start=1):
        params = flowed(model, params, batch, step, after - before)
        moments.append(moment(model, params, batch, edges))
        if index in checks:
            misfits.append(_misfit_of_eq_3(model, params, batch, edges, unit, moments[-1]))
    return books(stacked(moments), steps * step, edges, misfits)


def books(
    moments: Moment, times: Float[np.ndarray, " time"], edges: Array, misfits: list[float]
) -> Followed:
    """Sum up what moved between shells, and how.

    Args:
        moments: at all times, which come first in every array.
        times: of gradient flow.
        edges: of the shells.
        misfits: of eq. 3, where it was checked.

    Returns:
        Scalars over all shells, and arrays by shell and by time.
    """
    exchange = np.abs(moments.net).sum(axis=1) / 2
    dissipation = moments.dissipation.sum(axis=1)
    crossings = crossed(moments, edges)
    known = [misfit for misfit in misfits if np.isfinite(misfit)]
    dissipated = dissipated_in_intervals(moments, times, edges).sum(axis=0)
    net = np.trapezoid(moments.net, times, axis=0)
    change = moments.energies[-1] - moments.energies[0]
    unexplained = change + dissipated - net - crossings.gained
    ratio = renormalisability_ratio(
        boundary_flux(jnp.asarray(moments.net)),
        jnp.asarray(moments.dissipation),
        jnp.asarray(times),
    )[-1]
    row = {
        "first_eigenvalue": moments.eigenvalues[0, 0],
        "last_eigenvalue": moments.eigenvalues[-1, 0],
        "first_loss": moments.energies[0].sum(),
        "last_loss": moments.energies[-1].sum(),
        "dissipated": dissipated.sum(),
        "moved_by_flux": np.trapezoid(exchange, times),
        "moved_by_crossings": crossings.moved,
        "num_crossings": crossings.num_modes,
        "unexplained": np.abs(unexplained).sum() / 2,
        "log_inside": np.log10(max(np.max(moments.inside), np.finfo(float).tiny)),
        "log_misfit": np.log10(np.median(known)) if known else np.nan,
    }
    arrays = {
        "times": times * moments.eigenvalues[0, 0],
        "exchange": exchange,
        "dissipation": dissipation,
        "loss": moments.energies.sum(axis=1),
        "flux_over_dissipation": np.asarray(ratio),
        "crossing_over_dissipation": crossings.by_shell
        / np.where(dissipated > 0, dissipated, np.nan),
        "occupied": occupied(moments, edges),
    }
    return Followed({name: float(value) for name, value in row.items()}, arrays)


def occupied(moments: Moment, edges: Array) -> Float[np.ndarray, " bin"]:
    """Return at what share of the times every shell has a mode."""
    shells = shells_of(moments, edges)
    bins = np.arange(moments.energies.shape[1])
    return np.mean(np.any(shells[:, :, None] == bins, axis=1), axis=0)


def _misfit_of_eq_3(
    model: Network, params: Params, batch: Batch, edges: Array, unit: float, here: Moment
) -> float:
    """Compare a difference of energies, of fourth order, with eq. 3; NaN where a mode crosses."""
    by = NUDGE * unit
    sides = {
        side: moment(model, flowed(model, params, batch, side * by, 1), batch, edges)
        for side in DIFFERENCE
    }
    first, last = (shell_indices(sides[side].eigenvalues, edges) for side in (-2, 2))
    if bool(jnp.any(first != last)):
        return np.nan
    rates = sum(weight * sides[side].energies for side, weight in DIFFERENCE.items()) / by
    expected = here.net - here.dissipation
    return float(jnp.max(jnp.abs(rates - expected)) / jnp.sum(here.dissipation))
