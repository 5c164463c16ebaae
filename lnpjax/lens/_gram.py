"""Per-sample gradients of chosen weights and their inner products, in bounded memory.

*Spectral Lens*, section 2 and appendix C: one loss gradient per sample is a row of ``G (M, P)``
(eqs. 4 and 11). `gradient_gram` builds ``G G^T (M, M)`` in blocks of samples, so that G never
exists; `lnpjax.lens.gradient_spectra` reads the spectrum off it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_count, require
from lnpjax._base.entry_points import entry_point, vary_alike
from lnpjax._base.slices import sliced, unsliced
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.jacobian._contract import check_training_batch
from lnpjax.jacobian._interaction import check_interaction, void_where_interacting
from lnpjax.jacobian._linearize import linearize_samples
from lnpjax.jacobian._pullbacks import Pullback
from lnpjax.lens._cut import split_at_cut

Weights: TypeAlias = str | Sequence[str]
BLOCK_BYTES = 2**27  # of the gradients that are kept at once, where no block size is given
MICROBATCH_SIZE = 32


@entry_point
def per_sample_gradients(
    apply_fn: ApplyFn, loss_fn: LossFn, params: PyTree, batch: Batch, *, weights: Weights
) -> dict[str, Float[Array, "samples ..."]]:
    """Compute the gradient of every sample's own loss, in chosen weights.

    Row m is the gradient of the mean loss over the tokens of sample m, ``vec(dL_m / dW)``
    (*Spectral Lens*, eqs. 4 and 11). Nothing else is differentiated, so that no backward pass is
    made below the lowest of the weights. All gradients exist at once: for a large weight,
    `gradient_gram` is meant.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        params: any pytree.
        batch: ``(inputs, targets)`` of M samples.
        weights: the path of one leaf of `params`, or several (`lnpjax.parameters.paths`).

    Returns:
        For every weight, in the order given, its gradients ``(M, *weight.shape)`` in the dtype of
        the weight. Where a weight is used more than once, its uses are summed. NaN where, under
        `jit`, samples interact.

    Raises:
        TypeError: if a weight is not real floating-point, or the loss is not a scalar.
        ValueError: if `params` has no such weight; for bad batches; and, outside
            of `jit`, if samples interact.

    Cost: one gradient or less.

    Example:
        >>> batch = (jnp.eye(2), jnp.array([[1.0], [2.0]]))
        >>> def loss_fn(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> params = {"w": jnp.zeros((2, 1))}
        >>> rows = per_sample_gradients(
        ...     lambda p, x: x @ p["w"], loss_fn, params, batch, weights="w"
        ... )
        >>> rows["w"][..., 0] + 0.0
        Array([[-2.,  0.],
               [ 0., -4.]], dtype=float32)
    """
    names = checked_weights(params, weights)
    check_training_batch(apply_fn, loss_fn, params, batch)
    status = check_interaction(apply_fn, params, batch[0])
    gradients = _sample_gradients(apply_fn, loss_fn, params, batch, names)
    return void_where_interacting(gradients, status)


def _sample_gradients(
    apply_fn: ApplyFn, loss_fn: LossFn, params: PyTree, batch: Batch, names: tuple[str, ...]
) -> dict[str, Float[Array, "samples ..."]]:
    inputs, targets = batch
    rows = linearize_samples(apply_fn, params, inputs, wrt=lambda path: path in names)

    def one_sample(vjp: Pullback, output: Array, target: PyTree) -> PyTree:
        def loss(output: Array) -> Float[Array, ""]:
            return loss_fn(output[None], jax.tree.map(lambda leaf: leaf[None], target))

        return vjp(jax.grad(loss)(output))

    gradients = rows.map_vjp(one_sample, rows.outputs, jax.tree.map(jnp.asarray, targets))
    by_path = dict(zip(parameters.paths(gradients), jax.tree.leaves(gradients), strict=True))
    return {name: by_path[name] for name in names}


@entry_point
def gradient_gram(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    params: PyTree,
    batch: Batch,
    *,
    weights: Weights,
    block_size: int | None = None,
    microbatch_size: int = MICROBATCH_SIZE,
) -> dict[str, Float[Array, "samples samples"]]:
    """Compute the inner products of all per-sample gradients of a weight, ``G G^T``.

    A block of samples is differentiated and kept; the samples before it are differentiated anew in
    microbatches, each of which meets the block and is forgotten. With n blocks every gradient is
    computed ``(n + 1) / 2`` times on average, for any weight, exactly. Where the gradients are made
    of less than what they hold (``T (inputs + outputs)`` numbers per sample of T tokens, in a dense
    layer), and that fits in the memory of one block, it is stored: the network then runs once.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        params: any pytree.
        batch: ``(inputs, targets)`` of M samples.
        weights: the path of one leaf of `params`, or several, which share the passes.
        block_size: how many samples' gradients are kept at once, after rounding up to whole
            microbatches; `None` for as many as fit in 128 MiB. All at once are the fastest.
        microbatch_size: how many samples pass through the network at once. The result depends on
            neither.

    Returns:
        For every weight, in the order given, a symmetric matrix ``(M, M)`` in float32 (float64
        under x64), whatever the dtype of the weight.

    Raises:
        TypeError: if a weight is not real floating-point, or the loss is not a scalar.
        ValueError: if `params` has no such weight, or a size is less than 1; for bad batches; and,
            outside of `jit`, if samples interact.

    Cost: between 1 and ``(n + 1) / 2`` gradients, and ``M^2 P / 2`` to ``M^2 P`` multiplications;
    memory for ``block_size + microbatch_size`` gradients (twice ``block_size`` with what is
    stored), and for one pass of a microbatch.

    Example:
        >>> batch = (jnp.eye(2), jnp.array([[1.0], [2.0]]))
        >>> def loss_fn(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> gradient_gram(
        ...     lambda p, x: x @ p["w"], loss_fn, {"w": jnp.zeros((2, 1))}, batch, weights="w"
        ... )["w"]
        Array([[ 4.,  0.],
               [ 0., 16.]], dtype=float32)
    """
    grams = gram_matrices(
        apply_fn,
        loss_fn,
        params,
        batch,
        weights=weights,
        block_size=block_size,
        microbatch_size=microbatch_size,
    )
    return void_where_interacting(grams, check_interaction(apply_fn, params, batch[0]))


def gram_matrices(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    params: PyTree,
    batch: Batch,
    *,
    weights: Weights,
    block_size: int | None,
    microbatch_size: int,
) -> dict[str, Float[Array, "samples samples"]]:
    """Return `gradient_gram` without asking whether samples interact."""
    names = checked_weights(params, weights)
    num_samples = check_training_batch(apply_fn, loss_fn, params, batch)
    check_count("block_size", block_size, optional=True)
    check_count("microbatch_size", microbatch_size)
    dtype = numerics.accumulation_dtype()
    sizes = weight_sizes(params)
    row_bytes = dtype.itemsize * sum(sizes[name] for name in names)
    if block_size is None:
        block_size = max(BLOCK_BYTES // row_bytes, 1)
    blocks = _Blocks.of(num_samples, block_size, microbatch_size)

    def rows(params: PyTree, batch: Batch) -> dict[str, Float[Array, "microbatch size"]]:
        gradients = _sample_gradients(apply_fn, loss_fn, params, batch, names)
        return {
            name: leaf.reshape(blocks.microbatch_size, -1).astype(dtype)
            for name, leaf in gradients.items()
        }

    slices = sliced(batch, blocks.num_in_all, blocks.microbatch_size)
    rows_of = _cheapest_to_repeat(rows, params, slices, blocks, blocks.size * row_bytes)
    side = blocks.number * blocks.size
    zeros = {name: jnp.zeros((side, side), dtype) for name in names}
    zeros, _ = vary_alike((zeros, batch))
    upper = _filled_above_diagonal(zeros, rows_of, blocks)
    return {name: _in_order(_mirrored(upper[name]), blocks, num_samples) for name in names}


def _filled_above_diagonal(
    zeros: dict[str, Float[Array, "side side"]],
    rows_of: Callable[[Int[Array, ""]], dict[str, Array]],
    blocks: _Blocks,
) -> dict[str, Float[Array, "side side"]]:
    """Multiply each block of rows with itself, and with the microbatches before it."""

    def products(left: Array, right: Array) -> Array:
        return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)

    def add_block(grams: dict[str, Array], block: Int[Array, ""]) -> tuple[dict[str, Array], None]:
        first = block * blocks.num_microbatches
        kept = jax.lax.map(rows_of, first + jnp.arange(blocks.num_microbatches))
        kept = {name: leaf.reshape(blocks.size, -1) for name, leaf in kept.items()}

        def put(gram: Array, part: Array, row: Int[Array, ""]) -> Array:
            return jax.lax.dynamic_update_slice(gram, part, (row, block * blocks.size))

        def meet(index: Int[Array, ""], grams: dict[str, Array]) -> dict[str, Array]:
            passing, row = rows_of(index), index * blocks.microbatch_size
            return {
                name: put(gram, products(passing[name], kept[name]), row)
                for name, gram in grams.items()
            }

        grams = jax.lax.fori_loop(0, first, meet, grams)
        return {
            name: put(gram, products(kept[name], kept[name]), block * blocks.size)
            for name, gram in grams.items()
        }, None

    return jax.lax.scan(add_block, zeros, jnp.arange(blocks.number))[0]


def _in_order(
    gram: Float[Array, "side side"], blocks: _Blocks, num_samples: int
) -> Float[Array, "samples samples"]:
    """Sort rows and columns by sample, without those that fill up the last block."""
    for axis in (0, 1):
        shape = (blocks.num_in_all, blocks.microbatch_size)
        gram = gram.reshape(*gram.shape[:axis], *shape, *gram.shape[axis + 1 :])
        gram = unsliced(gram, num_samples, axis=axis)
    return gram


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Samples in blocks of equal size, and each of these in microbatches."""

    number: int
    num_microbatches: int  # of one block
    microbatch_size: int

    @classmethod
    def of(cls, num_samples: int, block_size: int, microbatch_size: int) -> _Blocks:
        block_size = min(block_size, num_samples)
        microbatch_size = min(microbatch_size, block_size)
        number = -(-num_samples // block_size)
        num_microbatches = -(-num_samples // (number * microbatch_size))
        return cls(number, num_microbatches, microbatch_size)

    @property
    def size(self) -> int:
        return self.num_microbatches * self.microbatch_size

    @property
    def num_in_all(self) -> int:
        """Microbatches of all blocks."""
        return self.number * self.num_microbatches


def _cheapest_to_repeat(
    rows: Callable[[PyTree, Batch], dict[str, Array]],
    params: PyTree,
    slices: Batch,
    blocks: _Blocks,
    most_bytes: int,
) -> Callable[[Int[Array, ""]], dict[str, Array]]:
    """Return a function from the index of a microbatch to its gradients.

    What they are made of is computed once and stored, if there is something that fits in the memory
    of one block: in a dense layer, its inputs and the cotangents of its outputs.
    """

    def samples(index: Int[Array, ""] | int) -> Batch:
        return jax.tree.map(lambda leaf: leaf[index], slices)

    split, in_all = None, blocks.num_in_all
    if blocks.number > 1:
        one = jax.eval_shape(samples, 0)
        split = split_at_cut(rows, params, one, most_bytes=most_bytes // in_all)
    if split is None:
        return lambda index: rows(params, samples(index))
    first, second = split.first, split.second
    stored = jax.lax.map(lambda index: first(params, samples(index)), jnp.arange(in_all))
    return lambda index: second(params, [leaf[index] for leaf in stored])


def _mirrored(upper: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the symmetric matrix with this upper triangle."""
    return jnp.triu(upper) + jnp.triu(upper, 1).T


def checked_weights(params: PyTree, weights: Weights) -> tuple[str, ...]:
    """Return the paths of weights, each once, if `params` has them all.

    Raises:
        ValueError: naming those it has not, and all it has.

    Example:
        >>> checked_weights({"a": 1.0, "b": 2.0}, "c")
        Traceback (most recent call last):
            ...
        ValueError: weights: expected paths of weights among 'a', 'b', got 'c'
    """
    names = (weights,) if isinstance(weights, str) else tuple(dict.fromkeys(weights))
    paths = parameters.paths(params)
    unknown = [name for name in names if name not in paths]
    require(
        bool(names) and not unknown,
        "weights",
        expected=f"paths of weights among {', '.join(map(repr, paths))}",
        got=", ".join(map(repr, unknown)) or "none",
    )
    return names


def weight_sizes(params: PyTree) -> dict[str, int]:
    """Return the number of parameters of every weight, by path."""
    sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(params)]
    return dict(zip(parameters.paths(params), sizes, strict=True))
