"""The energy balance of spectral shells as a measurement: what dissipation does not explain.

*Spectral shells*, sections 3.5 and 4.3. Energies and dissipation need nothing but products with the
kernel, so that the balance closes on models of any size: whatever ``dE/dt + D`` leaves over has
crossed a shell boundary. `lnpjax.shells.shell_fluxes` has the fluxes themselves, for small models.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import check_ascending, check_floating, check_values, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype


@entry_point
def energy_balance_residual(
    energies: Float[Array, "time bin"],
    dissipation: Float[Array, "time bin"],
    times: Float[Array, " time"],
) -> Float[Array, "interval bin"]:
    """Return the net energy that each shell gained from others, ``dE_a/dt + D_a``.

    *Spectral shells*, eq. 3, between measurements. Over an interval, dE/dt is the difference of
    energies and D the mean of dissipation at both ends, right to second order at the middle of the
    interval. What is left over is the net flux of eq. 3, and what that equation does not have:

    - modes whose eigenvalue crossed an edge take their energy along. *Spectral shells*, eqs. 1 to 3
      differentiate the sum over a shell as if its modes stayed the same, and hold between
      crossings, which can move more energy than the fluxes do;
    - whatever is not gradient flow on ``|e|^2 / 2``: finite and stochastic steps, momentum, another
      loss.

    The first cancels in the sum over all entries, the second does not: that sum tells how far the
    balance can be trusted.

    Args:
        energies: `lnpjax.shells.shell_energies` at every checkpoint, ``(T, bins)``, all with the
            same edges and on the same data.
        dissipation: `lnpjax.shells.shell_dissipation` at the same checkpoints, ``(T, bins)``.
        times: the checkpoints in flow time, ``(T,)``, strictly ascending: accumulated learning
            rates of gradient descent on ``|e|^2 / 2``. Twice the learning rate where the loss is a
            mean of squares without the factor 1/2, and energies those of the
            `lnpjax.shells.function_space_measure`.

    Returns:
        ``(T - 1, bins)``, energy per unit of flow time. Positive where a shell gained.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree or there are fewer than two times; where values are known, if
            they are not finite or times do not ascend.

    Cost: negligible.

    Example:
        >>> energies, dissipation = jnp.array([[2.0, 3.0], [2.5, 2.0]]), jnp.zeros((2, 2))
        >>> energy_balance_residual(energies, dissipation, jnp.array([0.0, 0.5]))
        Array([[ 1., -2.]], dtype=float32)
    """
    check_floating("times", times)
    check_ascending("times", times, of="times")
    for argument, series in (("energies", energies), ("dissipation", dissipation)):
        _check_series(argument, series, (len(times),))
    require(
        energies.shape == dissipation.shape,
        "dissipation",
        expected=f"the shape of energies, {energies.shape}",
        got=f"shape {dissipation.shape}",
    )
    dtype = accumulation_dtype()
    steps = jnp.diff(jnp.asarray(times, dtype))[:, None]
    rates = jnp.diff(jnp.asarray(energies, dtype), axis=0) / steps
    return rates + _interval_means(jnp.asarray(dissipation, dtype))


@entry_point
def boundary_flux(net_flux: Float[Array, "*batch bin"]) -> Float[Array, "*batch bin"]:
    """Return the flux of energy down across the upper edge of every shell, ``J_(<=a)``.

    *Spectral shells*, definition 4.1: the flux into the shells up to a from all that lie above.
    What they exchange with one another cancels, so that it is the cumulated net flux. Positive
    where energy moves towards small eigenvalues: the flux J of eq. 4, which counts
    upwards, is minus this one.

    Args:
        net_flux: the net gain of every shell, ``(..., bins)``, ascending from the remainder:
            `energy_balance_residual`, or ``shell_fluxes(...).net``.

    Returns:
        ``(..., bins)``, entry a for the upper edge of shell a. The last one, for the edge above
        everything, is zero where energy is conserved.

    Raises:
        TypeError: if it is not an array of real floating-point numbers.
        ValueError: if it is a scalar.

    Cost: negligible.

    Example:
        >>> boundary_flux(jnp.array([1.0, 2.0, -3.0]))
        Array([1., 3., 0.], dtype=float32)
    """
    check_floating("net_flux", net_flux)
    require(net_flux.ndim >= 1, "net_flux", expected="an axis of shells", got="a scalar")
    return jnp.cumsum(jnp.asarray(net_flux, accumulation_dtype()), axis=-1)


@entry_point
def renormalisability_ratio(
    boundary: Float[Array, "time_or_interval bin"],
    dissipation: Float[Array, "time bin"],
    times: Float[Array, " time"],
) -> Float[Array, "interval bin"]:
    """Compare what crossed a shell's upper edge, either way, with what the shell dissipated.

    *Spectral shells*, definition 4.1: ``int_0^T |J_(<=a)| dt / int_0^T D_a dt``, for every end time
    T. Dynamics are renormalisable where one constant C bounds it for all T beyond some T_a, and for
    all shells. Integrals are by the trapezoidal rule.

    Args:
        boundary: `boundary_flux`, at the times ``(T, bins)``, or as means over the intervals
            between them ``(T - 1, bins)``, as `energy_balance_residual` supplies them. A mean hides
            what flowed there and back within its interval, and the ratio is then a lower bound.
        dissipation: `lnpjax.shells.shell_dissipation` at the times, ``(T, bins)``.
        times: strictly ascending, ``(T,)``.

    Returns:
        ``(T - 1, bins)``, without units, for the end times ``times[1:]``. NaN for a shell through
        which nothing moved and in which nothing dissipated, infinite where nothing dissipated.

    Raises:
        TypeError: if an argument is not an array of real floating-point numbers.
        ValueError: if shapes disagree or there are fewer than two times; where values are known, if
            they are not finite, times do not ascend, or a dissipation is negative.

    Cost: negligible.

    Example:
        >>> flux, dissipation = jnp.array([[1.0], [-3.0]]), jnp.full((2, 1), 4.0)
        >>> renormalisability_ratio(flux, dissipation, jnp.array([0.0, 1.0]))
        Array([[0.5]], dtype=float32)
    """
    check_floating("times", times)
    check_ascending("times", times, of="times")
    _check_series("boundary", boundary, (len(times), len(times) - 1))
    _check_series("dissipation", dissipation, (len(times),), least=0.0)
    require(
        boundary.shape[1] == dissipation.shape[1],
        "boundary",
        expected=f"{dissipation.shape[1]} columns, as in dissipation",
        got=f"shape {boundary.shape}",
    )
    dtype = accumulation_dtype()
    steps = jnp.diff(jnp.asarray(times, dtype))[:, None]
    crossing = jnp.abs(jnp.asarray(boundary, dtype))
    if len(crossing) == len(times):
        crossing = _interval_means(crossing)
    dissipated = _interval_means(jnp.asarray(dissipation, dtype))
    return jnp.cumsum(crossing * steps, axis=0) / jnp.cumsum(dissipated * steps, axis=0)


def _interval_means(series: Float[Array, "time bin"]) -> Float[Array, "interval bin"]:
    return (series[1:] + series[:-1]) / 2


def _check_series(
    argument: str, series: Any, lengths: tuple[int, ...], *, least: float = -np.inf
) -> None:
    check_floating(argument, series)
    require(
        series.ndim == 2 and len(series) in lengths and series.shape[1] >= 1,
        argument,
        expected=f"{' or '.join(map(str, lengths))} rows of shells",
        got=f"shape {series.shape}",
    )
    bound = "" if least == -np.inf else f" >= {least:g}"
    check_values(argument, series, expected=f"finite numbers{bound}", least=least)
