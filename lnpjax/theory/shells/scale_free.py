"""A scale-free spectrum in closed form: shell energies, loss, exponents and energy balance.

The power laws of section 5 of *Spectral shells*, for the two equations and in the conventions of
`lnpjax.theory.shells`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import check_values
from lnpjax._base.numerics import accumulation_dtype
from lnpjax.theory.shells.incomplete_gamma import upper_incomplete_gamma
from lnpjax.theory.shells.transport import (
    Equation,
    Scalar,
    check_edges,
    check_equation,
    check_positive,
    compression,
    dissipation_time,
    drift,
    transported_density,
)

# Gauss-Legendre nodes per shell, in the logarithm of the eigenvalue.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaleFree:
    """A scale-free initial spectrum and its drift; a pytree.

    ``eps_0(u) = amplitude u^p e^(-cutoff u)`` at time t0, and ``v = c0 lambda / t`` from then on.
    This family is closed under both equations: at any later time the density is again a power times
    an exponential, with the same p (`cutoff_at`). *Spectral shells*, eq. 15, is one of its members,
    made by `self_similar`.

    Attributes:
        c0: exponent of the drift, any real number; 0 is a frozen kernel.
        p: exponent of the density, any real number.
        amplitude: initial density at ``u = 1``, without the cutoff; energy per eigenvalue.
        t0: when the scale-free regime starts, > 0; time.
        cutoff: inverse of the largest eigenvalue that has energy at t0; time. 0 for a pure power.

    Example:
        >>> model = ScaleFree(c0=0.5, p=-1.0, amplitude=2.0)
        >>> model.initial_density(jnp.array([1.0, 4.0])).tolist()
        [2.0, 0.5]
    """

    c0: Scalar
    p: Scalar
    amplitude: Scalar = 1.0
    t0: Scalar = 1.0
    cutoff: Scalar = 0.0

    def initial_density(self, eigenvalues: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Return ``eps_0``, the energy per unit of eigenvalue at t0."""
        return self.amplitude * eigenvalues**self.p * jnp.exp(-self.cutoff * eigenvalues)


def self_similar(c0: Scalar, p: Scalar, *, amplitude: Scalar = 1.0, t0: Scalar = 1.0) -> ScaleFree:
    """Return the member of the family that looks the same at all times.

    *Spectral shells*, eq. 15. The paper puts the dissipation before t0 into the initial spectrum,
    which amounts to ``cutoff = 2 t0 / (1 + c0)``; then the density is
    ``amplitude (lambda (t/t0)^-c0)^p exp(-2 lambda t / (1 + c0))`` for the advective equation, and
    ``(t/t0)^-c0`` times that for the conservative one. Any other member comes close to it for t far
    beyond t0.

    Args:
        c0: > -1; at or below, dissipation does not outgrow its beginnings.
        p: exponent of the density, any real number.
        amplitude: initial density at ``u = 1``, without the cutoff; energy per eigenvalue.
        t0: when the scale-free regime starts, > 0; time.

    Raises:
        ValueError: if ``c0 <= -1`` or ``t0 <= 0``.

    Example:
        >>> self_similar(1.0, -0.5).cutoff
        1.0
    """
    check_values("c0", c0, expected="a finite number > -1", above=-1.0)
    check_positive("t0", t0)
    return ScaleFree(c0, p, amplitude, t0, 2 * t0 / (1 + c0))


def energy_density(
    model: ScaleFree,
    eigenvalues: Float[Array, "*s"] | float,
    time: Float[Array, "*s"] | float,
    *,
    equation: Equation = "conservative",
) -> Float[Array, "*s"]:
    """Return the energy per eigenvalue of a scale-free spectrum.

    *Spectral shells*, eqs. 15 and 18.

    Args:
        model: the initial spectrum and its drift.
        eigenvalues: lambda > 0.
        time: t > 0, broadcast against `eigenvalues`.
        equation: "conservative" or "advective".

    Returns:
        ``prefactor(t) lambda^p e^(-kappa(t) lambda)``, energy per eigenvalue; kappa is `cutoff_at`.

    Raises:
        ValueError: for an unknown equation, or values that are known not to be positive.

    Example:
        >>> print(f"{energy_density(self_similar(1.0, 0.0), 0.5, 2.0, equation='advective'):.4f}")
        0.3679
    """
    return transported_density(
        model.initial_density, eigenvalues, time, c0=model.c0, t0=model.t0, equation=equation
    )


