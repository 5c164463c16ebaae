"""Networks that scan over stacked layers: what one layer gives is reduced before the next.

A `scan` over the layers of a network hands its gradients back stacked: for every sample, as large
as all layers together. Their squared norm and their sum over samples need no more than one layer
at a time, if they are taken inside the loop. `tap_stacked` marks the place: where a loop reads a
stacked parameter layer by layer, what flows back there is reduced at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float

from lnpjax._programs import program_part, variables
from lnpjax.parameters import accumulation_dtype, accurate_sum

_CALLS = ("jit", "pjit", "closed_call")


@jax.custom_vjp
def tapped(weight: Array, norm: Float[Array, ""]) -> Array:
    """`weight`; going back, `norm` collects the squared norm of what flows back into it.

    What is left for `weight` itself is then the sum over the batch, under one `jax.vmap`.
    """
    del norm
    return weight


def _forward(weight: Array, norm: Float[Array, ""]) -> tuple[Array, Float[Array, ""]]:
    return weight, norm


def _backward(norm: Float[Array, ""], cotangent: Array) -> tuple[Array, Float[Array, ""]]:
    return _sum_over_batch(cotangent), accurate_sum(jnp.square(cotangent.astype(norm.dtype)))


tapped.defvjp(_forward, _backward)


@jax.custom_batching.custom_vmap
def _sum_over_batch(cotangent: Array) -> Array:
    return cotangent


@_sum_over_batch.def_vmap
def _sum_batched(axis_size: int, in_batched: list[bool], cotangent: Array) -> tuple[Array, bool]:
    if in_batched[0]:
        return jnp.sum(cotangent, axis=0), False
    return axis_size * cotangent, False


def stacked_leaves(jaxpr: core.Jaxpr, num_leaves: int) -> dict[int, int]:
    """Which of the first inputs of a program are read by a loop, layer by layer, and no one else.

    Args:
        jaxpr: of the program.
        num_leaves: how many inputs are parameters.

    Returns:
        The number of layers of each such input, by its position.

    Example:
        >>> def network(layers, bias, x):
        ...     return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0] + bias
        >>> program = jax.make_jaxpr(network)(jnp.ones((5, 2, 2)), jnp.ones(2), jnp.ones(2))
        >>> stacked_leaves(program.jaxpr, 2)
        {0: 5}
    """
    found = {}
    for index, var in enumerate(jaxpr.invars[:num_leaves]):
        layers = _num_layers(jaxpr, var)
        if layers is not None:
            found[index] = layers
    return found


def _num_layers(jaxpr: Any, var: Any) -> int | None:
    reads = [
        (equation, position)
        for equation in jaxpr.eqns
        for position, operand in enumerate(equation.invars)
        if operand is var
    ]
    if len(reads) != 1 or any(v is var for v in jaxpr.outvars):
        return None
    equation, position = reads[0]
    if equation.primitive.name == "scan":
        carried = equation.params["num_consts"] + equation.params["num_carry"]
        return equation.params["length"] if position >= carried else None
    if equation.primitive.name == "convert_element_type":
        return _num_layers(jaxpr, equation.outvars[0])
    if equation.primitive.name in _CALLS:
        inner = equation.params["jaxpr"].jaxpr
        return _num_layers(inner, inner.invars[position])
    return None


def tap_stacked(
    closed: core.ClosedJaxpr, stacked: dict[int, int]
) -> Callable[[Sequence[Array], Sequence[Array]], list[Array]]:
    """The same program with a tap on every stacked parameter.

    Args:
        closed: the program.
        stacked: of `stacked_leaves`.

    Returns:
        ``function(inputs, taps) -> outputs`` with the inputs of the program and zeros
        ``(layers,)`` for every stacked one. The gradient in a tap is the squared norm, layer by
        layer, of the gradient in its parameter; see `tapped` for the gradient in the parameter.
    """

    def function(inputs: Sequence[Array], taps: Sequence[Array]) -> list[Array]:
        marked = dict(zip((closed.jaxpr.invars[i] for i in stacked), taps, strict=True))
        return _evaluate(closed, inputs, marked)

    return function


def zero_taps(stacked: dict[int, int]) -> list[Float[Array, " layers"]]:
    """What goes into the taps of `tap_stacked`."""
    return [jnp.zeros(layers, accumulation_dtype()) for layers in stacked.values()]


def _evaluate(closed: Any, inputs: Sequence[Array], taps: dict[Any, Array]) -> list[Array]:
    """Run a program; `taps` holds the taps of its variables."""
    jaxpr, taps = closed.jaxpr, dict(taps)
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    needed = set(variables([*jaxpr.outvars, *(v for eqn in jaxpr.eqns for v in eqn.invars)]))

    def value_of(operand: Any) -> Any:
        if isinstance(operand, core.Literal):
            return operand.val
        return constants[operand] if operand in constants else values[operand]

    def run(equations: list[int]) -> None:
        read = {var for i in equations for var in variables(jaxpr.eqns[i].invars)}
        given = [var for var in values if var in read]
        returned = [var for i in equations for var in jaxpr.eqns[i].outvars if var in needed]
        part = core.jaxpr_as_fun(program_part(closed, given, returned, equations))
        values.update(zip(returned, part(*(values[var] for var in given)), strict=True))

    pending: list[int] = []
    for index, equation in enumerate(jaxpr.eqns):
        marked = {i: taps[v] for i, v in enumerate(equation.invars) if _is_key(v, taps)}
        if marked and equation.primitive.name == "convert_element_type":
            taps[equation.outvars[0]] = marked[0]
        elif marked:
            run(pending)
            pending = []
            operands = [value_of(operand) for operand in equation.invars]
            if equation.primitive.name == "scan":
                results = _scan_with_taps(equation.params, operands, marked)
            else:
                inner = equation.params["jaxpr"]
                inner_taps = {inner.jaxpr.invars[i]: tap for i, tap in marked.items()}
                results = _evaluate(inner, operands, inner_taps)
            values.update(zip(equation.outvars, results, strict=True))
            continue
        pending.append(index)
    run(pending)
    return [value_of(operand) for operand in jaxpr.outvars]


def _is_key(operand: Any, taps: dict[Any, Array]) -> bool:
    return not isinstance(operand, core.Literal) and operand in taps


def _scan_with_taps(
    options: dict[str, Any], operands: list[Array], taps: dict[int, Array]
) -> list[Array]:
    num_consts, num_carry = options["num_consts"], options["num_carry"]
    consts, initial = operands[:num_consts], operands[num_consts:][:num_carry]
    first = num_consts + num_carry
    body = core.jaxpr_as_fun(options["jaxpr"])

    def step(carry: list[Array], slices: tuple[list[Array], dict[int, Array]]) -> Any:
        xs, norms = slices
        xs = [tapped(x, norms[i]) if i in norms else x for i, x in enumerate(xs, start=first)]
        results = body(*consts, *carry, *xs)
        return results[:num_carry], results[num_carry:]

    carry, stacked = jax.lax.scan(
        step,
        initial,
        (operands[first:], taps),
        length=options["length"],
        reverse=options["reverse"],
        unroll=options["unroll"],
    )
    return [*carry, *stacked]
