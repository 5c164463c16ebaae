"""Attention that all transformers of this package share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lnpjax.models.rotary import rotate_pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """The sizes of an attention layer.

    Attributes:
        hidden_size: width of the residual stream.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads, a divisor of `num_heads`.
        head_width: width of one head.
        causal: whether a position sees only itself and those before it.
        rope_interleaved: which pairs of a head are rotated; see `rotate_pairs`.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    causal: bool = True
    rope_interleaved: bool = False


class Attention(nnx.Module):
    """Grouped-query attention: each key and value head serves a group of query heads.

    Args:
        shape: the sizes.
        linear: ``linear(in_size, out_size)`` makes the layers of queries, keys and values.
        output: likewise the layer that writes to the residual stream.

    Example:
        >>> shape = AttentionShape(hidden_size=8, num_heads=2, num_kv_heads=1, head_width=4)
        >>> linear = partial(nnx.Linear, rngs=nnx.Rngs(0))
        >>> Attention(shape, linear=linear, output=linear)(jnp.ones((3, 5, 8))).shape
        (3, 5, 8)
    """

    def __init__(
        self,
        shape: AttentionShape,
        *,
        linear: Callable[[int, int], nnx.Linear],
        output: Callable[[int, int], nnx.Linear],
    ) -> None:
        query_size = shape.num_heads * shape.head_width
        kv_size = shape.num_kv_heads * shape.head_width
        self.shape = shape
        self.query = linear(shape.hidden_size, query_size)
        self.key = linear(shape.hidden_size, kv_size)
        self.value = linear(shape.hidden_size, kv_size)
        self.output = output(query_size, shape.hidden_size)

    def __call__(
        self,
        x: Float[Array, "batch time hidden"],
        angles: Float[Array, "time half"] | None = None,
    ) -> Float[Array, "batch time hidden"]:
        """Mix positions; queries and keys are rotated by `angles`, if given (`rotary_angles`).

        The softmax is computed in at least float32.
        """
        shape = self.shape
        batch, time, _ = x.shape
        heads = (batch, time, shape.num_kv_heads, shape.head_width)
        groups = (*heads[:3], shape.num_heads // shape.num_kv_heads, shape.head_width)
        query = self.query(x).reshape(groups).transpose(0, 2, 3, 1, 4)
        key = self.key(x).reshape(heads).transpose(0, 2, 1, 3)
        value = self.value(x).reshape(heads).transpose(0, 2, 1, 3)
        if angles is not None:
            rotate = partial(rotate_pairs, angles=angles, interleaved=shape.rope_interleaved)
            query, key = rotate(query), rotate(key)
        wide = jnp.promote_types(x.dtype, jnp.float32)
        query = query / math.sqrt(shape.head_width)
        scores = jnp.einsum("bkgqd,bksd->bkgqs", query, key).astype(wide)
        if shape.causal:
            scores = jnp.where(jnp.tri(time, dtype=bool), scores, -jnp.inf)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        mixed = jnp.einsum("bkgqs,bksd->bqkgd", weights, value)
        return self.output(mixed.reshape(batch, time, shape.num_heads * shape.head_width))
