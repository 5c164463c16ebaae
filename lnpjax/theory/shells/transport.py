"""Transport and dissipation of error energy along the spectrum, in closed form.

*Spectral shells* lets error energy drift along the spectrum of ``M = J J^T`` with a velocity
``v = c0 lambda / t`` (its eq. 6) while every mode dissipates. Its transport-dissipation
equation, eq. 7, conserves energy in transport. Its solution (eqs. 10 to 23) does not: eq. 10 leaves
out ``dv/dlambda = c0 / t``, and so solves another equation. Both are here, named for what they
solve:

- "conservative": ``d_t eps + d_lambda(v eps) = -2 lambda eps``, *Spectral shells*, eq. 7;
- "advective": ``d_t eps + v d_lambda eps = -2 lambda eps``, *Spectral shells*, eqs. 10 to 23. Its
  transport makes energy at the rate ``(c0 / t) eps``, so that c0 > 0 slows the decay of its loss.

Conventions. Energies carry the half of the loss, as in section 3.2: a shell has ``E = 1/2 sum
g_u^2``, the loss is ``L = sum E = integral eps dlambda``, and energy dissipates at ``2 lambda
eps``. (The paper drops the half in sections 4.5 and 7.2.) Time is that of gradient flow, the
accumulated learning rate; an eigenvalue has the unit 1 / time. A positive c0 moves energy to LARGER
eigenvalues.

This module is for any initial spectrum; `lnpjax.theory.shells.scale_free` has power laws, their
losses and exponents, and `lnpjax.theory.shells.solver` solves both equations numerically for any
drift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lnpjax._base.checks import check_ascending, check_values, require
from lnpjax._base.numerics import accumulation_dtype

Equation: TypeAlias = Literal["conservative", "advective"]
Density: TypeAlias = Callable[[Array], Array]
Scalar: TypeAlias = Float[Array, ""] | float


def check_equation(equation: Any) -> None:
    """Refuse what names neither equation."""
    require(
        equation in get_args(Equation),
        "equation",
        expected=f"one of {get_args(Equation)}",
        got=repr(equation),
    )


def check_positive(argument: str, value: Any, *, zero: bool = False) -> Array:
    """Return numbers as floating point; refuse those known to be negative or not finite.

    Args:
        argument: the name of the argument, as the caller wrote it.
        value: a number, or an array, traced or not.
        zero: whether zero is allowed.

    Raises:
        ValueError: where an entry is infinite, NaN, negative, or zero without `zero`.
    """
    bound, sign = {"least" if zero else "above": 0.0}, ">=" if zero else ">"
    check_values(argument, value, expected=f"finite values {sign} 0", **bound)
    return jnp.asarray(value, accumulation_dtype())


def check_edges(edges: Any) -> Float[Array, " edge"]:
    """Return shell boundaries as floating point; refuse them unless positive and increasing.

    Raises:
        ValueError: if there are fewer than two, or they do not increase.
    """
    array = check_positive("edges", edges)
    check_ascending("edges", array, of="shell boundaries", positive=True)
    return array


def check_times(times: Any) -> Float[Array, " time"]:
    """Return times as floating point; refuse them unless positive and increasing.

    Raises:
        ValueError: if there are fewer than two, or they do not increase.
    """
    array = check_positive("times", times)
    check_ascending("times", array, of="times", positive=True)
    return array


def drift(
    eigenvalues: Float[Array, "*s"] | float, time: Float[Array, "*s"] | float, *, c0: Scalar
) -> Float[Array, "*s"]:
    """Return the velocity of energy along the spectrum, ``v = c0 lambda / t``.

    *Spectral shells*, eq. 6.

    Args:
        eigenvalues: lambda >= 0.
        time: t > 0, broadcast against `eigenvalues`.
        c0: exponent of the drift.

    Raises:
        ValueError: if, where values are known, an eigenvalue is negative or a time is not positive.

    Example:
        >>> drift(2.0, 4.0, c0=0.5)
        Array(0.25, dtype=float32)
    """
    eigenvalues = check_positive("eigenvalues", eigenvalues, zero=True)
    return c0 * eigenvalues / check_positive("time", time)


def characteristic(
    labels: Float[Array, "*s"] | float,
    time: Float[Array, "*s"] | float,
    *,
    c0: Scalar,
    t0: Scalar = 1.0,
) -> Float[Array, "*s"]:
    """Return where energy at u at time t0 has moved, ``lambda = u (t / t0)^c0``.

    *Spectral shells*, eq. 9.

    Args:
        labels: u >= 0, the Lagrangian coordinate.
        time: t > 0, broadcast against `labels`.
        c0: exponent of the drift.
        t0: when the eigenvalue was u.

    Returns:
        lambda. Its inverse is the same with ``-c0`` for c0.

    Raises:
        ValueError: if, where values are known, one is negative, or a time is not positive.

    Example:
        >>> characteristic(characteristic(3.0, 4.0, c0=0.5), 4.0, c0=-0.5)
        Array(3., dtype=float32)
    """
    labels = check_positive("labels", labels, zero=True)
    return labels * (check_positive("time", time) / check_positive("t0", t0)) ** c0


def dissipation_time(
    time: Float[Array, "*s"] | float, *, c0: Scalar, t0: Scalar = 1.0
) -> Float[Array, "*s"]:
    """Return ``T = integral_t0^t (t'/t0)^c0 dt' = t0 ((t/t0)^(1+c0) - 1) / (1 + c0)``.

    Along the characteristic of u, dissipation leaves ``e^(-2 u T)`` of the energy. The paper's
    *Spectral shells*, eq. 11 has this without the factor t0. At c0 = -1 it is ``t0 ln(t/t0)``, and
    for c0 < -1 it never exceeds ``t0 / |1 + c0|``: energy drifts away from where it would
    dissipate.

    Args:
        time: t > 0.
        c0: exponent of the drift, any real number.
        t0: when it is counted from.

    Raises:
        ValueError: if, where values are known, a time is not positive.

    Example:
        >>> dissipation_time(3.0, c0=0.0), dissipation_time(3.0, c0=1.0)
        (Array(2., dtype=float32), Array(4., dtype=float32))
    """
    time, t0 = check_positive("time", time), check_positive("t0", t0)
    log_ratio = jnp.log(time / t0)
    exponent = (1 + c0) * log_ratio
    small = jnp.abs(exponent) < 1e-4
    away = jnp.where(small, 1.0, exponent)
    series = 1 + exponent / 2 + exponent**2 / 6 + exponent**3 / 24
    return t0 * log_ratio * jnp.where(small, series, jnp.expm1(away) / away)


def compression(ratio: Array, c0: Scalar, equation: Equation) -> Array:
    """Return what a stretch of the spectrum does to the density: ``du/dlambda`` for kept energy.

    Args:
        ratio: ``t / t0``.
        c0: exponent of the drift.
        equation: "conservative" or "advective".

    Raises:
        ValueError: for an unknown equation.

    Example:
        >>> print(compression(jnp.array(4.0), 0.5, "conservative"))
        0.5
    """
    check_equation(equation)
    return ratio**-c0 if equation == "conservative" else jnp.ones_like(ratio)


def amplitude(
    initial_density: Density,
    eigenvalues: Float[Array, "*s"] | float,
    time: Float[Array, "*s"] | float,
    *,
    c0: Scalar,
    t0: Scalar = 1.0,
    equation: Equation = "conservative",
) -> Float[Array, "*s"]:
    """Return the density that transport alone would have made (*Spectral shells*, eq. 22).

    ``eps_0(u)`` with ``u = lambda (t/t0)^-c0`` for the advective equation (the paper's), and
    ``eps_0(u) du/dlambda`` for the conservative one.

    Args:
        initial_density: ``eps_0``, elementwise: energy per eigenvalue at t0.
        eigenvalues: lambda > 0.
        time: t > 0, broadcast against `eigenvalues`.
        c0: exponent of the drift.
        t0: initial time.
        equation: "conservative" or "advective"; see the module.

    Returns:
        Energy per eigenvalue.

    Raises:
        ValueError: for an unknown equation, or values that are known not to be positive.

    Example:
        Energy per eigenvalue is halved where the spectrum is stretched to twice its width:

        >>> flat = lambda u: jnp.ones_like(u)
        >>> print(amplitude(flat, 1.0, 2.0, c0=1.0))
        0.5
        >>> print(amplitude(flat, 1.0, 2.0, c0=1.0, equation="advective"))
        1.0
    """
    eigenvalues, time = check_positive("eigenvalues", eigenvalues), check_positive("time", time)
    ratio = time / check_positive("t0", t0)
    return initial_density(eigenvalues * ratio**-c0) * compression(ratio, c0, equation)


def amplitude_growth(
    initial_density: Density,
    eigenvalues: Float[Array, "*s"] | float,
    time: Float[Array, "*s"] | float,
    *,
    c0: Scalar,
    t0: Scalar = 1.0,
    equation: Equation = "conservative",
) -> Float[Array, "*s"]:
    """Return how fast transport alone raises the density at a fixed eigenvalue.

    *Spectral shells*, eq. 23. ``d_t A = -(c0/t) u eps_0'(u)`` for the advective equation,
    ``-(c0/t) du/dlambda d(u eps_0)/du`` for the conservative one. So for c0 > 0 the paper asks for
    a decreasing initial spectrum, while conservation asks for more, that it falls faster than 1/u;
    for c0 < 0 it is the other way round.

    Args:
        initial_density: ``eps_0``, elementwise and differentiable.
        eigenvalues: lambda > 0.
        time: t > 0, broadcast against `eigenvalues`.
        c0: exponent of the drift.
        t0: initial time.
        equation: "conservative" or "advective".

    Returns:
        Energy per eigenvalue and time. Positive is not enough for the density itself to grow:
        dissipation works against it (`lnpjax.theory.shells.growth_ends`).

    Raises:
        ValueError: for an unknown equation, or values that are known not to be positive.

    Example:
        ``u^-0.5`` decreases, but more slowly than ``1/u``:

        >>> for equation in ("advective", "conservative"):
        ...     growth = amplitude_growth(lambda u: u**-0.5, 1.0, 1.0, c0=1.0, equation=equation)
        ...     print(equation, growth)
        advective 0.5
        conservative -0.5
    """
    eigenvalues, time = check_positive("eigenvalues", eigenvalues), check_positive("time", time)
    ratio = time / check_positive("t0", t0)
    labels = jnp.broadcast_to(
        eigenvalues * ratio**-c0, jnp.broadcast_shapes(eigenvalues.shape, time.shape)
    )
    density, slope = jax.jvp(initial_density, (labels,), (jnp.ones_like(labels),))
    flux_slope = labels * slope + (density if equation == "conservative" else 0)
    return -c0 / time * compression(ratio, c0, equation) * flux_slope


def transported_density(
    initial_density: Density,
    eigenvalues: Float[Array, "*s"] | float,
    time: Float[Array, "*s"] | float,
    *,
    c0: Scalar,
    t0: Scalar = 1.0,
    equation: Equation = "conservative",
) -> Float[Array, "*s"]:
    """Return the solution for any initial spectrum: `amplitude` times ``e^(-2 u T)``.

    *Spectral shells*, eqs. 11 and 13, from the initial time on: the paper's eq. 13 leaves
    ``e^(2 u t0 / (1+c0))`` out, which is to say that it redefines ``eps_0``.

    Args:
        initial_density: ``eps_0``, elementwise: energy per eigenvalue at t0.
        eigenvalues: lambda > 0.
        time: t > 0, broadcast against `eigenvalues`.
        c0: exponent of the drift, any real number; 0 is dissipation alone.
        t0: initial time.
        equation: "conservative" or "advective".

    Returns:
        Energy per eigenvalue.

    Raises:
        ValueError: for an unknown equation, or values that are known not to be positive.

    Example:
        >>> flat = lambda u: jnp.ones_like(u)
        >>> print(f"{transported_density(flat, 0.5, 3.0, c0=0.0):.4f} = {jnp.exp(-2.0):.4f}")
        0.1353 = 0.1353
    """
    carried = amplitude(initial_density, eigenvalues, time, c0=c0, t0=t0, equation=equation)
    labels = characteristic(eigenvalues, time, c0=-c0, t0=t0)
    return carried * jnp.exp(-2 * labels * dissipation_time(time, c0=c0, t0=t0))
