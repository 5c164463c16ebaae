"""Rotary position embeddings."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def rotary_angles(
    time: int, head_width: int, *, base: float, dtype: DTypeLike
) -> Float[Array, "time half"]:
    """Compute the angles `t * base^(-2i / head_width)` of the rotary embedding (Su et al., 2021).

    Args:
        time: number of positions, counted from 0.
        head_width: width of one head, even.
        base: base of the frequencies.
        dtype: dtype of the result.

    Returns:
        Angles in radians, `(time, head_width / 2)`.

    Example:
        >>> rotary_angles(2, 4, base=10000.0, dtype="float32").tolist()[0]
        [0.0, 0.0]
    """
    frequencies = base ** (-jnp.arange(0, head_width, 2, dtype=dtype) / head_width)
    return jnp.outer(jnp.arange(time, dtype=dtype), frequencies)


def rotate_pairs(
    x: Float[Array, "*heads time width"], angles: Float[Array, "time half"], *, interleaved: bool
) -> Float[Array, "*heads time width"]:
    """Turn each pair of a head's coordinates by its angle; inner products see relative positions.

    Args:
        x: queries or keys, `(..., time, width)`.
        angles: what `rotary_angles` returns.
        interleaved: pairs are (2i, 2i + 1) if true, else (i, i + width / 2).

    Returns:
        The rotated array, with the shape and dtype of `x`.

    Example:
        >>> x = jnp.array([[1.0, 0.0]])
        >>> rotate_pairs(x, jnp.array([[jnp.pi / 2]]), interleaved=True).round(3).tolist()
        [[-0.0, 1.0]]
    """
    half = x.shape[-1] // 2
    pair_shape, pair_axis = ((half, 2), -1) if interleaved else ((2, half), -2)
    pairs = x.reshape(*x.shape[:-1], *pair_shape)
    first, second = jnp.unstack(pairs, axis=pair_axis)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=pair_axis)
    return rotated.reshape(x.shape).astype(x.dtype)