def cutoff_at(model: ScaleFree, time: Float[Array, "*s"] | float) -> Float[Array, "*s"]:
    """Return the dissipation scale ``kappa(t) = (cutoff + 2 T) (t/t0)^-c0``.

    *Spectral shells*, eqs. 14 and 16. The density falls like ``e^(-kappa lambda)``, and a profile
    over logarithmic shells has its peak, the resolution frontier, at ``(p + 1) / kappa``. Of the
    self-similar spectrum kappa is ``2 t / (1 + c0)``: the frontier moves like 1/t whatever the
    drift.

    Args:
        model: the initial spectrum and its drift.
        time: t > 0.

    Returns:
        kappa, an inverse eigenvalue: time.

    Raises:
        ValueError: if, where values are known, a time is not positive.

    Example:
        >>> print(f"{cutoff_at(self_similar(0.5, 0.0), 3.0):.4f}")
        4.0000
    """
    dissipated = dissipation_time(time, c0=model.c0, t0=model.t0)
    return (model.cutoff + 2 * dissipated) * _ratio(model, time) ** -model.c0


def _ratio(model: ScaleFree, time: Any) -> Array:
    return check_positive("time", time) / check_positive("t0", model.t0)


def prefactor(
    model: ScaleFree, time: Float[Array, "*s"] | float, *, equation: Equation = "conservative"
) -> Float[Array, "*s"]:
    """Return what multiplies ``lambda^p e^(-kappa lambda)`` in the density.

    *Spectral shells*, eqs. 15 and 16. ``amplitude (t/t0)^(-c0 p)`` for the advective equation and
    ``amplitude (t/t0)^(-c0 (p+1))`` for the conservative one.

    Raises:
        ValueError: for an unknown equation, or a time that is known not to be positive.

    Example:
        >>> prefactor(ScaleFree(c0=1.0, p=0.0), 2.0), prefactor(ScaleFree(c0=1.0, p=-1.0), 2.0)
        (Array(0.5, dtype=float32), Array(1., dtype=float32))
    """
    check_equation(equation)
    ratio = _ratio(model, time)
    carried = model.amplitude * ratio ** (-model.c0 * model.p)
    return carried * compression(ratio, model.c0, equation)


def _log_shell_integrals(power: Any, rate: Array, edges: Array) -> Array:
    """Return ``ln integral lambda^power e^(-rate lambda) dlambda`` over each shell."""
    log_edges = jnp.log(edges)
    half = jnp.diff(log_edges) / 2
    middle = log_edges[:-1] + half
    logs = middle[:, None] + half[:, None] * jnp.asarray(_NODES, edges.dtype)
    exponents = (power + 1) * logs - rate[..., None, None] * jnp.exp(logs)
    weights = half[:, None] * jnp.asarray(_WEIGHTS, edges.dtype)
    return jax.scipy.special.logsumexp(exponents, b=weights, axis=-1)


def log_shell_energies(
    model: ScaleFree,
    edges: Float[Array, " edge"],
    time: Float[Array, "*s"] | float,
    *,
    equation: Equation = "conservative",
    moment: float = 0,
) -> Float[Array, "*s shell"]:
    """Return ``ln E`` of every shell, also where E itself is too small for a float.

    *Spectral shells*, eq. 16. By Gauss-Legendre quadrature of the density in ``ln lambda``, for any
    p: the integral over the shell, where eq. 16 takes the density at one of its points. With edges
    a factor of 10 apart it loses accuracy where ``kappa lambda`` exceeds 30 and energies are below
    1e-13 of the peak.

    Args:
        model: the initial spectrum and its drift.
        edges: K + 1 increasing positive shell boundaries.
        time: t > 0, of any shape.
        equation: "conservative" or "advective".
        moment: k, for the logarithm of ``integral lambda^k eps dlambda`` instead; twice the first
            moment is the dissipation.

    Returns:
        The logarithm of ``E = integral eps dlambda``, the shell last.

    Raises:
        ValueError: for an unknown equation, edges that do not increase, or values known not to be
            positive.

    Example:
        >>> edges = jnp.array([1.0, 2.0, 4.0])
        >>> jnp.exp(log_shell_energies(ScaleFree(c0=0.0, p=0.0), edges, 1.0)).round(3)
        Array([1., 2.], dtype=float32)
    """
    edges = check_edges(edges)
    integrals = _log_shell_integrals(model.p + moment, cutoff_at(model, time), edges)
    return jnp.log(prefactor(model, time, equation=equation))[..., None] + integrals


