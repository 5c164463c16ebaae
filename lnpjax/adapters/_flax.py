"""From a Flax module to a pure function, its parameters and its state."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax.jacobian import ApplyFn

MODULE = "the module's parameters"
"""What parameters have to fit, in messages."""


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


@contextlib.contextmanager
def naming_misfits(params: PyTree, shapes: PyTree) -> Iterator[None]:
    """Blame a failure on the first parameter that is not what the module has, if there is one.

    Args:
        params: what the module is run with.
        shapes: of its own parameters.

    Raises:
        ValueError: in place of another exception, which stays the cause.

    Example:
        >>> with naming_misfits({"w": jnp.ones(2)}, {"w": jnp.ones(3)}):
        ...     jnp.ones(2) + jnp.ones(3)
        Traceback (most recent call last):
            ...
        ValueError: params/w: expected shape (3,), got shape (2,)
    """
    try:
        yield
    except Exception as error:  # a module raises whatever it likes
        try:
            parameters.fit("params", params, shapes, of=MODULE)
        except (TypeError, ValueError) as misfit:
            raise misfit from error
        raise


def fit_state(state: PyTree, own: PyTree) -> PyTree:
    """Bring what a module has besides parameters into the structure that it had when it was split.

    Args:
        state: given to a measure or to the module's function.
        own: the module's.

    Returns:
        `state` in the structure of `own`.

    Raises:
        ValueError: if it has other parts, or one of another shape, which might broadcast.

    Example:
        >>> fit_state({"mean": jnp.ones(1)}, {"mean": jnp.ones(3)})
        Traceback (most recent call last):
            ...
        ValueError: state/mean: expected shape (3,), got shape (1,)
    """
    return parameters.fit("state", state, own, of="the module's state")


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleParts:
    """A Flax NNX module without its parameters, made by `split_module`.

    Attributes:
        graphdef: its structure.
        rest: what it holds besides parameters.
        shapes: of its parameters.
    """

    graphdef: Any
    rest: PyTree
    shapes: PyTree

    @contextlib.contextmanager
    def run_with(self, params: PyTree, state: PyTree | None = None) -> Iterator[Any]:
        """Give the module with other values of its parameters, for one call.

        Failures name the parameter that does not fit, as `naming_misfits` does.

        Args:
            params: the parameters.
            state: the rest; `None` for what it was when the module was split.

        Raises:
            ValueError: if `params` or `state` are of another model. Flax would hand out leaves in
                their order, whatever their names.
        """
        from flax import nnx

        rest = self.rest if state is None else fit_state(state, self.rest)
        if parameters.paths(params) != parameters.paths(self.shapes):
            params = parameters.fit("params", params, self.shapes, of=MODULE)
        with naming_misfits(params, self.shapes):
            # Copied: a module that updates its own state (batch statistics) would write to `rest`.
            yield nnx.merge(self.graphdef, params, rest, copy=True)


def split_module(module: Any, *, for_linen: str = "from_linen") -> tuple[ModuleParts, PyTree]:
    """Take a Flax NNX module apart, and share nothing with it that it can change.

    `flax.nnx.split` hands out the module's own variables, which follow it as it trains.

    Args:
        module: the module.
        for_linen: the function that takes Linen modules, for the message.

    Returns:
        Its parts, and its parameters (`nnx.Param`), whose arrays are the module's own; those of
        everything else are copies.

    Raises:
        TypeError: if `module` is not an NNX module.

    Example:
        >>> from flax import nnx
        >>> module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> _, params = split_module(module)
        >>> params["bias"] is module.bias
        False
    """
    from flax import nnx

    require(
        isinstance(module, nnx.Module),
        "module",
        expected=f"a flax.nnx.Module (for flax.linen: {for_linen})",
        got=type(module).__name__,
        error=TypeError,
    )
    graphdef, params, rest = nnx.split(nnx.clone(module), nnx.Param, ...)
    shapes = jax.eval_shape(lambda tree: tree, params)
    return ModuleParts(graphdef, snapshot(rest), shapes), _with_own_numpy(params)


def split_variables(
    module: Any, variables: Mapping[str, PyTree], *, for_nnx: str = "from_nnx"
) -> tuple[dict[str, PyTree], PyTree]:
    """Separate the parameters of a Flax Linen module from its other collections.

    Args:
        module: the module, which is only checked.
        variables: what ``module.init`` returned, or a trained version of it.
        for_nnx: the function that takes NNX modules, for the message.

    Returns:
        Copies of the other collections, by name, and the collection ``"params"``.

    Raises:
        TypeError: if `module` is not a Linen module.
        ValueError: if `variables` holds no ``"params"``.

    Example:
        >>> import flax.linen as nn
        >>> split_variables(nn.Dense(2), {"params": 1, "batch_stats": 2})
        ({'batch_stats': 2}, 1)
    """
    import flax.linen

    require(
        isinstance(module, flax.linen.Module),
        "module",
        expected=f"a flax.linen.Module (for flax.nnx: {for_nnx})",
        got=type(module).__name__,
        error=TypeError,
    )
    require(
        "params" in variables,
        "variables",
        expected="a collection 'params'",
        got=f"the collections {sorted(variables)}",
    )
    rest = {name: value for name, value in variables.items() if name != "params"}
    return snapshot(rest), variables["params"]


def _with_own_numpy(tree: PyTree) -> PyTree:
    """Copy what can be written to in place; the arrays of JAX cannot."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def _warn_of_statistics(names: list[str]) -> None:
    """Say that statistics which training moves are frozen, unless the caller has decided so."""
    if names:
        warnings.warn(
            f"module: {', '.join(names)} keep their present values, and training moves them. Pass "
            "with_state=True, and the state of every step as state= to the measure (state_of= to "
            "lnpjax.instrument), or with_state=False if they are to stay",
            stacklevel=3,
        )


