"""The two-layer Fourier model: logistic modes and the concentration of a band (F.11, F.12).

``f = sum_r u_r v_r phi_r`` learns ``f* = sum_r beta_r phi_r`` by gradient flow on
``J = 1/2 sum_r (u_r v_r - beta_r)^2`` (*Spectral Lens*, eqs. 76 to 78). Time is that of
gradient flow; a target has the unit 1 / time.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lnpjax._base.checks import check_values, require
from lnpjax.theory.shells.transport import check_positive


def factor_products(
    targets: Float[Array, " mode"],
    initial: Float[Array, " mode"],
    time: Float[Array, "*t"] | float,
) -> Float[Array, "*t mode"]:
    """Return the learned coefficients ``m_r = u_r v_r`` from a balanced start (F.11).

    ``m = m_0 / (e^(-2 beta t) + m_0 (1 - e^(-2 beta t)) / beta)``. For ``beta > 0`` this is the
    logistic curve of *Spectral Lens*, eq. 83, and as ``(1 - e^(-2 beta t)) / beta`` goes to 2t at
    ``beta = 0`` it is eq. 84 there: one branch, and no loss of digits between. The factors
    themselves are ``u_r = v_r = sqrt(m_r)``.

    Args:
        targets: ``beta_r >= 0``.
        initial: ``m_r(0) = u_r(0)^2 > 0``, with ``u_r(0) = v_r(0)``; below or above the target.
        time: t >= 0, of any shape.

    Returns:
        The coefficients, the mode last.

    Raises:
        ValueError: if, where values are known, a target or a time is negative or an initial value
            not positive.

    Example:
        >>> products = factor_products(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5]), 1.0)
        >>> print(*(f"{product:.4f}" for product in products))
        0.8808 0.2500
    """
    targets = check_positive("targets", targets, zero=True)
    initial = check_positive("initial", initial)
    times = check_positive("time", time, zero=True)[..., None]
    some = targets > 0
    safe = jnp.where(some, targets, 1)
    growth = jnp.where(some, -jnp.expm1(-2 * safe * times) / safe, 2 * times)
    return initial / (jnp.exp(-2 * targets * times) + initial * growth)


def band_concentration(
    energies: Float[Array, "*s mode"], band: Bool[Array, " mode"]
) -> Float[Array, "*s"]:
    """Return the share ``H_S`` of a band in the sum over all modes (*Spectral Lens*, eqs. 9, 100).

    Args:
        energies: ``m_r >= 0`` or any power of them, not all zero: the paper's probes of hidden
            states weigh energies.
        band: which modes belong to S.

    Returns:
        A fraction.

    Raises:
        ValueError: if there are not as many flags as modes, or an energy is known to be negative.

    Example:
        >>> band_concentration(jnp.array([3.0, 1.0]), jnp.array([True, False]))
        Array(0.75, dtype=float32)
    """
    energies = check_positive("energies", energies, zero=True)
    _check_band(energies, band)
    return (energies * band).sum(axis=-1) / energies.sum(axis=-1)


def _check_band(energies: Array, band: Array) -> None:
    require(
        band.shape == energies.shape[-1:],
        "band",
        expected=f"one flag for each of {energies.shape[-1]} modes",
        got=f"shape {band.shape}",
    )


def band_concentration_rate(
    targets: Float[Array, " mode"],
    products: Float[Array, "*t mode"],
    band: Bool[Array, " mode"],
    *,
    power: float = 1,
) -> Float[Array, "*t"]:
    """Return ``dH_S/dt = (A' B - A B') / (A + B)^2`` under the two-layer dynamics.

    *Spectral Lens*, eq. 104, with ``m' = 2 m (beta - m)`` (eq. 82). F.12: positive where targets
    are zero off the band, and coefficients on it are on their way up, ``0 < m_r < beta_r``. The
    same argument holds for any power of the coefficients. It does not for a band that starts above
    its targets.

    Args:
        targets: ``beta_r >= 0``.
        products: ``m_r`` at the time in question (`factor_products`).
        band: which modes belong to S.
        power: k, for the concentration of ``m_r^k``.

    Returns:
        The rate; per time.

    Raises:
        ValueError: if there are not as many flags as modes, or if, where values are known, one is
            negative or the power not positive.

    Example:
        >>> band = jnp.array([True, False])
        >>> print(band_concentration_rate(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5]), band))
        0.5
    """
    targets = check_positive("targets", targets, zero=True)
    products = check_positive("products", products, zero=True)
    _check_band(products, band)
    check_values("power", power, expected="a finite number > 0", above=0.0)
    energies = products**power
    growth = 2 * power * energies * (targets - products)
    on, off = (energies * band).sum(axis=-1), (energies * ~band).sum(axis=-1)
    on_growth, off_growth = (growth * band).sum(axis=-1), (growth * ~band).sum(axis=-1)
    return (on_growth * off - on * off_growth) / (on + off) ** 2
