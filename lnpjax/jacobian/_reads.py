"""Where a network reads its weights, and the same program with taps in these places.

A product ``y_t = x_t W`` makes the gradient ``sum_t x_t u_t^T`` in W of its inputs and of the
sensitivities u of its results. `reads` finds such products in a traced program, convolutions, which
are products with patches, and lookups in a table, which are products with unit vectors: behind
changes of shape, within calls, and in loops, whose rounds are layers where each reads a slice of
the weight and positions where all read the same one. `tapped` gives both factors, and makes no
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Bool, Int

from lnpjax._base.jaxprs import (
    called_program,
    consts_and_carry,
    run_with,
    scan_again,
    scan_operands,
)

CALLS = ("jit", "pjit")
REMATERIALISED = ("checkpoint", "remat", "remat2")
Axes: TypeAlias = tuple[Hashable, ...]
"""Names of a view's axes, which tell where they come from in the weight."""


class Read(NamedTuple):
    """A place where a weight is multiplied, looked up, or added to the result of a product.

    Attributes:
        path: positions of the equations that lead there, from the whole program inwards.
        operand: which operand of the last of them is the weight.
        equation: the last of them.
        loops: for each loop on the way, the axis of the weight that it slices, or `None`.
        axes: the axes that are left.
        lengths: of the loops.
        shifted: the path of the product that the weight is added to, if it is.
    """

    path: tuple[int, ...]
    operand: int
    equation: Any
    loops: tuple[Hashable | None, ...]
    axes: Axes
    lengths: tuple[int, ...]
    shifted: tuple[int, ...] | None = None

    @property
    def tap_shape(self) -> tuple[int, ...]:
        """The shape of the results of all rounds."""
        return (*self.lengths, *self.equation.outvars[0].aval.shape)


def reads(jaxpr: Any, var: Any, axes: Axes | None = None) -> list[Read] | None:
    """Return every read of a variable, or `None` if one of them is of another kind.

    Args:
        jaxpr: the program.
        var: one of its variables.
        axes: names of its axes.

    Example:
        >>> def network(layers, x):
        ...     x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w.T), None), x, layers)
        ...     return x
        >>> program = jax.make_jaxpr(network)(jnp.ones((5, 8, 8)), jnp.ones((1, 8))).jaxpr
        >>> (read,) = reads(program, program.invars[0])
        >>> read.loops, read.axes, read.tap_shape
        ((0,), (2, 1), (5, 1, 8))
    """
    if axes is None:
        axes = tuple(range(var.aval.ndim))
    if any(result is var for result in jaxpr.outvars) or not is_real(var) or not var.aval.size:
        return None
    result = []
    for index, equation in enumerate(jaxpr.eqns):
        for position, operand in enumerate(equation.invars):
            if operand is not var:
                continue
            view = _axes_of_view(equation, axes)
            if view is not None:
                some = reads(jaxpr, equation.outvars[0], view)
            else:
                some = _reads_within(jaxpr, index, position, axes)
            if some is None:
                return None
            result += some
    return result


def last_product(jaxpr: Any) -> int | None:
    """Return the product whose results are the only output of a program, in their order.

    Example:
        >>> network = lambda x, w: jnp.squeeze(x @ w, 0)
        >>> program = jax.make_jaxpr(network)(jnp.ones((1, 2)), jnp.eye(2))
        >>> last_product(program.jaxpr)
        0
    """
    made = {result: i for i, equation in enumerate(jaxpr.eqns) for result in equation.outvars}
    (var,) = jaxpr.outvars
    while not isinstance(var, core.Literal) and var in made:
        equation = jaxpr.eqns[made[var]]
        if equation.primitive.name == "dot_general":
            return made[var]
        view = _axes_of_view(equation, tuple(range(equation.invars[0].aval.ndim)))
        if view is None or equation.primitive.name == "transpose":
            return None
        (var,) = equation.invars
    return None


