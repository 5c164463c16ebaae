"""What holds within the library, whatever JAX has been set to around it.

JAX can be set to refuse what the library does on purpose, and inside `jax.shard_map` it tells
arrays apart by the devices they differ between. `entry_point` makes a function one operation in all
of these surroundings, as JAX's own are:

- `jax_numpy_rank_promotion` and `jax_numpy_dtype_promotion` hold for what calls it, not within.
- `jax_debug_nans` and `jax_debug_infs` look at what it returns. NaN there stands for what is
  unknown; see `unknown`.
- Inside `jax.shard_map` all that it is given varies over the same devices. Otherwise the pullback
  of a shared parameter would sum over all devices, and the norm of one sample's gradient would be
  that of several samples.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, PyTree

from lnpjax._base.checks import concrete
from lnpjax._base.meshes import on_any_mesh
from lnpjax.status import Status

Function = TypeVar("Function", bound=Callable[..., Any])
Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class _Refused:
    """What the caller has told JAX to refuse in results."""

    nans: bool
    infs: bool

    @classmethod
    def now(cls) -> _Refused:
        config: Any = jax.config  # whose settings are not in its type
        return cls(nans=config.jax_debug_nans, infs=config.jax_debug_infs)


_outside: contextvars.ContextVar[_Refused | None] = contextvars.ContextVar("outside", default=None)
"""What the caller of the outermost entry point refuses; `None` outside of all."""


def unknown() -> float:
    """Return the number that stands for what is unknown: not measured, or 0/0.

    NaN; where `jax_debug_nans` refuses that, infinity, which no measured number is; where
    `jax_debug_infs` refuses that too, ``2**127``. Either flag has to be set before a function is
    compiled: JAX does not key its compiled programs by it.

    Example:
        >>> with jax.debug_nans(True):
        ...     unknown()
        inf
    """
    refused = _outside.get() or _Refused.now()
    if not refused.nans:
        return math.nan
    return 2.0**127 if refused.infs else math.inf


def entry_point(function: Function) -> Function:
    """Make a function one operation of JAX, whatever JAX has been set to around it.

    Args:
        function: whose arrays are among its arguments, in any pytree.

    Returns:
        The same function, on meshes with explicit axes (`lnpjax._base.meshes`), inside
        `jax.shard_map`, and in JAX's strict modes.

    Example:
        >>> with jax.numpy_rank_promotion("raise"):
        ...     entry_point(lambda x: x + jnp.ones((2, 2)))(jnp.ones(2)).shape
        (2, 2)
    """
    placed = on_any_mesh(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _outside.get() is not None:
            return placed(*args, **kwargs)
        args, kwargs = vary_alike((args, kwargs))
        refused = _Refused.now()
        with _settings(refused):
            results = placed(*args, **kwargs)
            if refused.nans:
                results = _marked(results, unknown())
        _refuse(function, results, refused)
        return results

    return wrapped  # type: ignore[return-value]  # functools.wraps keeps the signature


@contextlib.contextmanager
def _settings(refused: _Refused) -> Iterator[None]:
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False) if refused.nans else contextlib.nullcontext(),
        jax.debug_infs(False) if refused.infs else contextlib.nullcontext(),
    ):
        token = _outside.set(refused)
        try:
            yield
        finally:
            _outside.reset(token)


def has_status(node: Any) -> bool:
    """Return whether a node of a pytree is a result that says what is wrong with it."""
    return dataclasses.is_dataclass(node) and hasattr(node, "status")


def _marked(results: Tree, mark: float) -> Tree:
    """Put `mark` in place of NaN, except where a status says that it is a failure."""

    def settle(node: Any) -> Any:
        if not has_status(node):
            return node
        failed = (node.status & jnp.int32(Status.NON_FINITE)) != 0

        def settle_leaf(leaf: Any) -> Any:
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                return leaf
            # Degrees of freedom are infinite where nothing was drawn.
            refused = jnp.isnan(leaf) | (jnp.isinf(leaf) & math.isfinite(mark))
            return jnp.where(refused & ~failed, jnp.asarray(mark, leaf.dtype), leaf)

        fields = {
            field.name: jax.tree.map(settle, getattr(node, field.name), is_leaf=has_status)
            for field in dataclasses.fields(node)
        }
        return jax.tree.map(settle_leaf, dataclasses.replace(node, **fields))

    return jax.tree.map(settle, results, is_leaf=has_status)


def _refuse(function: Callable[..., Any], results: PyTree, refused: _Refused) -> None:
    """Raise as JAX would, had all been one compiled program."""
    tests = [("nan", np.isnan)] * refused.nans + [("inf", np.isinf)] * refused.infs
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(results) if tests else ():
        if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(
            jnp.result_type(leaf), jnp.floating
        ):
            continue
        for name, test in tests:
            if np.any(test(np.asarray(leaf, np.float64))):
                raise FloatingPointError(
                    f"invalid value ({name}) encountered in the result of {function.__qualname__}"
                    f"{jax.tree_util.keystr(key_path)}"
                )


def vary_alike(tree: Tree) -> Tree:
    """Let all arrays vary over the axes of `jax.shard_map` that any of them varies over.

    Args:
        tree: arrays, and whatever else.

    Returns:
        The same values; the tree itself outside of `jax.shard_map`.

    Example:
        >>> vary_alike({"weights": 1.0, "inputs": 2.0})
        {'weights': 1.0, 'inputs': 2.0}
    """
    axes: set[Any] = set()
    for leaf in jax.tree.leaves(tree):
        axes |= varying_axes(leaf)
    if not axes:
        return tree

    def vary(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        missing = tuple(sorted(axes - varying_axes(leaf), key=str))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)


def only_where(
    condition: Bool[ArrayLike, ""], compute: Callable[[], Array], otherwise: Array, *, given: PyTree
) -> Array:
    """Compute an array where a condition holds, at its cost only there.

    Under `jax.vmap` with a condition for each, it is computed for all.

    Args:
        condition: known or not; the same on all devices of a `jax.shard_map`.
        compute: gives the array.
        otherwise: what to return where it does not hold, of the same shape and dtype.
        given: arrays that vary as the result does, inside `jax.shard_map`.

    Example:
        >>> inverse = lambda x: only_where(x > 0, lambda: 1 / x, jnp.zeros(()), given=x)
        >>> float(inverse(4.0)), float(jax.jit(inverse)(4.0)), float(inverse(0.0))
        (0.25, 0.25, 0.0)
    """

    def varied(array: Array) -> Array:
        return vary_alike((array, given))[0]

    known = concrete(condition)
    if known is not None:
        return varied(compute() if known else otherwise)
    return jax.lax.cond(condition, lambda: varied(compute()), lambda: varied(otherwise))


def varying_axes(leaf: Any) -> frozenset[Any]:
    """Return the axes over which devices hold different arrays, as far as JAX keeps track."""
    if not isinstance(leaf, jax.core.Tracer):
        return frozenset()
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)  # its name differs between releases
    return getattr(kind, "vma", frozenset()) if manual is None else manual.varying
