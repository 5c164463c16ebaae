"""Parts of traced programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

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
