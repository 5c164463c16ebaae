"""Other outputs of a network: a chosen part, or those of several heads as one vector.

Explicit kernels grow with the square of the number of outputs. *Spectral Reach* (app. D.5)
therefore keeps K vocabulary entries at S positions of a language model, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax._base.jaxprs import run_with
from lnpjax.jacobian._contract import ApplyFn, LossFn

Indices: TypeAlias = Sequence[int] | Int[np.ndarray, " index"] | None
OutputSubset: TypeAlias = Indices | tuple[Indices, ...]


def select_outputs(
    values: Float[Array, "batch ..."], outputs: OutputSubset
) -> Float[Array, "batch m"]:
    """Take the same m entries from every row.

    Args:
        values: network outputs, or anything of their shape (a loss gradient), ``(B, ...)``.
        outputs: `None` for all entries; where a row has one axis, the indices to keep; where it has
            several, a tuple with the indices to keep along each (`None` for all), of which every
            combination is kept: ``(positions, vocabulary)`` for a language model.

    Returns:
        ``(B, m)``, in row-major order of the axes.

    Raises:
        TypeError: if indices are not integers.
        ValueError: if an index is out of range or repeated, or the number of axes is wrong.

    Example:
        >>> logits = jnp.arange(12.0).reshape(1, 3, 4)
        >>> select_outputs(logits, ([0, 2], [1, 3]))
        Array([[ 1.,  3.,  9., 11.]], dtype=float32)
    """
    for axis, indices in enumerate(_indices_by_axis(jnp.shape(values)[1:], outputs)):
        values = values if indices is None else jnp.take(values, indices, axis=axis + 1)
    return jnp.reshape(values, (jnp.shape(values)[0], -1))


def chosen_outputs(shape: tuple[int, ...], outputs: OutputSubset) -> Int[np.ndarray, " m"]:
    """Return which outputs of a sample are chosen, counted in row-major order.

    Args:
        shape: of the outputs of one sample.
        outputs: see `select_outputs`.

    Example:
        >>> chosen_outputs((3, 4), ([0, 2], [1, 3]))
        array([ 1,  3,  9, 11])
    """
    chosen = np.arange(math.prod(shape)).reshape(shape)
    for axis, indices in enumerate(_indices_by_axis(shape, outputs)):
        chosen = chosen if indices is None else np.take(chosen, indices, axis=axis)
    return chosen.ravel()


def join_outputs(
    model: Callable[[PyTree, PyTree], PyTree],
    loss_fn: Callable[[PyTree, PyTree], Array],
    params: PyTree,
    inputs: PyTree,
) -> tuple[ApplyFn, LossFn]:
    """Join the outputs of a network with several, such as heads, into one vector per sample.

    The kernel of all outputs together is what a loss on all of them trains with: measured one by
    one, heads would not show what they share.

    Args:
        model: ``model(params, inputs)`` gives a pytree of arrays, each ``(B, ...)``.
        loss_fn: ``loss_fn(outputs, targets)`` takes such a pytree; a mean over samples.
        params: of the model, for the shapes of its outputs; nothing is computed.
        inputs: a batch, for the same.

    Returns:
        ``(apply_fn, loss_fn)`` as every measure takes them, with outputs ``(B, m)``: all leaves,
        in the order of `jax.tree.leaves`, promoted to one dtype.

    Raises:
        TypeError: if an output is not a floating-point array.
        ValueError: if one does not have a row for each sample.

    Example:
        >>> def actor_critic(params, x):
        ...     return {"policy": x @ params["policy"], "value": (x @ params["value"])[:, 0]}
        >>> def loss(outputs, targets):
        ...     return jnp.mean(jnp.square(outputs["value"] - targets)) + outputs["policy"].mean()
        >>> params = {"policy": jnp.ones((3, 2)), "value": jnp.ones((3, 1))}
        >>> apply_fn, loss_fn = join_outputs(actor_critic, loss, params, jnp.ones((4, 3)))
        >>> outputs = apply_fn(params, jnp.ones((4, 3)))
        >>> outputs.shape, float(loss_fn(outputs, jnp.zeros(4)))
        ((4, 3), 12.0)
    """
    structure: Any
    shapes, structure = jax.tree.flatten(jax.eval_shape(model, params, inputs))
    size = jnp.shape(jax.tree.leaves(inputs)[0])[0]
    for path, shape in zip(parameters.paths(structure.unflatten(shapes)), shapes, strict=True):
        name = f"outputs/{path}".rstrip("/")
        floating = jnp.issubdtype(shape.dtype, jnp.floating)
        expected = "a floating-point array"
        require(floating, name, expected=expected, got=f"dtype {shape.dtype}", error=TypeError)
        rows = shape.ndim > 0 and shape.shape[0] == size
        expected = f"a first axis of {size}, the number of samples"
        require(rows, name, expected=expected, got=f"shape {shape.shape}")
    widths = [math.prod(shape.shape[1:]) for shape in shapes]

    def apply_fn(params: PyTree, inputs: PyTree) -> Float[Array, "batch m"]:
        leaves = jax.tree.leaves(model(params, inputs))
        return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)

    def joined_loss(outputs: Float[Array, "batch m"], targets: PyTree) -> Float[Array, ""]:
        parts = jnp.split(outputs, np.cumsum(widths)[:-1], axis=1)
        leaves = [
            part.reshape(-1, *shape.shape[1:]).astype(shape.dtype)
            for part, shape in zip(parts, shapes, strict=True)
        ]
        return loss_fn(structure.unflatten(leaves), targets)

    return apply_fn, joined_loss


def restrict(apply_fn: ApplyFn, outputs: OutputSubset) -> ApplyFn:
    """Return the network that has only the chosen outputs, as ``(B, m)``.

    Where the outputs come straight from a product, as the logits of a language model do, the others
    are not computed.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        outputs: which entries of a row to keep; see `select_outputs`.

    Returns:
        An `apply_fn` with outputs ``(B, m)``.

    Example:
        >>> last = restrict(lambda w, x: x * w, [2])
        >>> last(2.0, jnp.arange(6.0).reshape(2, 3)).ravel()
        Array([ 4., 10.], dtype=float32)
    """

    def apply_restricted(params: PyTree, inputs: PyTree) -> Float[Array, "batch m"]:
        if outputs is not None:
            program = jax.make_jaxpr(apply_fn)(params, inputs)
            index = _product_of_outputs(program.jaxpr)
            if index is not None:
                leaves = jax.tree.leaves((params, inputs))
                (chosen,) = run_with(program, leaves, _narrowed(index, outputs))
                return chosen.reshape(len(chosen), -1)
        return select_outputs(apply_fn(params, inputs), outputs)

    return apply_restricted


def _product_of_outputs(jaxpr: Any) -> int | None:
    """Return the product whose results are the outputs of a program, perhaps rounded."""
    made = {result: i for i, equation in enumerate(jaxpr.eqns) for result in equation.outvars}
    operands = [operand for equation in jaxpr.eqns for operand in equation.invars]
    var = jaxpr.outvars[0]
    while len(jaxpr.outvars) == 1 and var in made and not any(other is var for other in operands):
        equation = jaxpr.eqns[made[var]]
        if equation.primitive.name == "dot_general":
            alone = not any(equation.params["dimension_numbers"][1])
            return made[var] if alone else None
        if equation.primitive.name != "convert_element_type":
            return None
        (var,) = equation.invars
        operands = [operand for operand in operands if operand is not var]
    return None


def _narrowed(
    product: int, outputs: OutputSubset
) -> Callable[[int, Any], Callable[[list[Any]], list[Any]] | None]:
    """Let a program compute the chosen entries of a product's results in place of all."""

    def instead(index: int, equation: Any) -> Callable[[list[Any]], list[Any]] | None:
        if index != product:
            return None
        sums, _ = equation.params["dimension_numbers"]
        axes = [
            (side, axis)
            for side, operand in enumerate(equation.invars)
            for axis in range(operand.aval.ndim)
            if axis not in sums[side]
        ]

        def run(operands: list[Any]) -> list[Any]:
            by_axis = _indices_by_axis(equation.outvars[0].aval.shape[1:], outputs)
            for (side, axis), indices in zip(axes[1:], by_axis, strict=True):
                if indices is not None:
                    operands[side] = jnp.take(operands[side], indices, axis=axis)
            return [equation.primitive.bind(*operands, **equation.params)]

        return run

    return instead


