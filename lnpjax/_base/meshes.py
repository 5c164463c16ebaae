"""Arrays whose sharding is part of their type.

On a mesh with explicit axes, which `jax.make_mesh` makes by default, every operation must say how
its result is laid out, where that is not evident: gathers, slices, contractions over sharded axes.
A measure has no preference. It leaves the layout of what it computes to the compiler, as it is
left on meshes with automatic axes, and returns results that every device holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import PyTree

Function = TypeVar("Function", bound=Callable[..., Any])


def on_any_mesh(function: Function) -> Function:
    """Let a function take arrays on meshes with explicit axes, as it takes all others.

    The network that it calls is then traced with automatic axes, where it may not ask for layouts
    by `out_sharding=`; `jax.lax.with_sharding_constraint` it may use. Arrays with explicit axes
    that it closes over cannot follow it there: pass them as parameters, outside of `wrt`.

    Args:
        function: whose arrays are among its arguments, in any pytree.

    Returns:
        The same function. Its results are replicated where any argument has explicit axes.

    Example:
        >>> import jax.numpy as jnp
        >>> on_any_mesh(lambda x: x[jnp.argmax(x)])(jnp.array([1.0, 3.0, 2.0]))
        Array(3., dtype=float32)
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> PyTree:
        leaves, treedef = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
        mesh = _explicit_mesh([leaves[i] for i in places])
        if mesh is None:
            return function(*args, **kwargs)

        def call(*arrays: jax.Array) -> PyTree:
            filled = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                filled[place] = array
            structure: Any = treedef
            args, kwargs = structure.unflatten(filled)
            return function(*args, **kwargs)

        with jax.sharding.use_abstract_mesh(mesh):
            automatic = jax.sharding.auto_axes(call, out_sharding=PartitionSpec())
            return automatic(*(leaves[i] for i in places))

    return wrapped  # type: ignore[return-value]  # functools.wraps keeps the signature


def _explicit_mesh(arrays: list[jax.Array]) -> Any:
    """Return the mesh of the first array with an explicit axis, or `None`."""
    for array in arrays:
        mesh = jax.typeof(array).sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None
