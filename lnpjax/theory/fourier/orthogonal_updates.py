"""The polar factor as steepest descent in the operator norm: idealised Muon.

*Spectral Lens*, F.17.

`optax.contrib.muon` approximates it by five Newton-Schulz steps. Its standard coefficients do not
add up to 1, so that 1 is not a fixed point, and more steps do not help: singular values above 1% of
the Frobenius norm end up anywhere in [0.68, 1.13], and those far below 0.1% of it short of that. On
Gaussian matrices the update is 20% away from the polar factor, at a cosine of 0.98. Coefficients
that do converge, (2, -1.5, 0.5), reach it to rounding.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from lnpjax._base.checks import check_kernel
from lnpjax._base.numerics import rounding_floor
from lnpjax.theory.shells.transport import Scalar, check_positive


def _compact_svd(gradient: Array) -> tuple[Array, Array, Array, Array]:
    """Return U, sigma, V^T and which singular values are above rounding."""
    check_kernel("gradient", gradient, symmetric=False)
    left, singular, right = jnp.linalg.svd(gradient, full_matrices=False)
    return left, singular, right, singular > rounding_floor(singular[0], max(gradient.shape))


def polar_factor(gradient: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Return ``Q(G) = U V^T`` of the compact singular value decomposition.

    *Spectral Lens*, eq. 143. Of all matrices of operator norm <= 1 it has the largest inner product
    with G, the nuclear norm (F.17), and is the only one if G has full rank. ``Q(c G) = Q(G)`` for c
    > 0.

    Args:
        gradient: G. Singular values below rounding count as zero; of ``G = 0`` it is 0.

    Raises:
        TypeError: if it is not a floating-point array.
        ValueError: if it is not a matrix.

    Example:
        >>> polar_factor(jnp.array([[0.0, 3.0], [-0.1, 0.0]])).round(3).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """
    left, _, right, some = _compact_svd(gradient)
    return (left * some) @ right


def nuclear_norm(gradient: Float[Array, "m n"]) -> Float[Array, ""]:
    """Sum singular values: ``max <G, M>`` over operator norms <= 1 (*Spectral Lens*, eq. 145).

    Args and errors are those of `polar_factor`.

    Example:
        >>> print(f"{nuclear_norm(jnp.array([[0.0, 3.0], [-1.0, 0.0]])):.1f}")
        4.0
    """
    return _compact_svd(gradient)[1].sum()


def guaranteed_decrease(
    gradient: Float[Array, "m n"], step: Scalar, *, smoothness: Scalar
) -> Float[Array, ""]:
    """Return by how much ``W - eta Q(G)`` lowers a function at least.

    ``eta |G|_* - L eta^2 r / 2`` (*Spectral Lens*, eq. 149). At best, for half the `largest_step`,
    that is ``|G|_*^2 / (2 L r)``. Gradient descent's guarantee under the same smoothness,
    ``|G|_F^2 / (2 L)``, is never less, as ``|G|_*^2 <= r |G|_F^2``: what the theorem shows is
    descent, not an advantage.

    Args:
        gradient: G, of rank r.
        step: eta > 0.
        smoothness: L > 0, in the Frobenius norm.

    Returns:
        The decrease; nothing is guaranteed where it is not positive.

    Raises:
        TypeError: if the gradient is not a floating-point array.
        ValueError: if it is not a matrix, or a number is known not to be positive.

    Example:
        >>> print(f"{guaranteed_decrease(3 * jnp.eye(2), 1.0, smoothness=4.0):.1f}")
        2.0
    """
    step, smoothness = check_positive("step", step), check_positive("smoothness", smoothness)
    _, singular, _, some = _compact_svd(gradient)
    return step * singular.sum() - smoothness * step**2 * some.sum() / 2


def largest_step(gradient: Float[Array, "m n"], *, smoothness: Scalar) -> Float[Array, ""]:
    """Return ``2 |G|_* / (L r)``: smaller steps are sure to descend (*Spectral Lens*, eq. 150).

    Args:
        gradient: G, not zero.
        smoothness: L > 0, in the Frobenius norm.

    Raises:
        TypeError: if the gradient is not a floating-point array.
        ValueError: if it is not a matrix, or L is known not to be positive.

    Example:
        >>> print(f"{largest_step(3 * jnp.eye(2), smoothness=4.0):.1f}")
        1.5
    """
    _, singular, _, some = _compact_svd(gradient)
    return 2 * singular.sum() / (check_positive("smoothness", smoothness) * some.sum())
