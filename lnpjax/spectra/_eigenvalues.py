"""What one reads off a spectrum: how many modes matter, and how fast the rest decays.

Functions of eigenvalues, and the two transformations of a kernel that the papers apply before they
look at its eigenvalues. Pure, and works under `jit` and `vmap`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lnpjax._base.checks import check_floating, check_values, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype


def check_eigenvalues(argument: str, eigenvalues: Any) -> None:
    """Refuse what is not the spectrum of a positive semi-definite kernel.

    Args:
        argument: the name of the argument, as the caller wrote it.
        eigenvalues: ``(..., k)`` with k >= 1, traced or not.

    Raises:
        TypeError: if it is not an array of real floating-point numbers.
        ValueError: if it has no eigenvalues; and, where its values are known, if one is infinite or
            NaN, or more negative than rounding explains (``sqrt(eps)`` of the largest).

    Example:
        >>> check_eigenvalues("eigenvalues", jnp.array([1.0, -0.5]))
        Traceback (most recent call last):
            ...
        ValueError: eigenvalues: expected no eigenvalue below zero by more than rounding, got -0.5
    """
    check_floating(argument, eigenvalues)
    require(
        eigenvalues.ndim >= 1 and eigenvalues.shape[-1] >= 1,
        argument,
        expected="at least one eigenvalue along the last axis",
        got=f"shape {eigenvalues.shape}",
    )
    values = concrete(eigenvalues)
    if values is None or not values.size:
        return
    check_values(argument, eigenvalues, expected="finite eigenvalues")
    rounding = float(jnp.finfo(eigenvalues.dtype).eps) ** 0.5 * np.max(np.abs(values), axis=-1)
    require(
        bool(np.all(np.min(values, axis=-1) >= -rounding)),
        argument,
        expected="no eigenvalue below zero by more than rounding",
        got=float(np.min(values)),
    )


@entry_point
def normalized_spectrum(eigenvalues: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """Return the share of each mode in the trace, ``p_k = lambda_k / sum_j lambda_j``.

    The normalised eigenvalues of *NTK Lens*, eq. 2, and of *Spectral Reach*, eq. 9. A
    positive semi-definite kernel has no negative eigenvalues, but the eigensolver returns some of
    the size of its rounding error: they count as zero, here and in everything built on this.

    Args:
        eigenvalues: of a positive semi-definite kernel, in any order.

    Returns:
        Shares that are >= 0 and sum to 1; NaN where all eigenvalues are zero.

    Raises:
        TypeError: if `eigenvalues` is not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.

    Example:
        >>> normalized_spectrum(jnp.array([3.0, 1.0, -1e-8]))
        Array([0.75, 0.25, 0.  ], dtype=float32)
    """
    check_eigenvalues("eigenvalues", eigenvalues)
    # maximum, unlike a comparison, lets NaN through.
    eigenvalues = jnp.maximum(jnp.asarray(eigenvalues, accumulation_dtype()), 0)
    # Shares do not depend on the scale, but the sum of very large eigenvalues overflows, and its
    # inverse underflows.
    largest = jnp.max(eigenvalues, axis=-1, keepdims=True)
    eigenvalues = eigenvalues * jnp.where(largest > 2.0**64, 2.0**-64, 1)
    return eigenvalues / jnp.sum(eigenvalues, axis=-1, keepdims=True)


@entry_point
def von_neumann_entropy(eigenvalues: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """Return the entropy of the normalised spectrum, ``-sum_k p_k ln p_k``, with ``0 ln 0 = 0``.

    *NTK Lens*, section 3.1: ``-Tr(M ln M)`` of the kernel divided by its trace. Negative
    eigenvalues of the size of rounding count as zero.

    Args:
        eigenvalues: of a positive semi-definite kernel, in any order.

    Returns:
        The entropy in nats, between 0 and ``ln k``; NaN where all eigenvalues are zero.

    Raises:
        TypeError: if `eigenvalues` is not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.

    Example:
        >>> entropy = von_neumann_entropy(jnp.array([0.5, 0.5]))
        >>> print(f"{entropy:.4f}, ln 2 = {np.log(2):.4f}")
        0.6931, ln 2 = 0.6931
    """
    return jnp.sum(jax.scipy.special.entr(normalized_spectrum(eigenvalues)), axis=-1)


@entry_point
def effective_rank(eigenvalues: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """Count the modes that matter: ``exp(S)``, S the entropy of the normalised spectrum.

    *NTK Lens*, eq. 3. The paper reads it off the kernel of normalised gradients (its appendix
    B.3): pass the eigenvalues of `normalized_kernel` for that. Negative eigenvalues of the size of
    rounding count as zero.

    Args:
        eigenvalues: of a positive semi-definite kernel, in any order.

    Returns:
        The effective rank, between 1 and k; NaN where all eigenvalues are zero.

    Raises:
        TypeError: if `eigenvalues` is not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.

    Example:
        Two directions that learn at different rates are fewer than two (appendix B.3):

        >>> print(f"{effective_rank(jnp.array([1 / 2, 1 / 2])):.3f}")
        2.000
        >>> print(f"{effective_rank(jnp.array([1 / 3, 2 / 3])):.3f}")
        1.890
    """
    return jnp.exp(von_neumann_entropy(eigenvalues))


@entry_point
def inverse_participation_ratio(eigenvalues: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """Return how concentrated a spectrum is, ``sum_k p_k^2 = |Theta|_F^2 / Tr(Theta)^2``.

    *Spectral Reach*, eq. 37: its square root is the factor between spectral position and
    kernel-target alignment. Negative eigenvalues of the size of rounding count as zero.

    Args:
        eigenvalues: of a positive semi-definite kernel, in any order.

    Returns:
        Between ``1 / k`` (all equal) and 1 (a single one); NaN where all eigenvalues are zero.

    Raises:
        TypeError: if `eigenvalues` is not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.

    Example:
        >>> inverse_participation_ratio(jnp.array([2.0, 2.0, 0.0]))
        Array(0.5, dtype=float32)
    """
    return jnp.sum(normalized_spectrum(eigenvalues) ** 2, axis=-1)


@entry_point
def participation_ratio(eigenvalues: Float[Array, "*batch k"]) -> Float[Array, "*batch"]:
    """Count the modes that matter by their squares: ``1 / sum_k p_k^2``.

    The inverse of `inverse_participation_ratio` (*Spectral Reach*, eq. 37). Never more than
    `effective_rank`, which gives small eigenvalues more weight.

    Args:
        eigenvalues: of a positive semi-definite kernel, in any order.

    Returns:
        Between 1 and k; NaN where all eigenvalues are zero.

    Raises:
        TypeError: if `eigenvalues` is not an array of real floating-point numbers.
        ValueError: if there are none; where values are known, if one is infinite, NaN, or below
            zero by more than rounding.

    Example:
        >>> participation_ratio(jnp.array([2.0, 2.0, 0.0]))
        Array(2., dtype=float32)
    """
    return 1 / inverse_participation_ratio(eigenvalues)