def shell_energies(
    model: ScaleFree,
    edges: Float[Array, " edge"],
    time: Float[Array, "*s"] | float,
    *,
    equation: Equation = "conservative",
    moment: float = 0,
) -> Float[Array, "*s shell"]:
    """Return the energy of every shell: the exponential of `log_shell_energies`.

    Example:
        >>> shell_energies(ScaleFree(c0=0.0, p=0.0), jnp.array([1.0, 3.0]), 1.0).round(3)
        Array([2.], dtype=float32)
    """
    return jnp.exp(log_shell_energies(model, edges, time, equation=equation, moment=moment))


def loss(
    model: ScaleFree,
    time: Float[Array, "*s"] | float,
    *,
    lambda_min: Scalar = 0.0,
    equation: Equation = "conservative",
) -> Float[Array, "*s"]:
    """Return the loss above an eigenvalue, ``integral_lambda_min^infinity eps dlambda``.

    *Spectral shells*, eqs. 17 to 20. ``prefactor(t) kappa^-(p+1) Gamma(p + 1, kappa lambda_min)``,
    which is eq. 20 for the paper's spectrum and equation.

    Args:
        model: the initial spectrum and its drift; any real c0 and p.
        time: t > 0, of any shape.
        lambda_min: the smallest eigenvalue that counts, >= 0.
        equation: "conservative" or "advective".

    Returns:
        Energy. Infinite where the integral diverges: at ``lambda_min = 0`` for p <= -1, and for
        p >= -1 while there is no cutoff (at t0 with ``cutoff = 0``). NaN where the cutoff is
        negative, before t0.

    Raises:
        ValueError: for an unknown equation, or values known to be out of range.

    Example:
        >>> model = self_similar(0.5, 0.0)  # kappa = 4 t / 3
        >>> loss(model, jnp.array([0.75, 1.5]), equation="advective").round(3)
        Array([1. , 0.5], dtype=float32)
    """
    check_equation(equation)
    lambda_min = check_positive("lambda_min", lambda_min, zero=True)
    rate = cutoff_at(model, time)
    order = jnp.asarray(model.p, accumulation_dtype()) + 1
    some = rate != 0
    safe_rate = jnp.where(some, rate, 1)
    integral = safe_rate**-order * upper_incomplete_gamma(order, safe_rate * lambda_min)
    pure_power = jnp.where(order < 0, -(lambda_min**order) / order, jnp.inf)
    return prefactor(model, time, equation=equation) * jnp.where(some, integral, pure_power)


def loss_exponent(
    c0: Scalar, p: Scalar, *, equation: Equation = "conservative"
) -> Float[Array, "*s"]:
    """Return the exponent alpha of ``L ~ t^-alpha`` long after t0, for every c0 and p.

    *Spectral shells*, eq. 21. While ``kappa lambda_min`` is small, for the conservative equation:

    - p > -1: the frontier eats into the spectrum, ``alpha = (1 + c0)(p + 1)``; or nothing
      dissipates any more, ``alpha = 0``, where c0 <= -1.
    - p < -1: the energy sits at lambda_min, and what drifts across it counts:
      ``alpha = c0 (p + 1)``. *Spectral shells*, eq. 21, does not hold there: its integral is not
      constant.
    - at p = -1, and at c0 = -1, the power is modified by logarithms.

    The advective equation has c0 less in all cases, as its transport makes energy; for p > -1 and
    c0 > -1 that is the paper's ``(1 + c0) p + 1``.

    Args:
        c0: exponent of the drift.
        p: exponent of the initial density.
        equation: "conservative" or "advective".

    Returns:
        alpha, dimensionless; positive where the loss falls.

    Raises:
        ValueError: for an unknown equation.

    Example:
        >>> print(loss_exponent(0.5, 1.0), loss_exponent(0.5, 1.0, equation="advective"))
        3.0 2.5
    """
    check_equation(equation)
    c0, p = (jnp.asarray(x, accumulation_dtype()) for x in (c0, p))
    conservative = jnp.where(p > -1, jnp.maximum(1 + c0, 0), c0) * (p + 1)
    return conservative - (c0 if equation == "advective" else 0)


