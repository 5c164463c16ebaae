"""Walks through traced programs, and parts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.extend import core


def variables(operands: Iterable[Any]) -> list[Any]:
    """Return the operands that are not literals."""
    return [var for var in operands if not isinstance(var, core.Literal)]


def read_variables(jaxpr: Any) -> set[Any]:
    """Return the variables that a program reads or returns."""
    operands = [operand for equation in jaxpr.eqns for operand in equation.invars]
    return set(variables([*jaxpr.outvars, *operands]))


def every_program(closed: core.ClosedJaxpr) -> Iterator[core.ClosedJaxpr]:
    """Yield a program and all that run within it: bodies of loops, branches, calls.

    Example:
        >>> import jax.numpy as jnp
        >>> closed = jax.make_jaxpr(lambda x: jax.lax.map(jnp.sin, x))(jnp.ones(3))
        >>> [program.jaxpr.eqns[0].primitive.name for program in every_program(closed)]
        ['scan', 'sin']
    """
    yield closed
    for equation in closed.jaxpr.eqns:
        for part in subprograms(equation):
            yield from every_program(part)


def subprograms(equation: Any) -> list[core.ClosedJaxpr]:
    """Return the programs that an operation runs: the bodies of loops, branches and calls."""
    options = jax.tree.leaves(tuple(equation.params.values()), is_leaf=is_program)
    return [_closed(option) for option in options if is_program(option)]


def called_program(equation: Any) -> core.ClosedJaxpr:
    """Return the program that a call runs; releases of JAX differ in what they name it."""
    return _closed(equation.params.get("jaxpr", equation.params.get("call_jaxpr")))


def is_program(value: Any) -> bool:
    """Return whether a value is a traced program, closed or not."""
    return hasattr(value, "eqns")


def _closed(program: Any) -> core.ClosedJaxpr:
    return program if hasattr(program, "jaxpr") else core.ClosedJaxpr(program, [])


def program_part(
    closed: core.ClosedJaxpr,
    invars: Sequence[Any],
    outvars: Sequence[Any],
    equations: Iterable[int],
) -> core.ClosedJaxpr:
    """Return the program of some equations of a program.

    Args:
        closed: the whole program.
        invars: variables that are given to the part.
        outvars: variables that it returns.
        equations: the positions of its equations, in order.
    """
    jaxpr = closed.jaxpr
    part = jaxpr.replace(
        invars=list(invars),
        outvars=list(outvars),
        eqns=[jaxpr.eqns[i] for i in equations],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return core.ClosedJaxpr(part, closed.consts)


def run_with(
    closed: core.ClosedJaxpr,
    inputs: Sequence[Any],
    instead: Callable[[int, Any], Callable[[list[Any]], list[Any]] | None],
) -> list[Any]:
    """Run a program with other functions in place of some of its operations.

    Args:
        closed: the program.
        inputs: what it is given.
        instead: ``instead(index, equation)`` is asked about every operation, in order: `None` to
            run it as it is, or what takes its operands and returns its results.

    Example:
        >>> import jax.numpy as jnp
        >>> closed = jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(0.0)
        >>> run_with(closed, [0.0], lambda index, _: None if index else lambda operands: [2.0])
        [Array(3., dtype=float32, weak_type=True)]
    """
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.invars, inputs, strict=True))
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    needed = read_variables(jaxpr)

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
        function = instead(index, equation)
        if function is None:
            pending.append(index)
            continue
        run(pending)
        pending = []
        results = function([value_of(operand) for operand in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    run(pending)
    return [value_of(operand) for operand in jaxpr.outvars]


def dependents(jaxpr: core.Jaxpr, roots: Iterable[Any]) -> set[Any]:
    """Every variable of a program that depends on one of `roots`, themselves included."""
    reached = set(roots)
    for equation in jaxpr.eqns:
        if not reached.isdisjoint(variables(equation.invars)):
            reached |= set(equation.outvars)
    return reached


def consts_and_carry(equation: Any) -> tuple[int, int]:
    """Return how many of a loop's operands are constants, and how many it carries.

    The rest are sliced. Told by shapes, since releases of JAX differ in how they write it down:
    what is sliced or stacked has one axis more outside the loop than inside.
    """
    body = equation.params["jaxpr"].jaxpr

    def whole(outside: Any, inside: Any) -> int:
        return sum(
            len(one.aval.shape) == len(other.aval.shape)
            for one, other in zip(outside, inside, strict=True)
        )

    num_carry = whole(equation.outvars, body.outvars)
    return whole(equation.invars, body.invars) - num_carry, num_carry


def scan_operands(equation: Any, operands: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the operands of a loop, or anything else there is of each, by their role.

    Returns:
        ``(constants, carried, sliced)``.
    """
    num_consts, num_carry = consts_and_carry(equation)
    first = num_consts + num_carry
    return operands[:num_consts], operands[num_consts:first], operands[first:]


def scan_again(
    equation: Any,
    step: Callable[[list[Any], Any], tuple[list[Any], list[Any]]],
    carry: list[Any],
    slices: Any,
) -> list[Any]:
    """Return the results of a traced `jax.lax.scan` with another step in place of its body.

    Args:
        equation: the loop.
        step: ``step(carry, slices) -> (carry, stacked)``.
        carry: what the first round is given.
        slices: arrays, cut along their first axes.
    """
    options = equation.params
    carry, stacked = jax.lax.scan(
        step,
        carry,
        slices,
        length=options["length"],
        reverse=options["reverse"],
        unroll=options["unroll"],
    )
    return [*carry, *stacked]
