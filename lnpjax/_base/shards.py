"""One batch, of which every device holds a part, inside `jax.shard_map` and `jax.pmap`.

Outside of them the compiler splits a program over devices, and nothing here is needed. Inside,
each device runs the program on its own part, and what is meant of the whole batch has to be put
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree, Shaped

from lnpjax._base.checks import require
from lnpjax._base.entry_points import varying_axes
from lnpjax.status import Status

AxisName: TypeAlias = str | Sequence[str] | None
"""The axes of `jax.shard_map` or `jax.pmap` over which a batch is split.

``()`` says that every device measures a batch of its own. `None` says nothing, which is an error
where there are such axes.
"""
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Shards:
    """The parts of a batch; made by `shards_over`. Without axes there is one, and nothing happens.

    Attributes:
        axes: the names of the axes.
    """

    axes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many parts there are."""
        return jax.lax.axis_size(self.axes) if self.axes else 1

    def check_split(self, argument: str, batch: PyTree) -> None:
        """Refuse a batch that is the same on all devices of an axis, and would count repeatedly.

        `jax.shard_map` knows, unless it is told not to keep track (``check_vma=False``);
        `jax.pmap` does not.

        Args:
            argument: its name.
            batch: arrays.

        Raises:
            ValueError: if it is.
        """
        for name in self.axes:
            known = name in varying_axes(jax.lax.axis_index(name))
            split = any(name in varying_axes(leaf) for leaf in jax.tree.leaves(batch))
            require(
                split or not known or jax.lax.axis_size(name) == 1,
                argument,
                expected=f"other samples on every device of {name!r}, which axis_name names",
                got="the same on all of them",
            )

    def total(self, tree: Tree) -> Tree:
        """Add up what each part contributes."""
        return jax.lax.psum(tree, self.axes) if self.axes else tree

    def largest(self, array: Array) -> Array:
        """Return the largest of each part's."""
        return jax.lax.pmax(array, self.axes) if self.axes else array

    def rows(self, array: Shaped[Array, "part ..."]) -> Shaped[Array, "whole ..."]:
        """Put the rows of all parts below each other; every device then has them all."""
        if not self.axes:
            return array
        # A sum, since JAX takes what `all_gather` gives to differ between devices.
        places = jnp.zeros((self.count, *array.shape), _summable(array).dtype)
        places = places.at[jax.lax.axis_index(self.axes)].set(_summable(array))
        return self.total(places).reshape(-1, *array.shape[1:]).astype(array.dtype)

    def gathered(self, argument: str, batch: Tree) -> Tree:
        """Put a batch together, of which every device then has all samples.

        Raises:
            ValueError: as `check_split`.
        """
        self.check_split(argument, batch)
        return jax.tree.map(self.rows, batch)

    def flags(self, status: Int[Array, ""]) -> Int[Array, ""]:
        """Return the flags that any part has."""
        if not self.axes:
            return status
        bits = np.array([int(flag) for flag in Status], np.int32)
        found = self.largest((status & bits != 0).astype(jnp.int32))
        return jnp.sum(found * bits).astype(status.dtype)

    def key(self, key: Key[Array, ""]) -> Key[Array, ""]:
        """Return a key of each part's own."""
        if not self.axes:
            return key
        return jax.random.fold_in(key, jax.lax.axis_index(self.axes))

    def replicated(self, tree: Tree) -> Tree:
        """Let JAX know that every device has the same numbers: those of the first."""
        if not self.axes:
            return tree
        first = jax.lax.axis_index(self.axes) == 0

        def of_first(leaf: Array) -> Array:
            return self.total(jnp.where(first, _summable(leaf), 0)).astype(leaf.dtype)

        return jax.tree.map(of_first, tree)


def _summable(array: Array) -> Array:
    """Return an array of numbers: truth values cannot be added up over devices."""
    return array.astype(jnp.int32) if array.dtype == jnp.bool_ else array


def shards_over(axis_name: AxisName) -> Shards:
    """Return the parts of a batch, or refuse to measure one of them as if it were all.

    Args:
        axis_name: see `AxisName`.

    Returns:
        The `Shards`.

    Raises:
        ValueError: if an axis is bound by `jax.shard_map` or `jax.pmap` and not named, or the other
            way round.

    Example:
        >>> shards_over(None).count
        1
        >>> shards_over("data")
        Traceback (most recent call last):
            ...
        ValueError: axis_name: expected None outside of jax.shard_map and jax.pmap, got 'data'
    """
    bound = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    named = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    if axis_name is None and bound:
        require(
            False,
            "axis_name",
            expected=f"{bound[0]!r}, for one measurement of the batches of all devices, or () for "
            "one of each device's own",
            got=f"None inside jax.shard_map or jax.pmap over {', '.join(map(repr, bound))}",
        )
    for name in named:
        try:
            jax.lax.axis_size(name)
        except NameError:
            among = (
                f"among the axes {bound}" if bound else "None outside of jax.shard_map and jax.pmap"
            )
            require(False, "axis_name", expected=among, got=repr(name))
    return Shards(named)
