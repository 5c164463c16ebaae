"""Batch normalisation with the statistics of one batch, counted as fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lnpjax._base.checks import concrete, require
from lnpjax.adapters._flax import fit_state


def statistics_of_batch(update: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """Return the state whose batch statistics are those of one batch.

    A network with batch normalisation that is measured with this state computes what it computes
    in training mode on that batch, while the statistics count as fixed, so that samples do not
    interact. Training mode itself is refused: what one sample does to the statistics would be in
    the Jacobians of the others.

    Running statistics move towards those of the batch, ``s -> m s + (1 - m) b``; the momentum m
    and b are found by moving them from zero and from one.

    Args:
        update: moves the state by one forward pass in training mode on the batch, such as
            ``lambda state: module.apply({"params": params, **state}, inputs,
            mutable=["batch_stats"])[1]`` in Linen.
        state: of the network; only its structure counts, and what is not floating-point.

    Returns:
        A state in the structure of `state`; NaN where a statistic does not move towards the batch.

    Raises:
        ValueError: if `update` returns another structure; outside of `jit`, if statistics do not
            move in this way.

    Cost: three forward passes.

    Example:
        >>> batch = jnp.array([1.0, 2.0, 6.0])
        >>> def update(state):
        ...     return {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(batch)}
        >>> print(f"{statistics_of_batch(update, {'mean': jnp.float32(0)})['mean']:.3f}")
        3.000
    """

    def moved(values: PyTree) -> PyTree:
        return fit_state(update(values), state)

    def filled(value: float) -> PyTree:
        return jax.tree.map(lambda s: jnp.full_like(s, value) if _floating(s) else s, state)

    from_zero, from_one = moved(filled(0)), moved(filled(1))

    def towards(start: PyTree, arrived: PyTree) -> PyTree:
        """Return where a movement that began at `start` would end."""

        def end(s: Array, start: Array, to: Array, zero: Array, one: Array) -> Array:
            return start + (to - start) / (1 - (one - zero)) if _floating(s) else s

        return jax.tree.map(end, state, start, arrived, from_zero, from_one)

    found = towards(filled(0), from_zero)
    again = moved(found)

    def checked(s: Array, value: Array, after: Array) -> Array:
        if not _floating(s):
            return s
        tolerance = jnp.sqrt(jnp.finfo(value.dtype).eps) * (1 + jnp.max(jnp.abs(value)))
        return jnp.where(jnp.max(jnp.abs(after - value)) <= tolerance, value, jnp.nan)

    result = jax.tree.map(checked, state, towards(found, again), again)
    strays = [jnp.any(jnp.isnan(s)) for s in jax.tree.leaves(result) if _floating(s)]
    known = concrete(jnp.any(jnp.array(strays)))
    require(
        known is None or not known,
        "update",
        expected="a pass in training mode, which moves statistics towards those of the batch",
        got="statistics that do not move so",
    )
    return result


def _floating(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
