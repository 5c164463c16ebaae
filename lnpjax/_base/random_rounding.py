"""What rounding does to the result of a program, whatever formula it uses.

Monte Carlo arithmetic (Parker, *Monte Carlo Arithmetic*, 1997; Vignes, *Discrete Stochastic
Arithmetic*, 2004): run the program again, with every intermediate result moved by one spacing of
its dtype, up or down at random. The result moves by the order of magnitude of its rounding error:
cancellations magnify the moves as they magnify rounding. No truth in higher precision is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool, Float

from lnpjax._base.jaxprs import (
    called_program,
    program_part,
    scan_again,
    scan_operands,
    variables,
)

_CALLS = ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint", "custom_jvp_call")
_EXACT = frozenset(
    (
        *("abs", "neg", "sign", "max", "min", "clamp", "floor", "ceil", "round", "select_n"),
        *("broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "rev", "pad"),
        *("slice", "dynamic_slice", "dynamic_update_slice", "concatenate", "split", "gather"),
        *("scatter", "reduce_max", "reduce_min", "cummax", "cummin", "sort", "top_k", "iota"),
        *("copy", "copy_p", "stop_gradient", "optimization_barrier", "sharding_constraint"),
        *("reshard", "pvary", "scatter-add"),
    )
)
"""What moves numbers, or chooses among them, and does not round.

Additions by index are the transposes of look-ups, and mostly add to zeros.
"""


def rounded_at_random(
    function: Callable[[Array], Array], argument: Float[Array, ...], *, eps: float
) -> Float[Array, ...]:
    """Return ``function(argument)`` with the argument and every step rounded at random.

    Steps that only move numbers are exact. Calls and scans are entered; the results of other loops
    and of branches are rounded as one step. The signs are always the same.

    Args:
        function: of one array, traceable.
        argument: the array.
        eps: by how much the argument is moved, relative to its entries; steps are moved by the
            spacing of their own dtypes.

    Returns:
        The result. Compare it with ``function(argument)``.

    Cost: about that of the function.

    Example:
        >>> difference = lambda x: (x + 1e4) - 1e4
        >>> moved = rounded_at_random(difference, jnp.float32(0.5), eps=0.0)
        >>> 1e-4 < abs(moved - difference(jnp.float32(0.5))) < 1e-2
        Array(True, dtype=bool)
    """
    closed = jax.make_jaxpr(function)(argument)
    seeds = itertools.count()
    (result,) = _run(closed, [_moved(argument, next(seeds), eps)], seeds)
    return result


def _run(closed: Any, inputs: Sequence[Any], seeds: Iterator[int]) -> list[Any]:
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def value_of(operand: Any) -> Any:
        return operand.val if isinstance(operand, core.Literal) else values[operand]

    for index, equation in enumerate(jaxpr.eqns):
        operands = [value_of(operand) for operand in equation.invars]
        if equation.primitive.name == "scan":
            results = _scan(equation, operands, seeds)
        elif equation.primitive.name in _CALLS:
            results = _run(called_program(equation), operands, seeds)
        else:
            read = list(dict.fromkeys(variables(equation.invars)))
            step = core.jaxpr_as_fun(program_part(closed, read, equation.outvars, [index]))
            results = step(*(values[var] for var in read))
            if not _is_exact(equation):
                results = [_moved(result, next(seeds)) for result in results]
        values.update(zip(equation.outvars, results, strict=True))
    return [value_of(operand) for operand in jaxpr.outvars]


def _scan(equation: Any, operands: list[Any], seeds: Iterator[int]) -> list[Any]:
    consts, first, slices = scan_operands(equation, operands)

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _run(equation.params["jaxpr"], [*consts, *carry, *slices], seeds)
        return results[: len(first)], results[len(first) :]

    return scan_again(equation, step, first, slices)


def _is_exact(equation: Any) -> bool:
    if equation.primitive.name == "convert_element_type":
        source, target = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
        return jnp.promote_types(source, target) == target
    return equation.primitive.name in _EXACT


def _moved(value: Any, seed: int, eps: float | None = None) -> Any:
    """Move every entry one spacing up or down; those at the end of the range stay."""
    dtype = jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.floating):
        return value
    eps = float(jnp.finfo(dtype).eps) if eps is None else eps
    up, down = jnp.asarray(1 + eps, dtype), jnp.asarray(1 - eps, dtype)
    moved = value * jnp.where(_coins(jnp.shape(value), seed), up, down)
    return jnp.where(jnp.isfinite(moved), moved, value)


def _coins(shape: tuple[int, ...], seed: int) -> Bool[Array, ...]:
    """Return random bits: the exclusive or of one for every place along every axis.

    Those of two places are independent, and an entry costs one operation: a hash of every entry
    took as long as the loss gradient itself.
    """
    coins = jnp.zeros((1,) * len(shape), bool)
    for axis, size in enumerate(shape):
        along = [size if other == axis else 1 for other in range(len(shape))]
        coins = coins ^ _bits(size, (seed, axis)).reshape(along)
    return coins


def _bits(size: int, seed: tuple[int, int]) -> Bool[np.ndarray, " size"]:
    return np.random.default_rng(seed).integers(0, 2, size).astype(bool)
