"""One computation after another, where memory would not hold both at once.

A compiler is free to run what does not depend on each other side by side, and XLA does so on CPUs:
two batches then need the memory of two, whichever comes first. It drops `optimization_barrier`
before it plans memory there, so that only a dependence of data keeps an order.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

Tree = TypeVar("Tree")


def after(tree: Tree, *done: PyTree) -> Tree:
    """The same arrays, which can only be had once others have been computed.

    Args:
        tree: what the later computation reads, its smallest part for choice: it is copied.
        *done: what is to be complete. Only floating-point arrays count; each is read once.

    Returns:
        `tree`, to the bit.

    Example:
        >>> after(jnp.arange(3), jnp.full(2, jnp.nan))
        Array([0, 1, 2], dtype=int32)
    """
    known = [
        jnp.sum(leaf)
        for leaf in jax.tree.leaves(done)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    ]
    if not known:
        return tree
    total = sum(known[1:], known[0])
    # Never true, but no compiler knows.
    never = jnp.isnan(total) & (total == 0)
    return jax.tree.map(lambda leaf: jnp.where(never, jnp.zeros_like(leaf), leaf), tree)
