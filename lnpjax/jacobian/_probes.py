"""Random signs, and their keys for every sample and every probe."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def rademacher(key: Key[Array, ""], shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, ...]:
    """Return independent random signs, each from one random bit.

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
    """Return a key for every sample, made of its index: whatever the sizes of batch and slices."""
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
