"""Parts of traced programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.extend import core


def variables(operands: Iterable[Any]) -> list[Any]:
    """The operands that are no literals."""
    return [var for var in operands if not isinstance(var, core.Literal)]


def program_part(
    closed: core.ClosedJaxpr,
    invars: Sequence[Any],
    outvars: Sequence[Any],
    equations: Iterable[int],
) -> core.ClosedJaxpr:
    """The program of some equations of a program.

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


def dependents(jaxpr: core.Jaxpr, roots: Iterable[Any]) -> set[Any]:
    """Every variable of a program that depends on one of `roots`, themselves included."""
    reached = set(roots)
    for equation in jaxpr.eqns:
        if not reached.isdisjoint(variables(equation.invars)):
            reached |= set(equation.outvars)
    return reached


def consts_and_carry(equation: Any) -> tuple[int, int]:
    """How many of a loop's operands are constants, and how many are carried; the rest are sliced.

    Told by shapes, since releases of JAX differ in how they write it down: what is sliced or
    stacked has one axis more outside the loop than inside.
    """
    body = equation.params["jaxpr"].jaxpr

    def whole(outside: Any, inside: Any) -> int:
        return sum(
            len(one.aval.shape) == len(other.aval.shape)
            for one, other in zip(outside, inside, strict=True)
        )

    num_carry = whole(equation.outvars, body.outvars)
    return whole(equation.invars, body.invars) - num_carry, num_carry


def subprograms(equation: Any) -> list[core.ClosedJaxpr]:
    """The programs that an operation runs: the bodies of loops, branches and calls."""
    options = jax.tree.leaves(tuple(equation.params.values()), is_leaf=is_program)
    return [
        option if hasattr(option, "jaxpr") else core.ClosedJaxpr(option, [])
        for option in options
        if is_program(option)
    ]


def is_program(value: Any) -> bool:
    """Whether a value is a traced program, closed or not."""
    return hasattr(value, "eqns")