def growth_ends(
    eigenvalues: Float[Array, "*s"] | float,
    *,
    c0: Scalar,
    p: Scalar,
    equation: Equation = "conservative",
) -> Float[Array, "*s"]:
    """Return until when the density at an eigenvalue grows, in the self-similar spectrum.

    Transport raises it at the rate ``-c0 (p + 1) / t`` (``-c0 p / t`` for the advective equation)
    and dissipation lowers it at ``2 lambda / (1 + c0)``: the two balance at
    ``t = -c0 (p + 1)(1 + c0) / (2 lambda)``. Section 6.3 has the first part only.

    Args:
        eigenvalues: lambda > 0.
        c0: > -1.
        p: exponent of the initial density.
        equation: "conservative" or "advective".

    Returns:
        Time; 0 where the density never grows.

    Raises:
        ValueError: for an unknown equation, ``c0 <= -1``, or eigenvalues known not to be positive.

    Example:
        >>> growth_ends(0.5, c0=1.0, p=-1.5), growth_ends(0.5, c0=1.0, p=0.5)
        (Array(1., dtype=float32), Array(0., dtype=float32))
    """
    check_equation(equation)
    eigenvalues = check_positive("eigenvalues", eigenvalues)
    half_cutoff_growth = 2 / self_similar(c0, p).cutoff  # 1 + c0, checked
    slope = p + (1 if equation == "conservative" else 0)
    return jnp.maximum(-c0 * slope * half_cutoff_growth / (2 * eigenvalues), 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EnergyBalance:
    """What changes the energy of every shell, per time; made by `energy_balance`.

    ``rate = inflow + created - dissipation``.

    Attributes:
        rate: ``dE/dt``.
        dissipation: ``D = integral 2 lambda eps dlambda >= 0`` (section 4.2).
        inflow: ``v eps`` at the lower edge less that at the upper one; what the paper calls
            ``J_(<= alpha) - J_(<= alpha-1)``. Over all shells only the outer edges remain.
        created: energy that transport makes, ``integral dv/dlambda eps dlambda``: zero for the
            conservative equation.
    """

    rate: Float[Array, "*s shell"]
    dissipation: Float[Array, "*s shell"]
    inflow: Float[Array, "*s shell"]
    created: Float[Array, "*s shell"]


def energy_balance(
    model: ScaleFree,
    edges: Float[Array, " edge"],
    time: Float[Array, "*s"] | float,
    *,
    equation: Equation = "conservative",
) -> EnergyBalance:
    """Return the balance of definition 4.1 for the closed form, each term from its own formula.

    Args:
        model: the initial spectrum and its drift.
        edges: K + 1 increasing positive shell boundaries.
        time: t > 0, of any shape.
        equation: "conservative" or "advective".

    Returns:
        The `EnergyBalance`; energies per time, the shell last.

    Raises:
        ValueError: for an unknown equation, edges that do not increase, or values known not to be
            positive.

    Example:
        >>> edges = jnp.array([1.0, 2.0, 4.0])
        >>> balance = energy_balance(ScaleFree(c0=0.0, p=0.0), edges, 1.0)  # frozen: eps = 1
        >>> print(*(f"{x:.3f}" for x in balance.dissipation))
        3.000 12.000
        >>> bool(jnp.any(balance.inflow))
        False
    """
    edges, time = check_edges(edges), check_positive("time", time)

    def energies(t: Array) -> Array:
        return shell_energies(model, edges, t, equation=equation)

    energy, rate = jax.jvp(energies, (time,), (jnp.ones_like(time),))
    later = time[..., None]
    flux = drift(edges, later, c0=model.c0) * energy_density(model, edges, later, equation=equation)
    stretching = model.c0 / later if equation == "advective" else jnp.zeros_like(later)
    return EnergyBalance(
        rate=rate,
        dissipation=2 * shell_energies(model, edges, time, equation=equation, moment=1),
        inflow=-jnp.diff(flux, axis=-1),
        created=stretching * energy,
    )
