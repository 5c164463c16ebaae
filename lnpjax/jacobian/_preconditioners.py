"""A diagonal preconditioner P, and what is asked of it: ``J P J^T`` needs ``P >= 0``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from lnpjax import parameters
from lnpjax._base.checks import concrete, require
from lnpjax.status import Status, flag


def fit_preconditioner(
    preconditioner: PyTree | None, trainable: PyTree
) -> tuple[PyTree | None, Int[Array, ""]]:
    """Bring a preconditioner into the structure of the parameters; refuse negative entries.

    Args:
        preconditioner: the diagonal of P, or `None` for the identity.
        trainable: the trainable parameters.

    Returns:
        The preconditioner, and `Status.NEGATIVE_PRECONDITIONER` where an entry is negative under
        `jit`, where that can only be flagged.

    Raises:
        TypeError: if a leaf is not an array or a number.
        ValueError: if structures or shapes differ; outside `jit`, if an entry is negative.

    Example:
        >>> fit_preconditioner({"w": jnp.array([1.0, -2.0])}, {"w": jnp.ones(2)})
        Traceback (most recent call last):
            ...
        ValueError: preconditioner/w: expected entries >= 0, got some as low as -2.0
    """
    status = jnp.int32(Status.OK)
    if preconditioner is None:
        return None, status
    preconditioner = parameters.fit("preconditioner", preconditioner, trainable)
    leaves = jax.tree.leaves(preconditioner)
    for name, leaf in zip(parameters.paths(preconditioner), leaves, strict=True):
        if not jnp.size(leaf):
            continue
        smallest = jnp.min(leaf)
        value = concrete(smallest)
        require(
            value is None or not value < 0,
            f"preconditioner/{name}".rstrip("/"),
            expected="entries >= 0",
            got=f"some as low as {value}",
        )
        status |= flag(smallest < 0, Status.NEGATIVE_PRECONDITIONER)
    return preconditioner, status


def precondition(rows: PyTree, preconditioner: PyTree | None) -> PyTree:
    """Multiply rows of J, or one gradient, by the diagonal of P, in the precision that they have.

    Args:
        rows: in the structure of the trainable parameters; their leaves may have axes in front.
        preconditioner: `None` for the identity.

    Example:
        >>> precondition(jnp.ones((2, 3)), jnp.array([1.0, 2.0, 3.0]))
        Array([[1., 2., 3.],
               [1., 2., 3.]], dtype=float32)
    """
    if preconditioner is None:
        return rows
    return jax.tree.map(lambda row, p: row * jnp.asarray(p, row.dtype), rows, preconditioner)
