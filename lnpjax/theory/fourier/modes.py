"""A linear model on a cyclic group, mode by mode (*Spectral Lens*, F.1 to F.3).

A function on the phases ``Z_c`` learns a target under a kernel that looks the same from every
phase: ``d_t f = K (f* - f)``, ``K(a, a') = k(a - a')`` (*Spectral Lens*, eqs. 18 to 20). The
characters ``chi_r(a) = e^(2 pi i r a / c)`` diagonalise K, and every Fourier coefficient relaxes to
its target ``beta_r`` at its own rate ``kappa_r``.

Conventions. Inner products average over phases (*Spectral Lens*, eq. 15), so that the characters
have norm 1 and a coefficient is ``fft(f) / c``. The last axis holds modes or phases, and a `time`
of any shape puts its axes before it. Time is that of gradient flow; a rate has the unit 1 / time.

What the paper calls the gradient of a mode is the velocity of its hidden state: ``g = d_t h`` for
its eqs. 27 and 28. Per-sample gradients of a loss with respect to weights have another second
moment (in the model with features ``sqrt(kappa_r) chi_r`` it is not even diagonal), so that F.2(d)
does not speak of those.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact

from lnpjax._base.checks import check_count, concrete, require
from lnpjax._base.numerics import accumulation_dtype
from lnpjax.theory.shells.transport import check_positive


def characters(period: int) -> Complex[Array, "mode phase"]:
    """Return the characters ``chi_r(a) = e^(2 pi i r a / c)`` of the cyclic group.

    *Spectral Lens*, eq. 14.

    Args:
        period: c >= 1, the number of phases.

    Returns:
        ``chi_r(a)`` at row r, column a.

    Raises:
        ValueError: if there is no phase.

    Example:
        >>> characters(2).real.tolist()
        [[1.0, 1.0], [1.0, -1.0]]
    """
    check_count("period", period)
    # Reduced as integers first: the angle of a large product would be rounded.
    turns = np.outer(np.arange(period), np.arange(period)) % period / period
    return jnp.exp(2j * jnp.pi * jnp.asarray(turns, accumulation_dtype()))


def cyclic_shift(values: Inexact[Array, "*s phase"], shift: int) -> Inexact[Array, "*s phase"]:
    """Return ``(S_q f)(a) = f(a + q mod c)`` (*Spectral Lens*, eq. 16).

    Args:
        values: a function on the phases.
        shift: q. The clean modular task of context length L and step d is ``S_(L d)`` (F.1).

    Returns:
        The shifted function.

    Example:
        >>> cyclic_shift(jnp.arange(4.0), 1)
        Array([1., 2., 3., 0.], dtype=float32)
    """
    return jnp.roll(values, -shift, axis=-1)


def shift_eigenvalues(period: int, shift: int) -> Complex[Array, " mode"]:
    """Return the eigenvalues of the shift, ``S_q chi_r = omega^(r q) chi_r``.

    *Spectral Lens*, eq. 17.

    Args:
        period: c.
        shift: q, any integer.

    Raises:
        ValueError: if there is no phase.

    Example:
        >>> shift_eigenvalues(4, 2).real.round(3).tolist()
        [1.0, -1.0, 1.0, -1.0]
    """
    return characters(period)[:, shift % period]


def fourier_coefficients(values: Inexact[Array, "*s phase"]) -> Complex[Array, "*s mode"]:
    """Return coefficients ``<f, chi_r>`` of functions on the phases.

    *Spectral Lens*, eqs. 15 and 21.

    Example:
        >>> fourier_coefficients(jnp.array([3.0, 1.0])).real.tolist()
        [2.0, 1.0]
    """
    return jnp.fft.fft(values) / values.shape[-1]


def from_coefficients(coefficients: Inexact[Array, "*s mode"]) -> Complex[Array, "*s phase"]:
    """Return the function ``sum_r a_r chi_r``; the inverse of `fourier_coefficients`.

    *Spectral Lens*, eq. 21.

    Example:
        >>> from_coefficients(jnp.array([2.0, 1.0])).real.tolist()
        [3.0, 1.0]
    """
    return jnp.fft.ifft(coefficients) * coefficients.shape[-1]


def kernel_spectrum(kernel: Inexact[Array, " phase"]) -> Float[Array, " mode"]:
    """Return the rates ``kappa_r = sum_delta k(delta) omega^(-r delta)`` of a kernel.

    *Spectral Lens*, eq. 22.

    Args:
        kernel: k, its value at every difference of phases, real or complex.

    Returns:
        The eigenvalues of K, >= 0; rounding below zero is cut off.

    Raises:
        ValueError: if it is not a vector, or known not to be positive semidefinite (which for a
            complex kernel includes ``k(-delta) = conj k(delta)``).

    Example:
        >>> kernel_spectrum(jnp.array([2.0, 1.0, 0.0, 1.0])).tolist()
        [4.0, 2.0, 0.0, 2.0]
    """
    require(kernel.ndim == 1, "kernel", expected="a vector over phases", got=f"{kernel.ndim} axes")
    eigenvalues = jnp.fft.fft(kernel)
    values = concrete(eigenvalues)
    if values is not None:
        tolerance = float(np.finfo(values.dtype).eps) ** 0.5 * float(np.max(np.abs(values)))
        require(
            bool(np.all(values.real >= -tolerance) and np.all(np.abs(values.imag) <= tolerance)),
            "kernel",
            expected="a positive semidefinite kernel",
            got=f"the eigenvalues {values}",
        )
    return jnp.maximum(eigenvalues.real, 0)


def mode_coefficients(
    rates: Float[Array, " mode"],
    targets: Inexact[Array, " mode"],
    time: Float[Array, "*t"] | float,
    *,
    initial: Inexact[Array, " mode"] | float = 0.0,
) -> Inexact[Array, "*t mode"]:
    """Return ``a_r(t) = beta_r + (a_r(0) - beta_r) e^(-kappa_r t)`` (*Spectral Lens*, eq. 24).

    Args:
        rates: ``kappa_r >= 0``.
        targets: ``beta_r``, real or complex.
        time: t >= 0, of any shape.
        initial: ``a_r(0)``.

    Returns:
        The coefficients, the mode last.

    Raises:
        ValueError: if, where values are known, a rate or a time is negative.

    Example:
        >>> mode_coefficients(jnp.array([0.0, 1.0]), jnp.ones(2), 1.0).round(3)
        Array([0.   , 0.632], dtype=float32)
    """
    exponents = _exponents(rates, time)
    # Not the printed form: a slow mode that has hardly begun is a small number, not a difference.
    return -jnp.expm1(exponents) * targets + jnp.exp(exponents) * initial


def _exponents(rates: Any, time: Any) -> Array:
    times = check_positive("time", time, zero=True)
    return -check_positive("rates", rates, zero=True) * times[..., None]


def mode_loss(
    rates: Float[Array, " mode"],
    targets: Inexact[Array, " mode"],
    time: Float[Array, "*t"] | float,
    *,
    initial: Inexact[Array, " mode"] | float = 0.0,
) -> Float[Array, "*t"]:
    """Return ``L = 1/2 sum_r |a_r - beta_r|^2``, half the mean square error over phases.

    *Spectral Lens*, eqs. 25 and 26.

    Args:
        rates: ``kappa_r >= 0``.
        targets: ``beta_r``, real or complex.
        time: t >= 0, of any shape.
        initial: ``a_r(0)``.

    Returns:
        The loss.

    Raises:
        ValueError: if, where values are known, a rate or a time is negative.

    Example:
        >>> print(f"{mode_loss(jnp.array([0.5, 0.5]), jnp.ones(2), 1.0):.4f}")
        0.3679
    """
    remaining = jnp.exp(_exponents(rates, time)) * (initial - jnp.asarray(targets))
    return jnp.sum(jnp.abs(remaining) ** 2, axis=-1) / 2


def update_energies(
    rates: Float[Array, " mode"],
    targets: Inexact[Array, " mode"],
    time: Float[Array, "*t"] | float,
    *,
    initial: Inexact[Array, " mode"] | float = 0.0,
) -> Float[Array, "*t mode"]:
    """Return ``kappa_r^2 |beta_r - a_r|^2``, eigenvalues of the second moment of updates.

    *Spectral Lens*, eq. 30. Those of the activations (eq. 29) are the squares of
    `mode_coefficients`. An update is the velocity ``d_t h`` of a hidden state; see the module.

    Args:
        rates: ``kappa_r >= 0``.
        targets: ``beta_r``, real or complex.
        time: t >= 0, of any shape.
        initial: ``a_r(0)``.

    Raises:
        ValueError: if, where values are known, a rate or a time is negative.

    Example:
        >>> update_energies(jnp.array([1.0, 2.0]), jnp.ones(2), 0.0)
        Array([1., 4.], dtype=float32)
    """
    remaining = jnp.exp(_exponents(rates, time)) * (jnp.asarray(targets) - initial)
    return jnp.abs(rates * remaining) ** 2


def moment_matrix(
    energies: Float[Array, " mode"],
    directions: Inexact[Array, "mode width"],
    *,
    centered: bool = False,
) -> Inexact[Array, "width width"]:
    """Return the second moment or covariance over phases, ``sum_r e_r u_r u_r^*``.

    Args:
        energies: ``|a_r|^2`` or `update_energies`, of all c modes, the constant one first.
        directions: orthonormal ``u_r`` as rows.
        centered: leave the constant mode out, which is the mean (*Spectral Lens*, eqs. 40 to 42).

    Raises:
        ValueError: if there are not as many directions as energies, or if they are known not to be
            orthonormal.

    Example:
        >>> moment_matrix(jnp.array([4.0, 1.0]), jnp.eye(2), centered=True).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    require(
        directions.ndim == 2 and energies.shape == directions.shape[:1],
        "directions",
        expected=f"one row for each of energies of shape {energies.shape}",
        got=f"shape {directions.shape}",
    )
    rows = concrete(directions)
    if rows is not None:
        error = float(np.max(np.abs(rows @ rows.conj().T - np.eye(len(rows)))))
        require(
            error <= float(np.finfo(rows.dtype).eps) ** 0.5,
            "directions",
            expected="orthonormal rows",
            got=f"inner products that are off by up to {error}",
        )
    kept = energies.at[0].set(0) if centered else energies
    return jnp.einsum("r,ri,rj->ij", kept, directions, directions.conj())
