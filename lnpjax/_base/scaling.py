"""Scale-free quantities of numbers whose squares are beyond the range of their dtype."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_of(array: Float[Array, ...]) -> Float[Array, ""]:
    """Return a power of two by which to divide before squaring; dividing by it rounds nothing.

    It is 1 unless the largest entry is beyond a third of the range of exponents, where its square,
    or those of entries that still count next to it, would overflow or be lost: below 2^-42 or above
    2^42 in float32. So numbers of an ordinary size stay as they are, to the last bit.

    Args:
        array: of any shape, in the dtype that squares are summed in.

    Returns:
        The power of two next below the largest entry, or 1; 1 too where all entries are zero, and
        where one is infinite or NaN.

    Example:
        >>> unit_of(jnp.array([3.0, -4.0])), unit_of(jnp.array([0.0, 1.5 * 2.0**60])) == 2.0**60
        (Array(1., dtype=float32), Array(True, dtype=bool))
    """
    largest = jnp.max(jnp.abs(array))
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1))
    # frexp gives mantissas from 1/2. The inverse of the unit must be in the range, too.
    limit = jnp.finfo(array.dtype).maxexp
    exponent = jnp.clip(exponent - 1, 3 - limit, limit - 3)
    ordinary = (jnp.abs(exponent) <= limit // 3) | (largest == 0)
    return jnp.ldexp(jnp.ones((), array.dtype), jnp.where(ordinary, 0, exponent))
