"""Batches in slices, for loops that hold one slice at a time.

A slice takes every n-th sample. Where the batch is spread over devices, each of them then has its
part of every slice, and they work on all slices together; consecutive samples would lie on one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree


def strided(tree: PyTree, num_samples: int, *, last: bool = False) -> PyTree:
    """Take every n-th sample of a batch, so that there are at least that many.

    A strided slice, not indices: those would gather the chosen samples of all devices on each.

    Args:
        tree: arrays with the samples along their first axis.
        num_samples: how many to take at least; all, where there are fewer.
        last: take the last sample and those n, 2n, ... before it, instead of the first and those
            after it.

    Example:
        >>> strided(jnp.arange(10), 3), strided(jnp.arange(10), 3, last=True)
        (Array([0, 3, 6, 9], dtype=int32), Array([0, 3, 6, 9], dtype=int32))
        >>> strided(jnp.arange(6), 3), strided(jnp.arange(6), 3, last=True)
        (Array([0, 2, 4], dtype=int32), Array([1, 3, 5], dtype=int32))
    """

    def take(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        stride = max(1, len(leaf) // num_samples)
        start = (len(leaf) - 1) % stride if last else 0
        return jax.lax.slice_in_dim(leaf, start, None, stride)

    return jax.tree.map(take, tree)


def evenly_spread(tree: PyTree, num_samples: int) -> PyTree:
    """Take some samples of a batch, the first and the last among them.

    Example:
        >>> evenly_spread(jnp.arange(9), 3)
        Array([0, 4, 8], dtype=int32)
    """
    total = jnp.shape(jax.tree.leaves(tree)[0])[0]
    chosen = np.linspace(0, total - 1, min(total, num_samples)).round().astype(int)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], tree)


def sliced(tree: PyTree, num_slices: int, size: int) -> PyTree:
    """Cut arrays into slices ``(num_slices, size, ...)``, filled up with the last sample.

    Args:
        tree: arrays with the samples along their first axis, at most ``num_slices * size``.
        num_slices: how many slices.
        size: samples in each.

    Example:
        >>> sliced(jnp.arange(5), 2, 3)
        Array([[0, 2, 4],
               [1, 3, 4]], dtype=int32)
    """

    def cut(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        missing = num_slices * size - len(leaf)
        if missing:
            padding = jnp.broadcast_to(leaf[-1:], (missing, *leaf.shape[1:]))
            leaf = jnp.concatenate([leaf, padding])
        return jnp.swapaxes(leaf.reshape(size, num_slices, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(cut, tree)


def filled(num_samples: int, num_slices: int, size: int) -> Bool[Array, "slices size"]:
    """Return which places of `sliced` hold a sample, and not a repetition.

    Example:
        >>> filled(5, 2, 3)
        Array([[ True,  True,  True],
               [ True,  True, False]], dtype=bool)
    """
    return sliced(jnp.arange(num_slices * size) < num_samples, num_slices, size)


def unsliced(tree: PyTree, num_samples: int, *, axis: int = 0) -> PyTree:
    """Undo `sliced`, whose two axes are `axis` and the next.

    Example:
        >>> unsliced(sliced(jnp.arange(5), 2, 3), 5)
        Array([0, 1, 2, 3, 4], dtype=int32)
    """

    def join(leaf: Array) -> Array:
        leaf = jnp.swapaxes(leaf, axis, axis + 1)
        leaf = leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])
        return jax.lax.slice_in_dim(leaf, 0, num_samples, axis=axis)

    return jax.tree.map(join, tree)
