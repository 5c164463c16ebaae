"""Sums that are as accurate as their dtype allows, and what rounding leaves of them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


def accumulation_dtype() -> jnp.dtype:
    """Return the dtype in which squared norms add up: float32, or float64 where x64 is enabled."""
    return jnp.dtype(jax.dtypes.canonicalize_dtype(jnp.float64))


def rounding_floor(largest: Float[Array, "*shape"], count: int) -> Float[Array, "*shape"]:
    """Return ``n eps largest``: what is smaller may be nothing but rounding.

    That is how far a sum of n terms, or an eigenvalue of an ``n x n`` matrix, can be off.

    Args:
        largest: the size of the largest term, or of the largest eigenvalue; of JAX or NumPy.
        count: n.

    Returns:
        The bound, in the dtype of `largest`, whose spacing next to one is eps.

    Example:
        >>> float(rounding_floor(jnp.float32(2.0), 100)) == 200 * 2.0**-23
        True
    """
    return count * jnp.finfo(largest.dtype).eps * largest


def accurate_sum(array: Float[Array, ...]) -> Float[Array, ""]:
    """Return the sum of all entries, added up axis by axis.

    XLA adds up the entries of several axes one after the other on a CPU, which in float32 loses up
    to 1e-4 of a million squares; it merges sums of sums, unless something is in between.

    Example:
        >>> accurate_sum(jnp.ones((2, 3)))
        Array(6., dtype=float32)
    """
    while array.ndim > 1:
        array = jax.lax.optimization_barrier(jnp.sum(array, axis=-1))
    return jnp.sum(array)


def leaf_inner_products(
    left: PyTree, right: PyTree, *, weights: PyTree | None = None
) -> Float[Array, " leaf"]:
    """Return ``sum_p left_p weights_p right_p`` of each leaf, summed in `accumulation_dtype`.

    Args:
        left: a pytree of arrays.
        right: a pytree of the same structure and shapes.
        weights: optional diagonal weights (a preconditioner), of the same structure.

    Returns:
        One number per leaf, in the order of `jax.tree.leaves`.

    Example:
        >>> tree = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
        >>> leaf_inner_products(tree, tree)
        Array([5., 2.], dtype=float32)
    """
    trees = (left, right) if weights is None else (left, right, weights)
    return jnp.stack(jax.tree.leaves(jax.tree.map(inner_product, *trees)))


def inner_product(*factors: Array) -> Float[Array, ""]:
    """Return the sum of the products of the entries of arrays, in `accumulation_dtype`.

    Args:
        *factors: arrays of one shape: two vectors and, for a weighted inner product, the weights.

    Example:
        >>> inner_product(jnp.arange(3.0), jnp.arange(3.0))
        Array(5., dtype=float32)
    """
    dtype = accumulation_dtype()
    product = functools.reduce(jnp.multiply, (jnp.asarray(factor, dtype) for factor in factors))
    return accurate_sum(product)


def sum_groups(
    values: Float[Array, "*batch leaf"], members: dict[str, tuple[int, ...]]
) -> Float[Array, "*batch group"]:
    """Add up values per leaf within each group.

    Args:
        values: one value per leaf along the last axis.
        members: the groups, from `group_leaves`.

    Returns:
        One value per group along the last axis, in the order of `members`.

    Example:
        >>> sum_groups(jnp.array([1.0, 2.0, 3.0]), {"a": (0, 2), "b": (1,)})
        Array([4., 2.], dtype=float32)
    """
    sums = [jnp.sum(values[..., list(leaves)], axis=-1) for leaves in members.values()]
    return jnp.stack(sums, axis=-1)


def slope_weights(positions: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the weights whose inner product with values is their least-squares slope.

    The exponent of a power law is the slope of logarithms on logarithms:
    ``np.log(values) @ slope_weights(np.log(scales))``.

    Args:
        positions: where the values stand, at least two different ones.

    Returns:
        One weight for each position; they add up to zero.

    Example:
        >>> scales = np.array([1.0, 2.0, 4.0])
        >>> round(float(np.log(5 * scales**-2) @ slope_weights(np.log(scales))), 6)
        -2.0
    """
    deviations = positions - positions.mean()
    return deviations / np.sum(deviations**2)
