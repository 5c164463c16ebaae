"""Where a computation is narrowest: what to store so that large results need not be stored.

A gradient in a dense layer is a product of the layer's inputs and the cotangents of its outputs,
which for wide layers and short sequences are far smaller than it is. `split_at_cut` finds such
places in the traced program, whatever the layer is, and cuts the program there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jaxtyping import Array, PyTree

from lnpjax._base.jaxprs import dependents, program_part, variables

_PATIENCE = 16


@dataclasses.dataclass(frozen=True)
class SplitComputation:
    """A function in two steps; made by `split_at_cut`.

    Attributes:
        first: ``first(shared, varying) -> list of arrays``, what passes the cut.
        second: ``second(shared, arrays) -> results``, the same as those of the whole function.
        num_bytes: size of these arrays.
    """

    first: Callable[[PyTree, PyTree], list[Array]]
    second: Callable[[PyTree, list[Array]], PyTree]
    num_bytes: int


def split_at_cut(
    function: Callable[[PyTree, PyTree], PyTree],
    shared: PyTree,
    varying: PyTree,
    *,
    most_bytes: int,
) -> SplitComputation | None:
    """Cut ``function(shared, varying)`` where few bytes that depend on `varying` pass.

    From the results upwards, the largest array that passes is replaced by what it is computed from,
    until little enough passes, so that the second step repeats as little as possible. The search is
    greedy and gives up where some operations in a row make nothing narrower. Nested programs
    (loops, branches, `jit`) are not cut open.

    Args:
        function: pure.
        shared: arrays that are at hand in both steps (parameters).
        varying: arrays that are not (samples).
        most_bytes: how much may pass.

    Returns:
        A `SplitComputation`, or `None` where no such place was found.

    Cost: one trace of the function; nothing is computed.

    Example:
        >>> import jax.numpy as jnp
        >>> def function(_, x):
        ...     return jnp.outer(jnp.sin(x), jnp.cos(x))
        >>> split = split_at_cut(function, None, jnp.ones(8), most_bytes=64)
        >>> split.num_bytes
        64
        >>> split.second(None, split.first(None, jnp.ones(8))).shape
        (8, 8)
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(shared, varying)
    jaxpr = closed.jaxpr
    num_shared = len(jax.tree.leaves(shared))
    depends = dependents(jaxpr, jaxpr.invars[num_shared:])
    producer = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.outvars}

    def size(cut: set[Any]) -> int:
        return sum(var.aval.size * var.aval.dtype.itemsize for var in cut)

    cut = {var for var in variables(jaxpr.outvars) if var in depends}
    below = _supply(jaxpr, producer, depends, jaxpr.outvars)
    narrowest, stalled = size(cut), 0
    while size(cut) > most_bytes:
        expandable = [var for var in cut if var in producer]
        if stalled == _PATIENCE or not expandable:
            return None
        # Of equal sizes the latest, so that an array is reached before what it is made of.
        widest = max(expandable, key=lambda var: (size({var}), producer[var]))
        inputs = variables(jaxpr.eqns[producer[widest]].invars)
        below = below | {producer[widest]} | _supply(jaxpr, producer, depends, inputs)
        made = {var for i in below for var in jaxpr.eqns[i].outvars}
        cut = (cut | {var for var in inputs if var in depends}) - made
        stalled = 0 if size(cut) < narrowest else stalled + 1
        narrowest = min(narrowest, size(cut))

    # In the program's order: sets have none that compilations share.
    passing = [var for var in (*jaxpr.invars, *producer) if var in cut]
    run_first = core.jaxpr_as_fun(
        program_part(closed, jaxpr.invars, passing, range(len(jaxpr.eqns)))
    )
    # The results may be among what passes.
    run_second = core.jaxpr_as_fun(
        program_part(closed, [*jaxpr.invars[:num_shared], *passing], jaxpr.outvars, sorted(below))
    )
    treedef: Any = jax.tree.structure(shapes)
    return SplitComputation(
        first=lambda shared, varying: run_first(*jax.tree.leaves((shared, varying))),
        second=lambda shared, arrays: treedef.unflatten(
            run_second(*jax.tree.leaves(shared), *arrays)
        ),
        num_bytes=size(cut),
    )


def _supply(jaxpr: Any, producer: dict[Any, int], depends: set[Any], wanted: list[Any]) -> set[int]:
    """Return the operations on shared arrays alone that `wanted` needs: they cost no storage."""
    needed: set[int] = set()
    pending = variables(wanted)
    while pending:
        var = pending.pop()
        if var in producer and var not in depends and producer[var] not in needed:
            needed.add(producer[var])
            pending += variables(jaxpr.eqns[producer[var]].invars)
    return needed
