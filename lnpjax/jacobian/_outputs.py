"""A chosen part of a network's outputs, as a network of its own.

Explicit kernels grow with the square of the number of outputs. *Spectral Reach* (app. D.5)
therefore keeps K vocabulary entries at S positions of a language model, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import require
from lnpjax.jacobian._contract import ApplyFn

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


def restrict(apply_fn: ApplyFn, outputs: OutputSubset) -> ApplyFn:
    """Return the network that has only the chosen outputs, as ``(B, m)``.

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
        return select_outputs(apply_fn(params, inputs), outputs)

    return apply_restricted


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
