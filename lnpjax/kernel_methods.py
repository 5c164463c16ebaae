"""Two ways to fill an empirical NTK, Theta = J_1 P J_2^T, and which one is cheaper.

With N_1 and N_2 rows (samples times outputs), n_1 samples, P parameters and F operations for the
forward pass of one sample, in matrix-product operations:

- contraction: a row of J costs 3 F; all pairs of rows cost ``2 N_1 N_2 P``. Where J does not fit at
  once, the rows of J_2 are made anew for every chunk of rows of J_1.
- products: each of the N_2 rows costs 3 F, and pushing it forward through n_1 samples 2 n_1 F.

A dense layer has F = 2 P at one position, and ``2 P T`` at T positions. So contraction wins for
networks that share weights over many positions and have few outputs, products for many outputs per
sample. Novak et al. (2022) compare the same two ways in more depth.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax.assumptions import ApplyFn
from lnpjax.costs import matmul_flops
from lnpjax.jacobian import Linearization, linearize, linearize_samples

CHUNK_BYTES = 2**28
"""What the rows that are alive at once may take, where the caller does not say."""


@dataclasses.dataclass(frozen=True)
class Side:
    """A network with outputs ``(B, m)`` at one batch.

    Row k of its Jacobian belongs to output ``k % m`` of sample ``k // m``.
    """

    apply_fn: ApplyFn
    params: PyTree
    inputs: PyTree
    wrt: parameters.Subset

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """``(B, m)``."""
        return jax.eval_shape(self.apply_fn, self.params, self.inputs).shape

    @property
    def num_rows(self) -> int:
        """``B m``."""
        return self.shape[0] * self.shape[1]

    def rows(self, indices: Int[Array, " row"]) -> PyTree:
        """Rows of J, each from its own sample; a row past the end is zero."""
        num_samples, num_outputs = self.shape
        sample = jnp.minimum(indices // num_outputs, num_samples - 1)
        inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[sample], self.inputs)
        linearization = linearize_samples(self.apply_fn, self.params, inputs, wrt=self.wrt)
        basis = jax.nn.one_hot(
            indices % num_outputs, num_outputs, dtype=linearization.outputs.dtype
        )
        basis = jnp.where((indices < self.num_rows)[:, None], basis, 0)
        return linearization.map_vjp(lambda vjp, cotangent: vjp(cotangent), basis)

    def linearization(self) -> Linearization:
        """The batch as one function."""
        return linearize(self.apply_fn, self.params, self.inputs, wrt=self.wrt)


def contraction(
    left: Side, right: Side, *, weights: PyTree | None, chunk_size: int, symmetric: bool
) -> Float[Array, "n1_m n2_m"]:
    """Rows of J_1 against rows of J_2 in chunks; of a symmetric kernel only the lower half."""
    starts = [jnp.arange(0, side.num_rows, chunk_size) for side in (left, right)]
    chunk = jnp.arange(chunk_size)

    def block_row(row: Int[Array, ""]) -> Float[Array, "chunk columns"]:
        left_rows = _weighted(left.rows(row + chunk), weights)

        def block(column: Int[Array, ""]) -> Float[Array, "chunk chunk"]:
            return _inner_products(left_rows, right.rows(column + chunk))

        def block_below_diagonal(column: Int[Array, ""]) -> Float[Array, "chunk chunk"]:
            blank = jnp.zeros((chunk_size, chunk_size), parameters.accumulation_dtype())
            return jax.lax.cond(column <= row, block, lambda _: blank, column)

        blocks = jax.lax.map(block_below_diagonal if symmetric else block, starts[1])
        return jnp.moveaxis(blocks, 0, 1).reshape(chunk_size, -1)

    kernel = jax.lax.map(block_row, starts[0])
    return kernel.reshape(-1, kernel.shape[-1])[: left.num_rows, : right.num_rows]


def products(
    left: Side, right: Side, *, weights: PyTree | None, chunk_size: int
) -> Float[Array, "n1_m n2_m"]:
    """Column k as ``J_1 P (J_2^T e_k)``, with the row ``J_2^T e_k`` from its own sample."""
    push = jax.vmap(left.linearization().jvp)

    def columns(start: Int[Array, ""]) -> Float[Array, "chunk n1 m"]:
        return push(_weighted(right.rows(start + jnp.arange(chunk_size)), weights))

    return _as_columns(columns, left, right, chunk_size)


def batch_products(
    left: Side, right: Side, *, weights: PyTree | None, chunk_size: int
) -> Float[Array, "n1_m n2_m"]:
    """As `products`, with the whole batch pulled back: also right where samples interact."""
    pull, push = right.linearization(), jax.vmap(left.linearization().jvp)

    def columns(start: Int[Array, ""]) -> Float[Array, "chunk n1 m"]:
        indices = start + jnp.arange(chunk_size)
        basis = jax.nn.one_hot(indices, right.num_rows, dtype=pull.outputs.dtype)
        return push(_weighted(jax.vmap(pull.vjp)(basis.reshape(-1, *right.shape)), weights))

    return _as_columns(columns, left, right, chunk_size)


def _as_columns(
    columns: Callable[[Int[Array, ""]], Array], left: Side, right: Side, chunk_size: int
) -> Float[Array, "n1_m n2_m"]:
    kernel = jax.lax.map(columns, jnp.arange(0, right.num_rows, chunk_size))
    kernel = kernel.reshape(-1, left.num_rows)[: right.num_rows].T
    return kernel.astype(parameters.accumulation_dtype())


def _weighted(rows: PyTree, weights: PyTree | None) -> PyTree:
    if weights is None:
        return rows
    return jax.tree.map(lambda row, weight: row * weight.astype(row.dtype), rows, weights)


def _inner_products(left: PyTree, right: PyTree) -> Float[Array, "rows columns"]:
    """All inner products between two sets of rows, accumulated in `accumulation_dtype`."""

    def within_leaf(left: Array, right: Array) -> Float[Array, "rows columns"]:
        return jnp.einsum(
            "rp,cp->rc",
            left.reshape(len(left), -1),
            right.reshape(len(right), -1),
            preferred_element_type=parameters.accumulation_dtype(),
        )

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(within_leaf, left, right)))


class Plan(NamedTuple):
    """How a kernel will be filled."""

    method: str
    chunk_size: int
    flops: float


def plan(left: Side, right: Side, *, method: str, chunk_size: int | None, symmetric: bool) -> Plan:
    """Choose the method with fewer operations, and as many rows at once as `CHUNK_BYTES` allow.

    Products inherit the precision of the network's outputs, so a network that computes in less than
    the kernel's precision is contracted.

    Args:
        left: the first batch.
        right: the second.
        method: "contraction", "products", "batch", or "auto".
        chunk_size: rows alive at once; `None` to choose.
        symmetric: whether both batches are the same.
    """
    trainable, _ = parameters.partition(left.params, left.wrt)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)),
        left.inputs,
    )
    forward = matmul_flops(left.apply_fn, left.params, one)
    dtype = jax.eval_shape(left.apply_fn, left.params, left.inputs).dtype

    def rows_at_once(alive: int) -> int:
        fitting = CHUNK_BYTES // (alive * num_parameters * dtype.itemsize)
        most = max(left.num_rows, right.num_rows) if alive == 2 else right.num_rows
        return chunk_size or max(1, min(fitting, most))

    rows_1, rows_2, chunk = left.num_rows, right.num_rows, rows_at_once(2)
    remade = -(-rows_1 // chunk)
    pairs = rows_2 * (remade * 3 * forward + 2 * rows_1 * num_parameters)
    contracting = rows_1 * 3 * forward + (
        pairs * (remade + 1) / (2 * remade) if symmetric else pairs
    )
    pushing = rows_2 * (3 + 2 * left.shape[0]) * forward
    if method == "auto":
        exact = dtype.itemsize >= parameters.accumulation_dtype().itemsize
        method = "products" if exact and pushing < contracting else "contraction"
    if method == "contraction":
        return Plan(method, chunk, contracting)
    per_row = 3 * right.shape[0] if method == "batch" else 3
    return Plan(method, rows_at_once(1), rows_2 * (per_row + 2 * left.shape[0]) * forward)
