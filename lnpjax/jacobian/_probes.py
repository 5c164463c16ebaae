"""Random signs, and what is done with them for every sample and every probe."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from lnpjax._base import numerics
from lnpjax.jacobian._pullbacks import is_norms


def rademacher(key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, ...]:
    """Independent random signs, each from one random bit.

    `jax.random.rademacher` spends 32 bits on each; with a vocabulary of outputs per token that
    would cost as much as the forward pass.

    Args:
        key: a `jax.random` key.
        shape: of the result.
        dtype: of the result.

    Example:
        >>> signs = rademacher(jax.random.key(0), (1000,), jnp.dtype("float32"))
        >>> sorted(set(signs.tolist()))
        [-1.0, 1.0]
    """
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 32),), jnp.uint32)
    bits = words[:, None] & (jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32))
    positive = (bits != 0).reshape(-1)[:size].reshape(shape)
    return jnp.where(positive, jnp.ones((), dtype), -jnp.ones((), dtype))


def sample_keys(key: Key[Array, ""], num_samples: int) -> Key[Array, " batch"]:
    """A key for every sample; folding in the index keeps it free of batch and slice sizes."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_samples))


def for_each_probe(
    draw: Callable[[Key[Array, ""]], Float[Array, " leaf"]],
    key: Key[Array, ""],
    num_probes: int,
) -> Float[Array, "probes leaf"]:
    """Draw with `num_probes` keys, one probe alive at a time."""
    if num_probes == 1:
        return draw(key)[None]
    return jax.lax.map(draw, jax.random.split(key, num_probes))


def squares(gradient: PyTree, weights: PyTree | None) -> Float[Array, " leaf"]:
    """The weighted squared norm of every leaf, some of which may be `SquaredNorms` already."""
    leaves = jax.tree.leaves(gradient, is_leaf=is_norms)
    if not any(map(is_norms, leaves)):
        return numerics.leaf_inner_products(gradient, gradient, weights=weights)
    assert weights is None  # they would have been needed inside the loop
    return jnp.stack(
        [jnp.sum(leaf.values) if is_norms(leaf) else squares(leaf, None)[0] for leaf in leaves]
    )


def map_norms(linearization: Any, weights: PyTree | None) -> Callable[..., PyTree]:
    """What maps a function of `squares` over samples; weighted ones need whole gradients.

    Args:
        linearization: of the samples of a batch (`lnpjax.jacobian._linearize.SampleLinearization`).
        weights: what the squares will be weighted with.
    """
    return linearization.map_norms if weights is None else linearization.map_vjp
