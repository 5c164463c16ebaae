"""What the measures assume of a model, checked before they rely on it.

A model is ``apply_fn(params, inputs) -> outputs`` with one array of outputs, a row per sample,
and a sample's row depends on that sample alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._checks import concrete, require
from lnpjax.status import Status, describe_status, flag

ApplyFn: TypeAlias = Callable[[PyTree, PyTree], Array]
LossFn: TypeAlias = Callable[[Array, PyTree], Array]
Batch: TypeAlias = tuple[PyTree, PyTree]


def samples_interact(
    apply_fn: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    inputs: PyTree,
    outputs: PyTree[Float[Array, "batch ..."]],
    *,
    num_together: int | None = None,
) -> PyTree[Bool[Array, ""]]:
    """Whether a sample's output depends on its company in the batch.

    Per-sample Jacobians presume that it does not; batch normalisation in training mode,
    capacity-limited routing and live dropout break that. Samples are passed together and compared
    with what each gave alone, up to rounding.

    Args:
        apply_fn: as in `lnpjax.linearize`, or a function that returns a pytree of such outputs.
        params: likewise.
        inputs: likewise.
        outputs: what each sample gives alone, ``(B, ...)``, from `linearize_samples`.
        num_together: how many samples, evenly spread over the batch, are passed together; `None`
            for all of them.

    Returns:
        A boolean array of shape () for each array of outputs. False for a batch of one. Rows that
        are not finite alone say nothing.

    Cost: a forward pass of `num_together` samples.

    Example:
        >>> centred = lambda w, x: w * (x - x.mean(0))
        >>> inputs = jnp.arange(4.0)[:, None]
        >>> alone = jax.vmap(lambda x: centred(1.0, x[None])[0])(inputs)
        >>> bool(samples_interact(centred, 1.0, inputs, alone))
        True
    """
    num_samples = len(jax.tree.leaves(outputs)[0])
    if num_samples == 1:
        return jax.tree.map(lambda _: jnp.zeros((), bool), outputs)
    num_together = num_samples if num_together is None else min(num_together, num_samples)
    chosen = jnp.linspace(0, num_samples - 1, num_together).round().astype(int)
    company = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], inputs)
    together = apply_fn(params, company)
    precision = compute_precision(apply_fn, params, company)

    def differ(together: Array, every: Array) -> Bool[Array, ""]:
        alone = every[chosen]
        known = jnp.isfinite(alone)
        tolerance = jnp.sqrt(precision) * jnp.max(jnp.where(known, jnp.abs(alone), 0))
        return jnp.any(known & ~(jnp.abs(together - alone) <= tolerance))

    return jax.tree.map(differ, together, outputs)


def interaction_flags(
    function: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    inputs: PyTree,
    *,
    num_samples: int = 4,
) -> PyTree[Int[Array, ""]]:
    """`Status.SAMPLES_INTERACT` where they do, by a few samples together and one by one.

    Args:
        function: ``function(params, inputs)`` gives an array with a row per sample, or a pytree
            of such arrays.
        params: its parameters.
        inputs: of a batch.
        num_samples: how many are tried, evenly spread over the batch.

    Returns:
        Flags for each array.

    Cost: a forward pass of ``2 num_samples`` samples.

    Example:
        >>> both = lambda w, x: {"centred": x - x.mean(0), "scaled": w * x}
        >>> flags = interaction_flags(both, 2.0, jnp.arange(8.0)[:, None])
        >>> {name: int(flag) for name, flag in flags.items()}
        {'centred': 8, 'scaled': 0}
    """
    batch_size = len(jax.tree.leaves(inputs)[0])
    chosen = np.linspace(0, batch_size - 1, min(batch_size, num_samples)).round().astype(int)
    few = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], inputs)

    def alone(one: PyTree) -> PyTree:
        outputs = function(params, jax.tree.map(lambda leaf: leaf[None], one))
        return jax.tree.map(lambda rows: rows[0], outputs)

    interact = samples_interact(function, params, few, jax.vmap(alone)(few))
    return jax.tree.map(lambda found: flag(found, Status.SAMPLES_INTERACT), interact)


def refuse_interaction(argument: str, flags: PyTree[Int[Array, ""]]) -> None:
    """Refuse samples that interact, where that is known.

    Args:
        argument: the name of the function that they interact in.
        flags: from `interaction_flags`.

    Raises:
        ValueError: outside of `jit`, naming the array of outputs.

    Example:
        >>> refuse_interaction("hidden_states", {"norm": jnp.int32(8)})
        Traceback (most recent call last):
            ...
        ValueError: hidden_states/norm: a sample's output depends on the rest of the batch, ...
    """
    for path, found in jax.tree_util.tree_flatten_with_path(flags)[0]:
        if concrete(found):
            name = f"{argument}/{parameters.path_of(path)}".rstrip("/")
            raise ValueError(f"{name}: {describe_status(Status.SAMPLES_INTERACT)}")


def compute_precision(apply_fn: ApplyFn, params: PyTree, inputs: PyTree) -> float:
    """The spacing of numbers next to one, in the coarsest dtype that a network passes through.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs``.
        params: its parameters.
        inputs: of a batch.

    Returns:
        2^-7 for bfloat16, 2^-10 for float16, 2^-23 for float32, 2^-52 for float64. Nothing is
        computed.

    Example:
        >>> mixed = lambda w, x: (x.astype("bfloat16") @ w.astype("bfloat16")).astype("float32")
        >>> compute_precision(mixed, jnp.ones((3, 2)), jnp.ones((4, 3)))
        0.0078125
    """
    dtypes = floating_dtypes(apply_fn, params, inputs)
    return max((float(jnp.finfo(dtype).eps) for dtype in dtypes), default=0.0)


def floating_dtypes(function: Callable[..., Any], *arguments: PyTree) -> set[jnp.dtype]:
    """The floating-point dtypes that a computation passes through."""

    def variables(jaxpr: Any) -> Iterator[Any]:
        yield from (*jaxpr.invars, *jaxpr.constvars)
        for equation in jaxpr.eqns:
            yield from equation.outvars
            for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(value):
                    yield from variables(getattr(value, "jaxpr", value))

    dtypes = (v.aval.dtype for v in variables(jax.make_jaxpr(function)(*arguments).jaxpr))
    return {jnp.dtype(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def check_batch(
    apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, argument: str = "inputs"
) -> int:
    """Check that ``apply_fn(params, inputs)`` is one array with a row per sample.

    Works on shapes alone: nothing is computed.

    Args:
        apply_fn: as in `lnpjax.linearize`.
        params: likewise.
        inputs: likewise.
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
        ['logits']; select it: apply_fn=lambda params, inputs: model(params, inputs)['logits']
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

    outputs = jax.eval_shape(apply_fn, params, inputs)
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise TypeError(
            f"outputs: expected one array (B, ...) from apply_fn, got {_described(outputs)}"
        )
    require(
        outputs.ndim >= 1 and outputs.shape[0] == num_samples,
        "outputs",
        expected=f"a first axis of {num_samples}, the number of samples in {argument}",
        got=f"shape {outputs.shape}",
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


def measured_batch(pool: Batch | None, batch_a: Batch, batch_b: Batch | None) -> Batch:
    """The batch that a measurement looks at: the pool, without one B, without B A.

    Example:
        >>> measured_batch(None, ("a", None), ("b", None))
        ('b', None)
    """
    return next(batch for batch in (pool, batch_b, batch_a) if batch is not None)


def check_pair(argument: str, batch: Any) -> Batch:
    """Refuse a batch that is not a pair.

    Args:
        argument: what the batch is called in messages.
        batch: ``(inputs, targets)``.

    Returns:
        The pair.

    Raises:
        ValueError: if it is none.

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
    """The names of layers as a tuple, `None` as it is.

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
        TypeError: if the loss is no floating-point scalar; as `check_batch`.
        ValueError: if `batch` is no pair, or not all targets have a row per sample; as
            `check_batch`.

    Example:
        >>> check_training_batch(jnp.multiply, lambda outputs, _: outputs.sum(), 1.0, jnp.ones(3))
        Traceback (most recent call last):
            ...
        ValueError: batch: expected a pair (inputs, targets), got ArrayImpl of 3
    """
    inputs, targets = check_pair(argument, batch)
    num_samples = check_batch(apply_fn, params, inputs, argument=f"{argument}/inputs")
    for path, leaf in zip(parameters.paths(targets), jax.tree.leaves(targets), strict=True):
        require(
            jnp.shape(leaf)[:1] == (num_samples,),
            f"{argument}/targets/{path}".rstrip("/"),
            expected=f"a first axis of {num_samples}, the number of samples in inputs",
            got=f"shape {jnp.shape(leaf)}",
        )
    outputs = jax.eval_shape(apply_fn, params, inputs)
    loss = jax.eval_shape(loss_fn, outputs, targets)
    require(
        getattr(loss, "shape", None) == () and jnp.issubdtype(loss.dtype, jnp.floating),
        "loss_fn",
        expected="a floating-point scalar, the mean over samples",
        got=loss,
        error=TypeError,
    )
    return num_samples


def _described(outputs: Any) -> str:
    hint = "select it: apply_fn=lambda params, inputs: model(params, inputs)"
    if isinstance(outputs, dict):
        keys = list(outputs)
        return f"dict with keys {keys}; {hint}[{keys[0]!r}]" if keys else "an empty dict"
    if isinstance(outputs, tuple) and not hasattr(outputs, "_fields"):
        return f"a tuple of {len(outputs)}; {hint}[0]"
    fields = getattr(outputs, "_fields", None) or [
        field.name for field in getattr(outputs, "__dataclass_fields__", {}).values()
    ]
    name = type(outputs).__name__
    return f"{name} with fields {list(fields)}; {hint}.{fields[0]}" if fields else f"{name}; {hint}"


def check_tree_like(argument: str, tree: PyTree, like: PyTree) -> None:
    """Check that a pytree has the structure and shapes of another.

    Args:
        argument: its name, for the message.
        tree: the pytree to check.
        like: the pytree to compare it with.

    Raises:
        ValueError: if it differs; the message names the first leaf that does.
    """
    require(
        str(jax.tree.structure(tree)) == str(jax.tree.structure(like)),
        argument,
        expected=f"the structure of the trainable parameters ({parameters.paths(like)})",
        got=f"{parameters.paths(tree)}",
    )
    for name, leaf, model in zip(
        parameters.paths(like), jax.tree.leaves(tree), jax.tree.leaves(like), strict=True
    ):
        require(
            jnp.shape(leaf) == jnp.shape(model),
            f"{argument}/{name}".rstrip("/"),
            expected=f"shape {jnp.shape(model)}",
            got=f"shape {jnp.shape(leaf)}",
        )
