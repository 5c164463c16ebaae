"""One computation after another, where memory would not hold both at once.

A compiler is free to run what does not depend on each other side by side, and XLA does so on CPUs:
two batches then need the memory of two, whichever comes first. It drops `optimization_barrier`
before it plans memory there, so that only a dependence of data keeps an order.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

Tree = TypeVar("Tree")


def after(tree: Tree, *done: PyTree) -> Tree:
    """Return the same arrays, which exist only once others have been computed.

    Args:
        tree: what the later computation reads; best its smallest part, since it is copied.
        *done: what is to be complete. Only floating-point arrays count; each is read once.

    Returns:
        `tree`, to the bit.

    Example:
        >>> after(jnp.arange(3), jnp.full(2, jnp.nan))
        Array([0, 1, 2], dtype=int32)
    """
    sums = [jnp.sum(leaf.astype(jnp.float32)) for leaf in floating_leaves(done)]
    if not sums:
        return tree
    never = _never(jax.lax.stop_gradient(sum(sums[1:], sums[0])))
    return jax.tree.map(lambda leaf: jnp.where(never, jnp.zeros_like(leaf), leaf), tree)


def floating_leaves(tree: PyTree) -> list[Array]:
    """Return the floating-point arrays among the leaves, whatever else there is."""
    return [
        leaf
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    ]


@jax.custom_batching.custom_vmap
def _never(total: Float[Array, ""]) -> Bool[Array, ""]:
    """Return False, which no compiler can tell."""
    return jnp.isnan(total) & (total == 0)


@_never.def_vmap
def _never_for_all(
    axis_size: int, in_batched: list[bool], totals: Float[Array, " axis"]
) -> tuple[Bool[Array, ""], bool]:
    # One answer for all, or what waits for it would be computed for each.
    del axis_size, in_batched
    return _never(jnp.sum(totals, axis=0)), False