def _axes_of_view(equation: Any, axes: Axes) -> Axes | None:
    """Return the axes of a result that holds the same numbers in another shape or precision."""
    name, options = equation.primitive.name, equation.params
    operand, result = equation.invars[0].aval, equation.outvars[0].aval
    if name == "convert_element_type":
        return axes if is_real(equation.outvars[0]) else None
    if name == "transpose":
        return tuple(axes[axis] for axis in options["permutation"])
    if name == "squeeze":
        return tuple(axis for i, axis in enumerate(axes) if i not in options["dimensions"])
    plain = name == "reshape" and options["dimensions"] is None
    if plain or (name == "broadcast_in_dim" and result.size == operand.size):
        return tuple((axes, result.shape, i) for i in range(result.ndim))
    return None


def _reads_within(jaxpr: Any, index: int, position: int, axes: Axes) -> list[Read] | None:
    equation = jaxpr.eqns[index]
    name = equation.primitive.name
    product = _shifted_product(jaxpr, equation, position)
    if product is not None:
        return [Read((index,), position, equation, (), axes, (), (product,))]
    lookup = is_lookup(equation) and position == 0
    if is_product(equation, position) or lookup or (is_convolution(equation) and position == 1):
        return [Read((index,), position, equation, (), axes, ())]
    loops: tuple[Hashable | None, ...] = ()
    lengths: tuple[int, ...] = ()
    if name in (*CALLS, *REMATERIALISED):
        program = called_program(equation).jaxpr
    elif name == "scan":
        program = equation.params["jaxpr"].jaxpr
        num_consts, num_carry = consts_and_carry(equation)
        if num_consts <= position < num_consts + num_carry:
            return None
        sliced = position >= num_consts
        loops, axes = (axes[:1], axes[1:]) if sliced else ((None,), axes)
        lengths = (equation.params["length"],)
    else:
        return None
    inner = reads(program, program.invars[position], axes)
    return inner and [
        read._replace(
            path=(index, *read.path),
            shifted=read.shifted and (index, *read.shifted),
            loops=(*loops, *read.loops),
            lengths=(*lengths, *read.lengths),
        )
        for read in inner
    ]


def _shifted_product(jaxpr: Any, equation: Any, position: int) -> int | None:
    """Return the product whose result, read nowhere else, has an operand of its size added."""
    if equation.primitive.name != "add":
        return None
    other = equation.invars[1 - position]
    if (
        other is equation.invars[position]
        or other.aval.shape != equation.invars[position].aval.shape
    ):
        return None
    readers = [one for one in jaxpr.eqns if any(operand is other for operand in one.invars)]
    if len(readers) != 1 or any(result is other for result in jaxpr.outvars):
        return None
    for index, one in enumerate(jaxpr.eqns):
        if one.outvars[0] is other and one.primitive.name == "dot_general":
            return index
    return None


def is_real(var: Any) -> bool:
    """Return whether a variable holds real floating-point numbers."""
    return jnp.issubdtype(var.aval.dtype, jnp.floating)


def is_product(equation: Any, position: int) -> bool:
    """Return whether an operation multiplies an operand with a matrix of real numbers."""
    return (
        equation.primitive.name == "dot_general"
        and is_real(equation.invars[1 - position])
        and is_real(equation.outvars[0])
    )


def is_convolution(equation: Any) -> bool:
    """Return whether an operation convolves all channels with all filters."""
    options = equation.params
    return (
        equation.primitive.name == "conv_general_dilated"
        and options["feature_group_count"] == options["batch_group_count"] == 1
        and is_real(equation.outvars[0])
    )


def is_lookup(equation: Any) -> bool:
    """Return whether an operation takes whole rows of a table by their index."""
    if equation.primitive.name != "gather":
        return False
    table, indices = (operand.aval for operand in equation.invars)
    numbers = equation.params["dimension_numbers"]
    row = table.shape[1:]
    return (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and numbers.offset_dims == tuple(range(indices.ndim - 1, indices.ndim - 1 + len(row)))
        and equation.params["slice_sizes"] == (1, *row)
    )


def looked_up(
    equation: Any, indices: Int[Array, "*positions 1"]
) -> tuple[Int[Array, "*positions"], Bool[Array, "*positions"]]:
    """Return the rows that a lookup takes, and where it takes one at all."""
    last = equation.invars[0].aval.shape[0] - 1
    ids = jnp.squeeze(indices, -1)
    if equation.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        ids = jnp.clip(ids, 0, last)
    return ids, (ids >= 0) & (ids <= last)


