"""Rows that only pad a batch: masks, checked, and what stands in the rows that they leave out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree, Shaped

from lnpjax._base.checks import require


def as_mask(mask: Any) -> Any:
    """Return a mask written as a Python list as an array, and anything else as it is."""
    return np.asarray(mask) if isinstance(mask, list | tuple) else mask


def check_mask(
    argument: str, mask: Bool[Array, " batch"] | None, num_samples: int
) -> Bool[Array, " batch"]:
    """Return a padding mask of the right shape, all True for `None`.

    Raises:
        ValueError: if its shape is not ``(num_samples,)``.
        TypeError: if it is not boolean.
    """
    if mask is None:
        return jnp.ones(num_samples, bool)
    mask = as_mask(mask)
    require(
        jnp.shape(mask) == (num_samples,),
        argument,
        expected=f"shape ({num_samples},), one flag per sample",
        got=f"shape {jnp.shape(mask)}",
    )
    require(
        jnp.result_type(mask) == jnp.bool_,
        argument,
        expected="booleans (True for real samples)",
        got=f"dtype {jnp.result_type(mask)}",
        error=TypeError,
    )
    return jnp.asarray(mask)


def by_row(mask: Bool[Array, " batch"], rows: Shaped[Array, "batch ..."]) -> Bool[Array, ...]:
    """Give a mask as many axes as the rows have that it is for."""
    return mask.reshape((-1,) + (1,) * (rows.ndim - 1))


def fill_masked(tree: PyTree, mask: Bool[Array, " batch"]) -> PyTree:
    """Put a valid row in the place of every row that only pads a batch.

    A padding row may be anything; where it made a network NaN or infinite, so would be what is
    pulled back to the parameters, however it is weighted (``0 * NaN``).

    Args:
        tree: inputs, or inputs and targets; every leaf leads with the batch.
        mask: boolean ``(B,)``, False for the rows to replace.

    Returns:
        The same tree. Rows are copies of the first valid one, or of the first where none is valid.

    Example:
        >>> fill_masked(jnp.array([jnp.inf, 2.0, 3.0]), jnp.array([False, True, True]))
        Array([2., 2., 3.], dtype=float32)
    """
    first = jnp.arange(len(mask)) == jnp.argmax(mask)

    def fill(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)

        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # keys, which do not add up
            return jnp.where(by_row(mask, leaf), leaf, leaf[jnp.argmax(mask)])
        # Picked by a sum: an index would gather the rows of all devices.
        chosen = jnp.where(by_row(first, leaf), leaf, jnp.zeros((), leaf.dtype))
        return jnp.where(by_row(mask, leaf), leaf, jnp.sum(chosen, axis=0, dtype=leaf.dtype))

    return jax.tree.map(fill, tree)