def _indices_by_axis(shape: tuple[int, ...], outputs: OutputSubset) -> list[np.ndarray | None]:
    if outputs is None:
        return [None] * len(shape)
    nested = isinstance(outputs, tuple) and not all(
        isinstance(i, int | np.integer) for i in outputs
    )
    by_axis = tuple(outputs) if nested else (outputs,)
    require(
        len(by_axis) == len(shape),
        "outputs",
        expected=f"indices for each of the {len(shape)} axes of one sample's outputs {shape}",
        got=f"indices for {len(by_axis)}",
    )
    return [
        None if indices is None else _checked(np.asarray(indices), axis, size)
        for axis, (indices, size) in enumerate(zip(by_axis, shape, strict=True))
    ]


def _checked(indices: np.ndarray, axis: int, size: int) -> np.ndarray:
    name = f"outputs[{axis}]"
    require(
        indices.ndim == 1 and indices.size > 0 and np.issubdtype(indices.dtype, np.integer),
        name,
        expected="at least one integer index, or None",
        got=f"dtype {indices.dtype}, shape {indices.shape}",
        error=TypeError,
    )
    require(
        bool(np.all((indices >= 0) & (indices < size))),
        name,
        expected=f"indices from 0 to {size - 1}",
        got=f"{int(indices.min())} to {int(indices.max())}",
    )
    require(
        len(np.unique(indices)) == len(indices),
        name,
        expected="every index once (a repeated output makes the kernel singular)",
        got=f"{len(indices)} indices, {len(np.unique(indices))} of them different",
    )
    return indices
