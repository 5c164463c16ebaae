"""Squared norms of per-sample gradients, taken where the gradient would be made.

The gradient of one sample in a weight is as large as the weight, and there is one for every sample;
their norms are single numbers. `add_taps` finds, in the traced program of a network, the weights
that are read in one place alone, in a way that tells their norm from less:

- A product ``y_t = x_t W`` at T positions gives ``|dW|^2 = sum_{t,s} (x_t . x_s) (u_t . u_s)`` with
  the cotangents u of y (Goodfellow, 2015; Li et al., 2022): two T x T Gram matrices.
- A table read at T indices gives ``sum_{t,s} [id_t = id_s] u_t . u_s``.
- A loop over stacked layers hands its gradients back stacked, as large as all layers together. The
  norm of each layer's can be taken inside the loop, as above or by itself.

Weights that are read twice, shared by layers or tied, are left to `_factored_norms`: norms of the
parts would not add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Float, Int

from lnpjax._base.jaxprs import (
    consts_and_carry,
    run_with,
    scan_again,
    scan_operands,
)
from lnpjax._base.numerics import accumulation_dtype, accurate_sum
from lnpjax.jacobian._reads import CALLS, is_lookup, is_product, is_real, looked_up

GRAM_SHARE = 4
"""Gram matrices are used where they have so many times fewer entries than the weight..."""
GRAM_WORK = 2
"""...and take at most so many times the operations of its gradient."""


def tap_shapes(jaxpr: Any, num_leaves: int) -> dict[int, tuple[int, ...]]:
    """Return which of the first inputs of a program can be tapped, and the shapes of their norms.

    Args:
        jaxpr: of the program.
        num_leaves: how many inputs are parameters.

    Returns:
        By position, ``()`` for one norm, ``(layers,)`` for stacked layers, and so on.

    Example:
        >>> def network(layers, bias, kernel, x):
        ...     x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)
        ...     return (x + bias) @ kernel
        >>> leaves = (jnp.ones((5, 8, 8)), jnp.ones(8), jnp.ones((8, 9)), jnp.ones((1, 8)))
        >>> tap_shapes(jax.make_jaxpr(network)(*leaves).jaxpr, 3)
        {0: (5,), 2: ()}
    """
    shapes, taken = {}, set()
    for index, var in enumerate(jaxpr.invars[:num_leaves]):
        read = _only_read(jaxpr, var)
        # One of two weights that are multiplied with each other is enough for their product.
        if read is not None and read.place not in taken:
            shapes[index] = read.layers
            taken.add(read.place)
    return shapes


class _Read(NamedTuple):
    """The one place where a variable is read: through which loops, and by which operation."""

    layers: tuple[int, ...]
    place: tuple[int, ...]


def _only_read(jaxpr: Any, var: Any) -> _Read | None:
    reads = [
        (equation, position)
        for equation in jaxpr.eqns
        for position, operand in enumerate(equation.invars)
        if operand is var
    ]
    if len(reads) != 1 or any(operand is var for operand in jaxpr.outvars):
        return None
    equation, position = reads[0]
    name, options = equation.primitive.name, equation.params
    inner: _Read | None = None
    if name == "convert_element_type" and is_real(equation.outvars[0]):
        return _only_read(jaxpr, equation.outvars[0])
    if name in CALLS:
        program = options["jaxpr"].jaxpr
        inner = _only_read(program, program.invars[position])
        return inner and _Read(inner.layers, (id(equation), *inner.place))
    if name == "scan" and position >= sum(consts_and_carry(equation)):
        body = options["jaxpr"].jaxpr
        inner = _only_read(body, body.invars[position]) or _Read((), (position,))
        return _Read((options["length"], *inner.layers), (id(equation), *inner.place))
    real = all(map(is_real, (var, *equation.outvars))) and var.aval.size > 0
    product = is_product(equation, position) and not any(options["dimension_numbers"][1])
    lookup = position == 0 and is_lookup(equation)
    return _Read((), (id(equation),)) if real and (product or lookup) else None


def zero_taps(shapes: dict[int, tuple[int, ...]]) -> list[Array]:
    """Return what goes into the taps of `add_taps`."""
    return [jnp.zeros(shape, accumulation_dtype()) for shape in shapes.values()]


def add_taps(
    closed: core.ClosedJaxpr, places: Sequence[int]
) -> Callable[[Sequence[Array], Sequence[Array]], list[Array]]:
    """Return the same program with a tap on some of its inputs.

    Args:
        closed: the program.
        places: which inputs, all of them among its `tap_shapes`.

    Returns:
        ``function(inputs, taps) -> outputs`` with the inputs of the program and `zero_taps`. The
        gradient in a tap is the squared norm of the gradient in its input. That gradient itself
        comes out summed over the batch, under one `jax.vmap`.
    """

    def function(inputs: Sequence[Array], taps: Sequence[Array]) -> list[Array]:
        marked = dict(zip((closed.jaxpr.invars[i] for i in places), taps, strict=True))
        return _evaluate(closed, inputs, marked)

    return function


def _evaluate(closed: Any, inputs: Sequence[Array], taps: dict[Any, Array]) -> list[Array]:
    """Run a program; `taps` holds the taps of its variables."""
    taps = dict(taps)

    def instead(index: int, equation: Any) -> Callable[[list[Any]], list[Any]] | None:
        del index
        marked = {
            position: taps[operand]
            for position, operand in enumerate(equation.invars)
            if not isinstance(operand, core.Literal) and operand in taps
        }
        if not marked:
            return None
        if equation.primitive.name == "convert_element_type":
            taps[equation.outvars[0]] = marked[0]
            return None
        read = _READERS.get(equation.primitive.name, _call_with_taps)
        return lambda operands: read(equation, operands, marked)

    return run_with(closed, inputs, instead)


def _call_with_taps(equation: Any, operands: list[Array], taps: dict[int, Array]) -> list[Array]:
    inner = equation.params["jaxpr"]
    return _evaluate(inner, operands, {inner.jaxpr.invars[i]: tap for i, tap in taps.items()})


def _scan_with_taps(equation: Any, operands: list[Array], taps: dict[int, Array]) -> list[Array]:
    consts, first, stacks = scan_operands(equation, operands)
    body = equation.params["jaxpr"]

    def step(
        carry: list[Array], slices: tuple[list[Array], dict[int, Array]]
    ) -> tuple[list[Array], list[Array]]:
        inputs, norms = [*consts, *carry, *slices[0]], slices[1]
        deeper = {}
        for place, norm in norms.items():
            var = body.jaxpr.invars[place]
            if _only_read(body.jaxpr, var) is None:
                inputs[place] = _read_with_norm(_itself, None, inputs[place], None, norm)
            else:
                deeper[var] = norm
        results = _evaluate(body, inputs, deeper)
        return results[: len(first)], results[len(first) :]

    return scan_again(equation, step, first, (stacks, taps))


def _product_with_tap(equation: Any, operands: list[Array], taps: dict[int, Array]) -> list[Array]:
    ((place, norm),) = taps.items()
    options, dtype = equation.params, norm.dtype
    contracted = options["dimension_numbers"][0][1 - place]

    def product(weight: Array, other: Array) -> Array:
        pair = (weight, other) if place == 0 else (other, weight)
        return equation.primitive.bind(*pair, **options)

    def gram_norm(other: Array, cotangent: Array) -> Float[Array, ""]:
        free = [axis for axis in range(other.ndim) if axis not in contracted]
        inputs = jnp.transpose(other, (*free, *contracted)).astype(dtype)
        if place == 0:  # the weight's own axes come first in the result
            ahead = range(cotangent.ndim - len(free), cotangent.ndim)
            cotangent = jnp.moveaxis(cotangent, ahead, range(len(free)))
        cotangents = cotangent.astype(dtype).reshape(positions, -1)
        inputs = inputs.reshape(positions, -1)
        return _at_least_zero(_gram(inputs, inputs) * _gram(cotangents, cotangents))

    weight, other = operands[place], operands[1 - place]
    inner = math.prod(other.shape[axis] for axis in contracted)
    positions, outer = other.size // inner, weight.size // inner
    cheap = (
        GRAM_SHARE * positions**2 <= weight.size
        and positions * (inner + outer) <= GRAM_WORK * weight.size
    )
    return [_read_with_norm(product, gram_norm if cheap else None, weight, other, norm)]


def _lookup_with_tap(equation: Any, operands: list[Array], taps: dict[int, Array]) -> list[Array]:
    (norm,) = taps.values()
    dtype, options = norm.dtype, equation.params

    def rows(table: Array, indices: Array) -> Array:
        return equation.primitive.bind(table, indices, **options)

    def gram_norm(indices: Array, cotangent: Array) -> Float[Array, ""]:
        ids, inside = looked_up(equation, indices.reshape(-1, 1))
        cotangents = cotangent.reshape(len(ids), -1).astype(dtype)
        return shared_rows_norm(jnp.where(inside[:, None], cotangents, 0), ids)

    table, indices = operands
    cheap = GRAM_SHARE * indices.size**2 <= table.size
    return [_read_with_norm(rows, gram_norm if cheap else None, table, indices, norm)]


def shared_rows_norm(
    cotangents: Float[Array, "positions d"],
    ids: Int[Array, " positions"],
    weights: Float[Array, "ids d"] | None = None,
) -> Float[Array, ""]:
    """Return ``sum_{t,s} [id_t = id_s] u_t . u_s``: the squared norm of u scattered into a table.

    Args:
        cotangents: u, of every position.
        ids: which row each position has read.
        weights: optional weights of the table's entries.

    Example:
        >>> shared_rows_norm(jnp.array([[1.0], [2.0], [4.0]]), jnp.array([0, 0, 1]))
        Array(25., dtype=float32)
    """
    weighted = cotangents if weights is None else cotangents * weights[ids].astype(cotangents.dtype)
    return _at_least_zero(jnp.where(ids[:, None] == ids, _gram(weighted, cotangents), 0))


def _gram(left: Float[Array, "t d"], right: Float[Array, "s d"]) -> Float[Array, "t s"]:
    # What cancels in their sum must not have been rounded to less than float32 before.
    return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)


def _at_least_zero(terms: Float[Array, "t s"]) -> Float[Array, ""]:
    """Return the sum of terms that may cancel, where it is known to be a square."""
    return jnp.maximum(accurate_sum(terms), 0)


_READERS = {
    "scan": _scan_with_taps,
    "dot_general": _product_with_tap,
    "gather": _lookup_with_tap,
}


def _itself(weight: Array, _: None) -> Array:
    return weight


def _read_with_norm(
    function: Callable[[Array, Any], Array],
    gram_norm: Callable[[Any, Array], Float[Array, ""]] | None,
    weight: Array,
    other: Any,
    norm: Float[Array, ""],
) -> Array:
    """Return ``function(weight, other)``; going back, `norm` collects that of the gradient.

    Without a `gram_norm`, the gradient of each sample is made for it.
    """
    dtype = norm.dtype

    def gradient(weight: Array, other: Any, cotangent: Array) -> Array:
        return jax.vjp(lambda weight: function(weight, other), weight)[1](cotangent)[0]

    def squared_norm(weight: Array, other: Any, cotangent: Array) -> Float[Array, ""]:
        if gram_norm is not None:
            return gram_norm(other, cotangent)
        return accurate_sum(jnp.square(gradient(weight, other, cotangent).astype(dtype)))

    @jax.custom_vjp
    def read(weight: Array, other: Any, norm: Array) -> Array:
        del norm
        return function(weight, other)

    def forward(weight: Array, other: Any, norm: Array) -> tuple[Array, tuple[Array, Any]]:
        del norm
        return function(weight, other), (weight, other)

    def backward(stored: tuple[Array, Any], cotangent: Array) -> tuple[Array, Any, Array]:
        weight, other = stored
        behind = jax.vjp(lambda other: function(weight, other), other)[1](cotangent)[0]
        of_batch = _summed_over_batch(gradient, function)(weight, other, cotangent)
        return of_batch, behind, squared_norm(weight, other, cotangent)

    read.defvjp(forward, backward)
    return read(weight, other, norm)


def _summed_over_batch(
    gradient: Callable[..., Array], function: Callable[[Array, Any], Array]
) -> Callable[..., Array]:
    """Return the gradient; under `jax.vmap` over samples their sum, without making each."""
    of_one = jax.custom_batching.custom_vmap(gradient)

    @of_one.def_vmap
    def of_batch(
        axis_size: int, in_batched: list[Any], weight: Array, other: Any, cotangent: Array
    ) -> tuple[Array, bool]:
        weights, others, cotangents = in_batched
        if weights:  # an axis over networks, not over samples
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            return jax.vmap(gradient, axes)(weight, other, cotangent), True
        if not cotangents:
            cotangent = jnp.broadcast_to(cotangent, (axis_size, *cotangent.shape))
        along = jax.tree.map(lambda batched: 0 if batched else None, others)

        def all_samples(weight: Array) -> Array:
            return jax.vmap(function, (None, along), axis_size=axis_size)(weight, other)

        return jax.vjp(all_samples, weight)[1](cotangent)[0], False

    return of_one
