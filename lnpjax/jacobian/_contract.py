"""What the measures assume of a model, checked before they rely on it.

A model is ``apply_fn(params, inputs) -> outputs`` with one array of outputs, a row per sample,
and a sample's row depends on that sample alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require

ApplyFn: TypeAlias = Callable[[PyTree, PyTree], Array]
LossFn: TypeAlias = Callable[[Array, PyTree], Array]
Batch: TypeAlias = tuple[PyTree, PyTree]
Measure = TypeVar("Measure")


def with_state(measure: Measure, state: PyTree | None, *, network: str = "apply_fn") -> Measure:
    """Return a measure whose network has the state that goes with its parameters.

    Args:
        measure: a dataclass that holds the network.
        state: such as batch statistics; read, and neither trained nor written to. `None` for none.
        network: the field with ``apply_fn(params, inputs, state=state)``.

    Returns:
        The measure of ``(params, inputs) -> outputs``.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Measure:
        ...     apply_fn: Callable[..., float]
        >>> with_state(Measure(lambda w, x, state: w * x + state), 1.0).apply_fn(2.0, 3.0)
        7.0
    """
    if state is None:
        return measure
    bound = functools.partial(getattr(measure, network), state=state)
    return dataclasses.replace(measure, **{network: bound})  # type: ignore[type-var]


def check_batch(
    apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, argument: str = "inputs"
) -> int:
    """Check that ``apply_fn(params, inputs)`` is one array with a row per sample.

    Works on shapes alone: nothing is computed.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        inputs: any pytree whose leaves lead with B.
        argument: what to call the inputs in messages.

    Returns:
        The number of samples.

    Raises:
        TypeError: if the outputs are not one real floating-point array.
        ValueError: if leading axes disagree or the batch is empty.

    Example:
        >>> check_batch(lambda p, x: {"logits": p * x}, 1.0, jnp.ones(3))
        Traceback (most recent call last):
            ...
        TypeError: outputs: expected one array (B, ...) from apply_fn, got dict with keys
        ['logits']; select it: apply_fn=lambda params, inputs: model(params, inputs)['logits']; for
        all of them together, lnpjax.jacobian.join_outputs
    """
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    require(bool(leaves), argument, expected="a pytree with at least one array", got=repr(inputs))
    sizes = {}
    for key_path, leaf in leaves:
        name = f"{argument}/{parameters.path_of(key_path)}".rstrip("/")
        shape = jnp.shape(leaf)
        require(
            bool(shape), name, expected="an array whose first axis is the sample", got="a scalar"
        )
        sizes[name] = shape[0]
    require(
        len(set(sizes.values())) == 1, argument, expected="leaves with equal first axes", got=sizes
    )
    num_samples = next(iter(sizes.values()))
    require(num_samples >= 1, argument, expected="at least one sample", got="an empty batch")
    parameters.check_leaves(params)
    outputs = result_shapes("apply_fn", apply_fn, params=params, inputs=inputs)
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise TypeError(
            f"outputs: expected one array (B, ...) from apply_fn, got {_described(outputs)}"
        )
    require(
        outputs.ndim >= 1 and outputs.shape[0] == num_samples,
        "outputs",
        expected=f"a first axis of {num_samples}, the number of samples in {argument}",
        got=f"shape {outputs.shape}"
        + ("" if outputs.ndim else " (a model gives a row for each sample; a loss comes after it)"),
    )
    require(
        outputs.size > 0,
        "outputs",
        expected="at least one per sample",
        got=f"shape {outputs.shape}",
    )
    require(
        jnp.issubdtype(outputs.dtype, jnp.floating),
        "outputs",
        expected="a real floating-point array",
        got=f"dtype {outputs.dtype}",
        error=TypeError,
    )
    return num_samples


def result_shapes(argument: str, function: Callable[..., Any], **given: PyTree) -> PyTree:
    """Return the shapes that a function returns; if it fails, say what it was given.

    Args:
        argument: what the function is called in messages.
        function: the model, or the loss.
        **given: its arguments, in order, by the names that they have in messages.

    Returns:
        As `jax.eval_shape`: nothing is computed.

    Raises:
        TypeError, ValueError: in place of whatever the function raises, which stays the cause.

    Example:
        >>> params, inputs = {"w": jnp.ones((3, 2))}, jnp.ones(3)
        >>> result_shapes("apply_fn", jnp.matmul, params=params, inputs=inputs)
        Traceback (most recent call last):
            ...
        TypeError: apply_fn: expected params and inputs that it takes, got params {w: float32[3,2]},
        inputs float32[3], and so TypeError: matmul requires ndarray or scalar arguments, ...
    """
    try:
        return jax.eval_shape(function, *given.values())
    except Exception as error:  # a model raises whatever it likes
        if _OWN_ERROR.match(str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{argument}: expected {' and '.join(given)} that it takes, got "
            + ", ".join(f"{name} {_listed_shapes(tree)}" for name, tree in given.items())
            + f", and so {type(error).__name__}: {error}"
        ) from error


_OWN_ERROR = re.compile(r"[\w/.\[\]]+: expected ")
"""How messages begin that name the argument already."""


def _listed_shapes(tree: PyTree, most: int = 24) -> str:
    """Write out the shapes of the leaves by path, of so many at most."""
    shapes = [
        f"{name}: {jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"
        for name, leaf in zip(parameters.paths(tree), jax.tree.leaves(tree), strict=True)
    ]
    if len(shapes) == 1 and shapes[0].startswith(": "):
        return shapes[0].removeprefix(": ")
    more = f", ... ({len(shapes)} in all)" if len(shapes) > most else ""
    return "{" + ", ".join(shapes[:most]) + more + "}"


class SingleSamplesRefusedError(ValueError):
    """A network cannot be passed its samples one at a time."""


@contextlib.contextmanager
def one_sample_at_a_time() -> Iterator[None]:
    """Say what was tried, and what serves instead, where a network does not take single samples.

    Raises:
        SingleSamplesRefusedError: from whatever is raised within.

    Example:
        >>> with one_sample_at_a_time():
        ...     jnp.ones((1, 3)).reshape(2, -1)
        Traceback (most recent call last):
            ...
        lnpjax.jacobian._contract.SingleSamplesRefusedError: apply_fn: expected a network that takes
        one sample at a time (as batches of one, under jax.vmap), since ...
    """
    try:
        yield
    except SingleSamplesRefusedError:
        raise
    except Exception as error:  # whatever the network, or what it is made of, raises
        raise SingleSamplesRefusedError(
            "apply_fn: expected a network that takes one sample at a time (as batches of one, "
            "under jax.vmap), since Jacobians of single samples are asked for (for lnp and "
            "squared_jacobian_norm, estimator=GlobalHutchinson(...) takes the batch as it is; for "
            f"entk, method='batch'), got {type(error).__name__}: {error}"
        ) from error


def measured_batch(pool: Batch | None, batch_a: Batch, batch_b: Batch | None) -> tuple[str, Batch]:
    """Return what a measurement looks at: the pool if there is one, else B, else A.

    Returns:
        What the batch is called in messages, and the batch.

    Example:
        >>> measured_batch(None, ("a", None), ("b", None))
        ('batch_b', ('b', None))
    """
    named = (("pool", pool), ("batch_b", batch_b), ("batch_a", batch_a))
    return next((name, batch) for name, batch in named if batch is not None)


def check_pair(argument: str, batch: Any) -> Batch:
    """Refuse a batch that is not a pair.

    Args:
        argument: what the batch is called in messages.
        batch: ``(inputs, targets)``.

    Returns:
        The pair.

    Raises:
        ValueError: if it is not a pair.

    Example:
        >>> check_pair("pool", jnp.ones(3))
        Traceback (most recent call last):
            ...
        ValueError: pool: expected a pair (inputs, targets), got ArrayImpl of 3
    """
    require(
        isinstance(batch, tuple | list) and len(batch) == 2,
        argument,
        expected="a pair (inputs, targets)",
        got=f"{type(batch).__name__}" + (f" of {len(batch)}" if hasattr(batch, "__len__") else ""),
    )
    inputs, targets = batch
    return inputs, targets


def checked_layers(layers: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names of layers as a tuple, and `None` as it is.

    Raises:
        ValueError: if it is one name, which would count as a sequence of letters.

    Example:
        >>> checked_layers(["layers/1", "norm"])
        ('layers/1', 'norm')
    """
    require(not isinstance(layers, str), "layers", expected="a sequence of names", got=repr(layers))
    return None if layers is None else tuple(layers)


