"""How finely a network computes, and what is large beside its rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lnpjax import parameters
from lnpjax._base.jaxprs import every_program
from lnpjax.jacobian._contract import ApplyFn


def compute_precision(apply_fn: ApplyFn, params: PyTree, inputs: PyTree) -> float:
    """Return the spacing of numbers next to one in the coarsest dtype of a network.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs``.
        params: its parameters.
        inputs: of a batch.

    Returns:
        2^-7 for bfloat16, 2^-10 for float16, 2^-23 for float32, 2^-52 for float64. Nothing is
        computed.

    Example:
        >>> mixed = lambda w, x: (x.astype("bfloat16") @ w.astype("bfloat16")).astype("float32")
        >>> compute_precision(mixed, jnp.ones((3, 2)), jnp.ones((4, 3)))
        0.0078125
    """
    dtypes = floating_dtypes(apply_fn, params, inputs)
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)


def floating_dtypes(function: Callable[..., Any], *arguments: PyTree) -> set[jnp.dtype]:
    """Return the floating-point dtypes that a computation passes through."""
    dtypes: set[jnp.dtype] = set()
    for program in every_program(jax.make_jaxpr(function)(*arguments)):
        jaxpr = program.jaxpr
        # What is only stored in eight bits is widened before anything is differentiated.
        given = {var.aval.dtype for var in (*jaxpr.invars, *jaxpr.constvars)}
        dtypes |= {dtype for dtype in given if not parameters.is_narrow(dtype)}
        dtypes |= {var.aval.dtype for equation in jaxpr.eqns for var in equation.outvars}
    return {jnp.dtype(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


def typical_size(sizes: Float[Array, " n"]) -> Float[Array, ""]:
    """Return the geometric mean of the sizes that are neither zero nor infinite or NaN.

    A few huge ones (a logit masked with -1e9) leave it as it is.

    Example:
        >>> typical_size(jnp.array([0.0, 1.0, 4.0]))
        Array(2., dtype=float32)
    """
    usable = (sizes > 0) & jnp.isfinite(sizes)
    logs = jnp.log(jnp.where(usable, sizes, 1))
    return jnp.exp(jnp.sum(logs) / jnp.maximum(jnp.sum(usable), 1))
