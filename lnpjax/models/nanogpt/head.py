"""The read-out of a nanoGPT: products in eight-bit floating point, and soft caps of the logits."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lnpjax.models.nanogpt.config import CapShape

INPUT_SCALE, WEIGHT_SCALE = 2.0, 32.0


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _rounded(x: Array, scale: float, dtype: DTypeLike) -> Array:
    """Return what is left of a number in eight bits, in its own precision; a slope of one."""
    return (x * scale).astype(dtype).astype(x.dtype) / scale


@_rounded.defjvp
def _(
    scale: float, dtype: DTypeLike, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    return _rounded(*primals, scale, dtype), tangents[0]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _with_rounded_gradient(product: Array, gradient_scale: float) -> Array:
    """Return a number as it is, whose gradient is rounded on its way back."""
    del gradient_scale
    return product


_with_rounded_gradient.defvjp(
    lambda product, _: (product, None),
    lambda scale, _, gradient: (_rounded(gradient, scale, jnp.float8_e5m2),),
)


def fp8_matmul(
    x: Float[Array, "*batch features"],
    weights: Float[Array, "features out"],
    gradient_scale: float | None,
) -> Float[Array, "*batch out"]:
    """Multiply in eight-bit floating point, as the record runs of nanoGPT do.

    Inputs and weights are rounded to E4M3 (``x * 2`` and ``W * 32``), gradients with respect to the
    product to E5M2 (times `gradient_scale`). By casts, so that any device computes the same; sums
    are in the precision of the inputs.

    Args:
        x: the inputs. E4M3 ends at 448: above 224 they become NaN.
        weights: the weights; above 14 they become NaN.
        gradient_scale: 2^29 in the record runs, whose gradients are of a mean over 65,536
            positions. E5M2 ends at 57,344: above, gradients become infinite. None leaves gradients
            as they are, and they are those of the product of the rounded factors.

    Returns:
        The product.

    Example:
        >>> x = jnp.array([[1.0, 1.06]])
        >>> fp8_matmul(x, jnp.eye(2), None).tolist()  # 1.06 lies between 1 and 1.125
        [[1.0, 1.0]]
    """
    product = _rounded(x, INPUT_SCALE, jnp.float8_e4m3fn) @ _rounded(
        weights, WEIGHT_SCALE, jnp.float8_e4m3fn
    )
    return product if gradient_scale is None else _with_rounded_gradient(product, gradient_scale)


def capped(
    logits: Float[Array, "*batch vocab"], cap: float | None, shape: CapShape, width: int
) -> Float[Array, "*batch vocab"]:
    """Bound logits smoothly (Gemma 2, 2024), by the shapes of the record runs.

    "tanh" is ``c tanh(z / c)``, the identity for an infinite c. "sigmoid" is ``2 c sigmoid(2 z / (c
    sqrt(width)))``: up to a constant, which no softmax sees, ``c tanh(z / (c sqrt(width)))``, so
    that the logits are divided by the root of the width besides.

    Args:
        logits: z.
        cap: c; None leaves the logits.
        shape: "tanh" or "sigmoid".
        width: of the hidden states that the logits are read from.

    Returns:
        The logits, within -c and c, or 0 and 2 c.

    Example:
        >>> capped(jnp.array([0.0, 1e9]), 15.0, "tanh", 64).tolist()
        [0.0, 15.0]
        >>> capped(jnp.array([0.0, 1e9]), 15.0, "sigmoid", 64).tolist()
        [15.0, 30.0]
    """
    if cap is None:
        return logits
    if shape == "tanh":
        return cap * jnp.tanh(logits / cap)
    return 2 * cap * jax.nn.sigmoid(logits / (0.5 * cap * math.sqrt(width)))