def patches(equation: Any, images: Array, num_loops: int) -> Array:
    """Return what a convolution multiplies its filters with, in place of the channels.

    Args:
        equation: the convolution.
        images: what it convolves, of all rounds of its loops.
        num_loops: how many loops there are, each with an axis of its own in front.
    """
    options = equation.params
    numbers = options["dimension_numbers"]
    filters = equation.invars[1].aval.shape

    def of_round(images: Array) -> Array:
        return jax.lax.conv_general_dilated_patches(
            images,
            [filters[axis] for axis in numbers.rhs_spec[2:]],
            options["window_strides"],
            options["padding"],
            lhs_dilation=options["lhs_dilation"],
            rhs_dilation=options["rhs_dilation"],
            dimension_numbers=numbers,
            precision=jax.lax.Precision.HIGHEST,
        )

    for _ in range(num_loops):
        of_round = jax.vmap(of_round)
    return of_round(images)


def tapped(
    closed: core.ClosedJaxpr, places: Sequence[Read]
) -> Callable[[Sequence[Array], Sequence[Array]], tuple[list[Array], list[Array]]]:
    """Return the same program with a tap on what it reads in some places.

    Args:
        closed: the program.
        places: some of its `reads`.

    Returns:
        ``function(inputs, taps) -> (outputs, others)``. Taps are added to what is read; their
        shapes are the places' `tap_shape`. The others are what the weights were multiplied with,
        or the indices, of all rounds.
    """
    paths = {key: read.path for key, read in enumerate(places)}

    def function(inputs: Sequence[Array], taps: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        outputs, others = _run(closed, inputs, paths, dict(enumerate(taps)), places)
        return outputs, [others[key] for key in paths]

    return function


def _run(
    closed: Any,
    inputs: Sequence[Array],
    paths: dict[int, tuple[int, ...]],
    taps: dict[int, Array],
    places: Sequence[Read],
) -> tuple[list[Array], dict[int, Array]]:
    others: dict[int, Array] = {}

    def instead(index: int, equation: Any) -> Callable[[list[Any]], list[Any]] | None:
        deeper = {key: path[1:] for key, path in paths.items() if path[0] == index}
        if not deeper:
            return None
        some_taps = {key: taps[key] for key in deeper}

        def run(operands: list[Any]) -> list[Any]:
            if not all(deeper.values()):  # this is the place
                (result,) = [equation.primitive.bind(*operands, **equation.params)]
                for key, tap in some_taps.items():
                    others[key] = operands[1 - places[key].operand]
                    result = result + tap
                return [result]
            within = _run_scan if equation.primitive.name == "scan" else _run_call
            results, more = within(equation, operands, deeper, some_taps, places)
            others.update(more)
            return results

        return run

    return run_with(closed, inputs, instead), others


def _run_call(
    equation: Any, operands: list[Any], paths: Any, taps: dict[int, Array], places: Any
) -> tuple[list[Array], dict[int, Array]]:
    inner, options = called_program(equation), equation.params

    def call(operands: list[Any], taps: dict[int, Array]) -> Any:
        return _run(inner, operands, paths, taps, places)

    if equation.primitive.name in REMATERIALISED:
        keep = {key: options[key] for key in ("policy", "prevent_cse") if key in options}
        call = jax.checkpoint(call, **keep)
    return call(operands, taps)


def _run_scan(
    equation: Any, operands: list[Any], paths: Any, taps: dict[int, Array], places: Any
) -> tuple[list[Array], dict[int, Array]]:
    consts, first, stacks = scan_operands(equation, operands)

    def step(carry: list[Any], slices: Any) -> tuple[list[Any], list[Any]]:
        inputs = [*consts, *carry, *slices[0]]
        results, others = _run(equation.params["jaxpr"], inputs, paths, slices[1], places)
        stacked = [*results[len(first) :], *(others[key] for key in paths)]
        return results[: len(first)], stacked

    results = scan_again(equation, step, first, (stacks, taps))
    count = len(equation.outvars)
    return results[:count], dict(zip(paths, results[count:], strict=True))