def check_training_batch(
    apply_fn: ApplyFn, loss_fn: LossFn, params: PyTree, batch: Any, *, argument: str = "batch"
) -> int:
    """Refuse a batch or a loss that does not fit the model, before anything is computed.

    Args:
        apply_fn: the model.
        loss_fn: ``loss_fn(outputs, targets)``, a mean over samples.
        params: the parameters.
        batch: ``(inputs, targets)``.
        argument: what the batch is called in messages.

    Returns:
        The number of samples.

    Raises:
        TypeError: if the loss is not a floating-point scalar; as `check_batch`.
        ValueError: if `batch` is not a pair, or not all targets have a row per sample; as
            `check_batch`.

    Example:
        >>> check_training_batch(jnp.multiply, lambda outputs, _: outputs.sum(), 1.0, jnp.ones(3))
        Traceback (most recent call last):
            ...
        ValueError: batch: expected a pair (inputs, targets), got ArrayImpl of 3
    """
    inputs, targets = check_pair(argument, batch)
    try:
        num_samples = check_batch(apply_fn, params, inputs, argument=f"{argument}/inputs")
    except (TypeError, ValueError) as error:
        if _is_model(loss_fn, params, inputs):
            raise TypeError(
                "apply_fn: expected the model, got what does not take params and inputs, while "
                "loss_fn does: they are swapped (the order is apply_fn, loss_fn)"
            ) from error
        raise
    for path, leaf in zip(parameters.paths(targets), jax.tree.leaves(targets), strict=True):
        require(
            jnp.shape(leaf)[:1] == (num_samples,),
            f"{argument}/targets/{path}".rstrip("/"),
            expected=f"a first axis of {num_samples}, the number of samples in inputs",
            got=f"shape {jnp.shape(leaf)}",
        )
    outputs = jax.eval_shape(apply_fn, params, inputs)
    loss = result_shapes("loss_fn", loss_fn, outputs=outputs, targets=targets)
    require(
        getattr(loss, "shape", None) == () and jnp.issubdtype(loss.dtype, jnp.floating),
        "loss_fn",
        expected="a floating-point scalar, the mean over samples",
        got=loss,
        error=TypeError,
    )
    return num_samples


def _is_model(function: Callable[..., Any], params: PyTree, inputs: PyTree) -> bool:
    """Return whether a function of parameters and inputs gives a row for each sample."""
    try:
        check_batch(function, params, inputs)
    except Exception:  # whatever it is, it is not a model
        return False
    return True


def _described(outputs: Any) -> str:
    together = "; for all of them together, lnpjax.jacobian.join_outputs"
    hint = "select it: apply_fn=lambda params, inputs: model(params, inputs)"
    if isinstance(outputs, dict):
        keys = list(outputs)
        return f"dict with keys {keys}; {hint}[{keys[0]!r}]{together}" if keys else "an empty dict"
    if isinstance(outputs, tuple) and not hasattr(outputs, "_fields"):
        return f"a tuple of {len(outputs)}; {hint}[0]{together}"
    fields = getattr(outputs, "_fields", None) or [
        field.name for field in getattr(outputs, "__dataclass_fields__", {}).values()
    ]
    name = type(outputs).__name__
    return f"{name} with fields {list(fields)}; {hint}.{fields[0]}" if fields else f"{name}; {hint}"
