"""From a Flax module to the pair ``(apply_fn, params)`` that the measures take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lnpjax._checks import require
from lnpjax.assumptions import ApplyFn


def snapshot(tree: PyTree) -> PyTree:
    """Copy a pytree, so that nothing that happens to the original later changes it.

    The nodes (Flax NNX variables, dictionaries) are new ones, and so are the arrays: a training
    step may write to NumPy arrays, or give the buffers of others away (donate them).

    Args:
        tree: any pytree; leaves that are not arrays, such as shapes, stay as they are.

    Returns:
        The copy.

    Example:
        >>> statistics = {"mean": np.zeros(2)}
        >>> frozen = snapshot(statistics)
        >>> statistics["mean"] += 1
        >>> frozen["mean"]
        array([0., 0.])
    """

    return jax.tree.map(
        lambda leaf: jnp.copy(leaf) if isinstance(leaf, jax.Array) else leaf, _with_own_numpy(tree)
    )


def split_module(module: Any) -> tuple[Any, PyTree, PyTree]:
    """Take a Flax NNX module apart, and share nothing with it that it can change.

    `flax.nnx.split` hands out the module's own variables, which follow it as it trains.

    Args:
        module: the module.

    Returns:
        ``(graphdef, params, rest)`` for `flax.nnx.merge`: its `nnx.Param`, whose arrays are the
        module's own, and everything else, whose arrays are copies.

    Example:
        >>> from flax import nnx
        >>> module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> _, params, _ = split_module(module)
        >>> params["bias"] is module.bias
        False
    """
    from flax import nnx

    graphdef, params, rest = nnx.split(nnx.clone(module), nnx.Param, ...)
    return graphdef, _with_own_numpy(params), snapshot(rest)


def _with_own_numpy(tree: PyTree) -> PyTree:
    """Copy what can be written to in place; the arrays of JAX cannot."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def from_nnx(module: Any, *, method: str = "__call__", **keywords: Any) -> tuple[ApplyFn, PyTree]:
    """Split a Flax NNX module into a pure function and its parameters.

    Everything that is not an `nnx.Param` (batch statistics, random streams) is frozen at its
    present value, and `params` is the present value of the rest: neither follows the module as it
    trains on. ``nnx.state(module, nnx.Param)`` gives later parameters. Put a module with dropout or batch normalisation into inference mode first
    (``module.eval()``), since per-sample Jacobians need samples that do not interact.

    Args:
        module: the module.
        method: the method that maps inputs to outputs.
        **keywords: passed to that method.

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, inputs)`` and `params` an `nnx.State`.

    Raises:
        TypeError: if `module` is not an NNX module.

    Example:
        >>> from flax import nnx
        >>> import jax.numpy as jnp
        >>> apply_fn, params = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> apply_fn(params, jnp.ones((4, 3))).shape
        (4, 2)
    """
    from flax import nnx

    require(
        isinstance(module, nnx.Module),
        "module",
        expected="a flax.nnx.Module (for flax.linen: from_linen)",
        got=type(module).__name__,
        error=TypeError,
    )
    graphdef, params, rest = split_module(module)

    def apply_fn(params: PyTree, inputs: PyTree) -> Array:
        # Copied: a module that updates its own state (batch statistics) would write to `rest`.
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return getattr(merged, method)(inputs, **keywords)

    return apply_fn, params


def from_linen(
    module: Any, variables: Mapping[str, PyTree], **keywords: Any
) -> tuple[ApplyFn, PyTree]:
    """Split a Flax Linen module and its variables into a pure function and its parameters.

    Collections other than ``"params"`` are frozen at their present value.

    Args:
        module: the module.
        variables: what ``module.init`` returned, or a trained version of it.
        **keywords: passed to ``module.apply`` (``train=False``, ``method=...``).

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, inputs)`` and params the collection
        ``"params"``.

    Raises:
        TypeError: if `module` is not a Linen module.
        ValueError: if `variables` holds no ``"params"``.

    Example:
        >>> import jax, flax.linen as nn, jax.numpy as jnp
        >>> module = nn.Dense(2)
        >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> apply_fn, params = from_linen(module, variables)
        >>> apply_fn(params, jnp.ones((4, 3))).shape
        (4, 2)
    """
    import flax.linen

    require(
        isinstance(module, flax.linen.Module),
        "module",
        expected="a flax.linen.Module (for flax.nnx: from_nnx)",
        got=type(module).__name__,
        error=TypeError,
    )
    require(
        "params" in variables,
        "variables",
        expected="a collection 'params'",
        got=f"the collections {sorted(variables)}",
    )
    frozen = snapshot({name: value for name, value in variables.items() if name != "params"})

    def apply_fn(params: PyTree, inputs: PyTree) -> Array:
        return module.apply({"params": params, **frozen}, inputs, **keywords)

    return apply_fn, variables["params"]
