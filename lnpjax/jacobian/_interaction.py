"""Whether samples interact: whether what a network says of one depends on the rest of its batch.

Per-sample Jacobians presume that it does not; batch normalisation in training mode,
capacity-limited routing and live dropout break that. The program of a network is asked first
(`lnpjax._base.independence`): for most it shows that no operation lets samples meet, whatever the
parameters are, and nothing has to be computed. Where it does not show, the whole batch is passed
as one and sample by sample, and both the outputs and a product with the transposed Jacobian, in
all parameters whether trained or not, must agree up to rounding. That sees what is hidden behind a
gate that is zero (a head, a residual branch or an adapter as it is initialised), where outputs
agree and gradients do not.

What goes unnoticed: batch sizes at which a function branches in Python, other than those that it is
called with here; operations within a custom rule of forward differentiation; and, where numbers
decide, anything below rounding, ``sqrt(eps)`` of what it is compared with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import concrete
from lnpjax._base.entry_points import only_where, vary_alike
from lnpjax._base.independence import keeps_samples_apart
from lnpjax._base.slices import evenly_spread
from lnpjax.jacobian._contract import ApplyFn, one_sample_at_a_time
from lnpjax.jacobian._probes import rademacher
from lnpjax.jacobian._rounding import compute_precision, typical_size
from lnpjax.status import Status, describe_status, flag

NUM_COMPARED = 2
"""How many samples are passed together and alone where the program shows that they do not meet."""


Tree = TypeVar("Tree")


def check_interaction(
    apply_fn: ApplyFn, params: PyTree, *batches: PyTree, confirm: Bool[ArrayLike, ""] = True
) -> Int[Array, ""]:
    """Flag a network whose samples interact, or refuse it where that is known.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        *batches: inputs of each batch that is measured.
        confirm: as in `samples_interact`.

    Returns:
        `Status.SAMPLES_INTERACT` or zero; see `void_where_interacting`.

    Raises:
        ValueError: outside of `jit`, if they do.

    Cost: that of `samples_interact`.

    Example:
        >>> centred = lambda w, x: w * (x - x.mean(0))
        >>> int(jax.jit(lambda x: check_interaction(centred, 0.0, x))(jnp.arange(4.0)[:, None]))
        8
    """
    differ = samples_interact(apply_fn, params, *batches, confirm=confirm)
    return interaction_status("apply_fn", differ)


def void_where_interacting(numbers: Tree, status: Int[Array, ""]) -> Tree:
    """Return a result with NaN in place of all its numbers where samples interact.

    Args:
        numbers: any pytree; what is not floating-point (statuses) stays.
        status: from `check_interaction`, perhaps with other flags.

    Example:
        >>> void_where_interacting({"norm": jnp.ones(2)}, jnp.int32(Status.SAMPLES_INTERACT))
        {'norm': Array([nan, nan], dtype=float32)}
    """
    interact = (status & jnp.int32(Status.SAMPLES_INTERACT)) != 0

    def void(leaf: Array) -> Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.where(interact, jnp.asarray(jnp.nan, leaf.dtype), leaf) if floating else leaf

    return jax.tree.map(void, numbers)


def samples_interact(
    apply_fn: ApplyFn, params: PyTree, *batches: PyTree, confirm: Bool[ArrayLike, ""] = True
) -> Bool[Array, ""]:
    """Tell whether outputs, or their Jacobian, depend on the company of a sample in its batch.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        *batches: inputs of each batch that is measured.
        confirm: whether to compare some samples also where the program shows that they are kept
            apart.

    Returns:
        A boolean array of shape (). False for batches of one. Rows that are not finite say nothing.

    Cost: 2 gradients of each batch. Where the program shows that samples are kept apart, a forward
    pass of 4 samples, which all devices compute, or nothing if that is not to be confirmed.

    Example:
        >>> centred = lambda w, x: w * (x - x.mean(0))
        >>> bool(samples_interact(centred, 0.0, jnp.arange(4.0)[:, None]))
        True
    """
    doubtful = [inputs for inputs in batches if not keeps_samples_apart(apply_fn, params, inputs)]
    if doubtful:
        differ = [_jacobians_differ(apply_fn, params, inputs) for inputs in doubtful]
    else:
        largest = max(batches, key=_num_samples)

        def few_differ() -> Bool[Array, ""]:
            return _values_differ(apply_fn, params, evenly_spread(largest, NUM_COMPARED))

        differ = [only_where(confirm, few_differ, jnp.array(False), given=(params, largest))]
    return jnp.any(jnp.stack(differ))


def values_interact(
    function: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree
) -> PyTree[Bool[Array, ""]]:
    """Tell which outputs depend on the company of a sample in its batch; not their Jacobians.

    Args:
        function: ``function(params, inputs)`` gives an array with a row per sample, or a pytree of
            such arrays.
        params: any pytree.
        inputs: any pytree whose leaves lead with the batch.

    Returns:
        A boolean array of shape () for each array of outputs.

    Cost: a forward pass of 4 samples where the program shows that samples are kept apart; else two
    of the batch.

    Example:
        >>> both = lambda w, x: {"centred": x - x.mean(0), "scaled": w * x}
        >>> interact = values_interact(both, 2.0, jnp.arange(8.0)[:, None])
        >>> {name: bool(differ) for name, differ in interact.items()}
        {'centred': True, 'scaled': False}
    """
    if all(jax.tree.leaves(keeps_samples_apart(function, params, inputs))):
        inputs = evenly_spread(inputs, NUM_COMPARED)
    return _values_differ(function, params, inputs)


def interaction_status(argument: str, interact: PyTree[Bool[Array, ""]]) -> PyTree[Int[Array, ""]]:
    """Flag samples that interact, or refuse them where that is known.

    Args:
        argument: the name of the function that they interact in.
        interact: from `samples_interact` or `values_interact`.

    Returns:
        `Status.SAMPLES_INTERACT` or zero for each.

    Raises:
        ValueError: outside of `jit`, naming the array of outputs.

    Example:
        >>> interaction_status("hidden_states", {"norm": jnp.array(True)})
        Traceback (most recent call last):
            ...
        ValueError: hidden_states/norm: a sample's output depends on the rest of the batch, ...
    """
    for path, differ in jax.tree_util.tree_flatten_with_path(interact)[0]:
        if concrete(differ):
            name = f"{argument}/{parameters.path_of(path)}".rstrip("/")
            raise ValueError(f"{name}: {describe_status(Status.SAMPLES_INTERACT)}")
    return jax.tree.map(lambda differ: flag(differ, Status.SAMPLES_INTERACT), interact)


def _num_samples(inputs: PyTree) -> int:
    return jnp.shape(jax.tree.leaves(inputs)[0])[0]


def _one_by_one(
    function: Callable[[PyTree, PyTree], PyTree], inputs: PyTree
) -> Callable[[PyTree], PyTree]:
    """Return the function of parameters that passes every sample as a batch of one."""

    def alone(params: PyTree, sample: PyTree) -> PyTree:
        outputs = function(params, jax.tree.map(lambda leaf: leaf[None], sample))
        return jax.tree.map(lambda rows: rows[0], outputs)

    samples = jax.tree.map(jnp.asarray, inputs)

    def each(params: PyTree) -> PyTree:
        with one_sample_at_a_time():
            return jax.vmap(alone, in_axes=(None, 0))(params, samples)

    return each


def _without_coarse_products() -> contextlib.AbstractContextManager[None]:
    """Let products of float32 be those of float32.

    Accelerators multiply in fewer bits unless told otherwise, and differently so for batches of
    other sizes: as if samples interacted.
    """
    return jax.default_matmul_precision("highest")


def _values_differ(
    function: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree
) -> PyTree[Bool[Array, ""]]:
    with _without_coarse_products():
        together, alone = function(params, inputs), _one_by_one(function, inputs)(params)
    eps = compute_precision(function, params, inputs)
    return jax.tree.map(lambda *rows: _rows_differ(*rows, eps=eps), together, alone)


def _rows_differ(
    together: Float[Array, "batch ..."], alone: Float[Array, "batch ..."], *, eps: float
) -> Bool[Array, ""]:
    """Return whether outputs differ by more than rounding, each against outputs of its kind.

    Outputs at one place of the last axis are of a kind: one logit masked with -1e9 says nothing of
    the precision of the others. Where all of a kind are small by chance, what is typical of the
    outputs tells how far rounding goes.
    """
    finite = jnp.isfinite(alone)
    sizes = jnp.where(finite, jnp.abs(alone), 0).astype(numerics.accumulation_dtype())
    scale = jnp.max(sizes.reshape(-1, sizes.shape[-1] if sizes.ndim > 1 else 1), axis=0)
    tolerance = np.sqrt(eps) * scale + 16 * eps * typical_size(scale)
    return jnp.any(finite & ~(jnp.abs(together - alone) <= tolerance))


def _jacobians_differ(apply_fn: ApplyFn, params: PyTree, inputs: PyTree) -> Bool[Array, ""]:
    """Return whether the outputs differ, or what random signs pull back to any parameter."""
    eps = compute_precision(apply_fn, params, inputs)
    floating, rest = parameters.split_floating(params)
    one_by_one = _one_by_one(apply_fn, inputs)
    with _without_coarse_products():
        together, pull_together = jax.vjp(
            lambda subset: apply_fn(parameters.combine(subset, rest), inputs), floating
        )
        alone, pull_alone = jax.vjp(
            lambda subset: one_by_one(parameters.combine(subset, rest)), floating
        )
        signs = rademacher(jax.random.key(0), alone.shape, alone.dtype)
        signs, _ = vary_alike((jnp.where(jnp.isfinite(alone), signs, 0), alone))
        pulled = [jax.tree.leaves(pull(signs)[0]) for pull in (pull_together, pull_alone)]
    return _rows_differ(together, alone, eps=eps) | _leaves_differ(*pulled, eps=eps)


def _leaves_differ(
    together: Sequence[Array], alone: Sequence[Array], *, eps: float
) -> Bool[Array, ""]:
    """Return whether gradients differ by more than rounding, in the mean square of a leaf.

    A leaf whose gradient vanishes in exact arithmetic (the bias of a key projection) holds nothing
    but rounding of what passed through its layer: it is compared with the largest leaf.
    """
    if not together:
        return jnp.array(False)

    def size(leaves: Sequence[Array]) -> Float[Array, " leaf"]:
        squares = numerics.leaf_inner_products(list(leaves), list(leaves))
        return jnp.sqrt(squares / np.array([max(leaf.size, 1) for leaf in leaves]))

    dtype = numerics.accumulation_dtype()
    difference = [
        one.astype(dtype) - other.astype(dtype) for one, other in zip(together, alone, strict=True)
    ]
    own = size(alone)
    tolerance = np.sqrt(eps) * own + 64 * eps * jnp.max(own)
    return jnp.any(jnp.isfinite(own) & ~(size(difference) <= tolerance))
