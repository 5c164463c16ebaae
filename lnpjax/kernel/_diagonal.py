"""Blocks on the diagonal of the explicit kernel, without the rest of it."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base.checks import check_count, require
from lnpjax._base.entry_points import entry_point, vary_alike
from lnpjax._base.shards import AxisName, shards_over
from lnpjax.jacobian import ApplyFn, OutputSubset
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.kernel._entk import (
    Method,
    batch_jacobians,
    check_choice,
    check_memory,
    completed,
    fill,
    second_batch,
    settle,
)
from lnpjax.kernel._fill import BatchJacobian
from lnpjax.kernel._plan import Plan, choose_plan

Over: TypeAlias = Literal["samples", "outputs"]


@entry_point
def entk_diagonal(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    over: Over,
    inputs2: PyTree | None = None,
    outputs: OutputSubset = None,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    max_bytes: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "block rows columns"]:
    """Compute blocks on the diagonal of the empirical NTK, and nothing else of it.

    Over samples: each sample's own kernel, ``Theta[(i, a), (i, b)]``. Over outputs: the kernel of
    each output by itself, ``Theta[(i, a), (j, a)]`` (*NTK Lens*, the blocks ``Theta_kk`` of eq. 7);
    their sum is ``entk(..., sum_outputs=True)``. One block is computed after the other, so that
    memory is that of one. (neural-tangents has these blocks as `diagonal_axes`.)

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        inputs: the first batch, n1 samples; any pytree whose leaves lead with the sample.
        over: what the blocks are counted by, "samples" or "outputs".
        inputs2: the second batch, n2 samples, over samples as many as in the first; `None` for the
            first one again.
        outputs: which outputs of each sample to keep, m of them.
        wrt: the trainable subset.
        preconditioner: optional diagonal P >= 0, for ``J_1 P J_2^T``.
        method: how a block is filled; see `entk`. "batch" is refused over samples, since it is for
            those that interact.
        chunk_size: how many rows of J are made at once.
        max_bytes: refuse what needs more, before anything is allocated.
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axis (or axes) over which devices hold
            parts of the batches, whose blocks over samples, or rows of blocks over outputs, each
            device computes; see `entk`.

    Returns:
        ``(n1, m, m)`` over samples, ``(m, n1, n2)`` over outputs. NaN where, under `jit`, samples
        interact.

    Raises:
        TypeError, ValueError: for what `entk` refuses; over samples also if the batches differ in
            size.

    Cost: in gradients of one sample, ``n1 m`` for each batch, and over outputs as many forward
    passes besides; and the contractions, a share of 1/n1, or of 1/m, of those of `entk`.

    Example:
        >>> weights, inputs = jnp.ones((2, 2)), jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> blocks = entk_diagonal(lambda w, x: x @ w, weights, inputs, over="samples")
        >>> blocks.tolist()
        [[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 2.0]]]
    """
    check_choice("over", over, get_args(Over))
    check_choice("method", method, get_args(Method))
    check_count("chunk_size", chunk_size, optional=True)
    if over == "outputs":
        inputs2 = second_batch(axis_name, inputs, inputs2)
    else:
        shards_over(axis_name).check_split("inputs", inputs)
    params, inputs, inputs2 = vary_alike((params, inputs, inputs2))
    left, right = batch_jacobians(apply_fn, params, inputs, inputs2, outputs, wrt)
    require(
        over == "outputs" or left.shape == right.shape,
        "inputs2",
        expected=f"as many samples as in inputs, {left.shape[0]}, for blocks over samples",
        got=right.shape[0],
    )
    preconditioner, _ = fit_preconditioner(preconditioner, parameters.partition(params, wrt)[0])
    symmetric = inputs2 is None
    with jax.default_matmul_precision("highest"):
        settled, valid = settle(method, left, right)
        require(
            over == "outputs" or settled != "batch",
            "over",
            expected="'outputs' where samples interact, or a network that takes single samples",
            got=over,
        )
        block_of = _sample_block if over == "samples" else _output_block

        def pair_of(index: Int[Array, ""]) -> tuple[BatchJacobian, BatchJacobian]:
            first = block_of(left, index)
            return first, first if symmetric else block_of(right, index)

        def plan_of(first: BatchJacobian, second: BatchJacobian) -> Plan:
            return choose_plan(
                first,
                second,
                method=settled,
                chunk_size=chunk_size,
                symmetric=symmetric,
                factored=preconditioner is None,
            )

        def block(index: Int[Array, ""]) -> Float[Array, "rows columns"]:
            first, second = pair_of(index)
            plan = plan_of(first, second)
            kernel = fill(first, second, plan, symmetric, preconditioner)
            return completed(kernel, plan, symmetric)

        count = left.shape[0 if over == "samples" else 1]
        first, second = pair_of(jnp.int32(0))
        check_memory(first, second, plan_of(first, second), max_bytes, num_kernels=count)
        blocks = jax.lax.map(block, jnp.arange(count))
    return jnp.where(valid, blocks, jnp.nan)


def _sample_block(batch: BatchJacobian, index: Int[Array, ""]) -> BatchJacobian:
    """Return the Jacobian of one sample."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index][None], batch.inputs)
    return BatchJacobian(batch.apply_fn, batch.params, one, batch.wrt, batch.whole_fn, batch.subset)


def _output_block(batch: BatchJacobian, index: Int[Array, ""]) -> BatchJacobian:
    """Return the Jacobian of one output of all samples."""

    def one_output(params: PyTree, inputs: PyTree) -> Float[Array, "batch 1"]:
        outputs = batch.apply_fn(params, inputs)
        return jax.lax.dynamic_slice_in_dim(outputs, index, 1, axis=1)

    return BatchJacobian(one_output, batch.params, batch.inputs, batch.wrt)