@overload
def from_nnx(
    module: Any, *, method: str = "__call__", with_state: Literal[True], **keywords: Any
) -> tuple[ApplyFn, PyTree, PyTree]: ...


@overload
def from_nnx(
    module: Any,
    *,
    method: str = "__call__",
    with_state: Literal[False] | None = None,
    **keywords: Any,
) -> tuple[ApplyFn, PyTree]: ...


def from_nnx(
    module: Any, *, method: str = "__call__", with_state: bool | None = None, **keywords: Any
) -> tuple[ApplyFn, PyTree] | tuple[ApplyFn, PyTree, PyTree]:
    """Split a Flax NNX module into a pure function and its parameters.

    `params` is the present value of its parameters (`nnx.Param`), and everything else (batch
    statistics, random streams) is its state, frozen at its present value: neither follows the
    module as it trains on. ``nnx.state(module, nnx.Param)`` gives later parameters, and
    ``nnx.state(module, nnx.Not(nnx.Param))`` a later state.

    Put a module with dropout or batch normalisation into inference mode first (``module.eval()``),
    since per-sample Jacobians need samples that do not interact: what is measured then is the
    network whose statistics are those of the measured step.

    Args:
        module: the module.
        method: the method that maps inputs to outputs.
        with_state: whether to return the state too, for modules that are measured as they train.
            By default it is not, and batch statistics are warned of.
        **keywords: passed to that method.

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, inputs, state=None)`` and `params` an
        `nnx.State`; or ``(apply_fn, params, state)``.

    Raises:
        TypeError: if `module` is not an NNX module.
        ValueError: when called, if `state` has other parts than the module's, or other shapes.

    Example:
        >>> from flax import nnx
        >>> import jax.numpy as jnp
        >>> apply_fn, params = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> apply_fn(params, jnp.ones((4, 3))).shape
        (4, 2)
    """
    from flax import nnx

    parts, params = split_module(module)
    if with_state is None:
        statistics = nnx.state(module, nnx.BatchStat)
        _warn_of_statistics(parameters.paths(statistics))

    def apply_fn(params: PyTree, inputs: PyTree, state: PyTree | None = None) -> Array:
        with parts.run_with(params, state) as own:
            return getattr(own, method)(inputs, **keywords)

    return (apply_fn, params, snapshot(parts.rest)) if with_state else (apply_fn, params)


@overload
def from_linen(
    module: Any,
    variables: Mapping[str, PyTree],
    *,
    with_state: Literal[True],
    **keywords: Any,
) -> tuple[ApplyFn, PyTree, dict[str, PyTree]]: ...


@overload
def from_linen(
    module: Any,
    variables: Mapping[str, PyTree],
    *,
    with_state: Literal[False] | None = None,
    **keywords: Any,
) -> tuple[ApplyFn, PyTree]: ...


def from_linen(
    module: Any,
    variables: Mapping[str, PyTree],
    *,
    with_state: bool | None = None,
    **keywords: Any,
) -> tuple[ApplyFn, PyTree] | tuple[ApplyFn, PyTree, dict[str, PyTree]]:
    """Split a Flax Linen module and its variables into a pure function and its parameters.

    Collections other than ``"params"`` are the module's state, frozen at their present value.

    Args:
        module: the module.
        variables: what ``module.init`` returned, or a trained version of it.
        with_state: whether to return the state too, for modules that are measured as they train.
            By default it is not, and batch statistics are warned of.
        **keywords: passed to ``module.apply`` (``train=False``, ``method=...``).

    Returns:
        ``(apply_fn, params)`` with ``apply_fn(params, inputs, state=None)`` and params the
        collection ``"params"``; or ``(apply_fn, params, state)`` with `state` the other
        collections, by name.

    Raises:
        TypeError: if `module` is not a Linen module.
        ValueError: if `variables` holds no ``"params"``; when called, if `state` has other parts
            than the module's, or other shapes.

    Example:
        >>> import jax, flax.linen as nn, jax.numpy as jnp
        >>> module = nn.Dense(2)
        >>> variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> apply_fn, params = from_linen(module, variables)
        >>> apply_fn(params, jnp.ones((4, 3))).shape
        (4, 2)
    """
    frozen, params = split_variables(module, variables)
    shapes = jax.eval_shape(lambda tree: tree, params)
    if with_state is None:
        names = parameters.paths(frozen)
        _warn_of_statistics([name for name in names if name.startswith("batch_stats/")])

    def apply_fn(params: PyTree, inputs: PyTree, state: PyTree | None = None) -> Array:
        rest = frozen if state is None else fit_state(state, frozen)
        with naming_misfits(params, shapes):
            return module.apply({"params": params, **rest}, inputs, **keywords)

    return (apply_fn, params, snapshot(frozen)) if with_state else (apply_fn, params)
