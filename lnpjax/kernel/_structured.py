"""Fill an empirical NTK from the factors of its rows, Theta = J_1 J_2^T.

A weight W that is only multiplied, ``y_t = x_t W``, adds to the entry of two rows r and r'

    sum_{t,s} (x_t . x'_s) (u_t . u'_s)

with inputs x and sensitivities u at positions t and s of their samples. With N_1 and N_2 rows of
n_1 and n_2 samples, T positions and a weight of ``d x e`` entries, in operations:

- at one position, products of Gram matrices: ``2 n_1 n_2 d + 2 N_1 N_2 e``;
- at several, the inputs' Gram matrix of a pair of samples brings the u' to the positions of the
  other sample: ``2 n_1 n_2 T^2 d + 2 n_1 N_2 T^2 e``; then rows meet in ``2 N_1 N_2 T e``;
- gradients formed and contracted: ``2 (N_1 + N_2) T d e + 2 N_1 N_2 d e``.

The first two are the structured derivatives of Novak et al. (2022, sec. 3.3); the cheapest is taken
for every weight. Weights that are multiplied several times have a term for every pair of reads, and
those that are not only multiplied (gains, most biases) have their gradients formed.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lnpjax._base import numerics
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._factorings import Factor, Factoring, are_units, meet
from lnpjax.jacobian._factors import FactoredJacobian, FactoredRows
from lnpjax.kernel._fill import BatchJacobian, Chunking, Index, map_chunks

Read: TypeAlias = tuple[Factor, Factor]
MAP_WORK = 4
"""Operations of many small products take so many times longer than those of one large one."""


class Shape(NamedTuple):
    """Samples and outputs of each, of both batches."""

    left: tuple[int, int]
    right: tuple[int, int]

    @property
    def pairs(self) -> int:
        """Pairs of rows, which are the entries of the kernel."""
        return self.left[0] * self.left[1] * self.right[0] * self.right[1]


def in_common(
    left: FactoredJacobian, right: FactoredJacobian
) -> tuple[FactoredJacobian, FactoredJacobian]:
    """Leave a network at two batches the factorings that are the same at both."""

    def kind(factoring: Factoring) -> tuple:
        return factoring.bias, [(layout.layers, layout.sides) for layout in factoring.layouts]

    same = {
        leaf
        for leaf in left.factorings.keys() & right.factorings.keys()
        if kind(left.factorings[leaf]) == kind(right.factorings[leaf])
    }

    def kept(side: FactoredJacobian) -> FactoredJacobian:
        factorings = {leaf: side.factorings[leaf] for leaf in sorted(same)}
        return dataclasses.replace(side, factorings=factorings)

    return kept(left), kept(right)


def choose_factored(jacobian: FactoredJacobian, shape: Shape) -> tuple[tuple[int, ...], float]:
    """Return the leaves whose gradients had better stay factored, and all operations on pairs."""
    factored, flops = [], 0.0
    for leaf, weight in enumerate(jacobian.trainable):
        formed = 2.0 * shape.pairs * weight.size
        factoring = jacobian.factorings.get(leaf)
        cheap = _factored_flops(factoring, shape) if factoring is not None else formed
        if cheap < formed:
            factored.append(leaf)
        flops += min(cheap, formed)
    for leaf in factored:  # a bias that comes with them
        bias = jacobian.factorings[leaf].bias
        flops -= 0 if bias is None else 2.0 * shape.pairs * jacobian.trainable[bias].size
    return tuple(factored), flops


def _factored_flops(factoring: Factoring, shape: Shape) -> float:
    (n1, _), (n2, m2) = shape
    flops = 0.0
    for p, q in itertools.product(factoring.sizes, repeat=2):
        # The first factors of most reads belong to samples, their second to rows, or swapped.
        apart, together = p.widths if not p.swapped else p.widths[::-1]
        columns = n2 * (m2 if p.swapped != q.swapped else 1)
        grams = 0 if p.units else 2 * n1 * columns * p.positions * q.positions * apart
        met = 2 * shape.pairs * max(p.positions, q.positions) * together
        moved = 2 * n1 * n2 * m2 * p.positions * q.positions * together
        if p.positions == q.positions == 1:
            flops += p.layers * (grams + met)
        else:
            flops += p.layers * (met + MAP_WORK * (grams + moved))
    return flops


def factor_bytes(jacobian: FactoredJacobian, factored: Sequence[int]) -> tuple[int, int]:
    """Return the bytes that a row of J takes while it stays factored, and what a sample adds."""
    itemsize = max(leaf.dtype.itemsize for leaf in jacobian.trainable)
    row = sum(jacobian.trainable[leaf].size for leaf in jacobian.formed(factored))
    sample = 0
    for leaf in factored:
        for sizes in jacobian.factorings[leaf].sizes:
            widths = sizes.widths[::-1] if sizes.swapped else sizes.widths
            row += sizes.layers * sizes.positions * widths[1]
            sample += sizes.layers * sizes.positions * (1 if sizes.units else widths[0])
    return row * itemsize, sample * itemsize


def inner_products(left: FactoredRows, right: FactoredRows) -> Float[Array, "rows columns"]:
    """Return all inner products of two sets of rows, accumulated in `accumulation_dtype`."""
    rows, columns = left.formed.shape[:2], right.formed.shape[:2]
    dtype = numerics.accumulation_dtype()
    total = jnp.zeros((*rows, *columns), dtype)
    if left.formed.shape[-1]:
        total = jnp.einsum("iap,jbp->iajb", left.formed, right.formed, preferred_element_type=dtype)
    for mine, theirs in zip(left.factors, right.factors, strict=True):
        for p, q in itertools.product(mine, theirs):
            total = total + _pair(p, q)
    return total.reshape(rows[0] * rows[1], -1)


def _pair(p: Read, q: Read) -> Float[Array, "i a j b"]:
    """Return what a pair of reads of one weight adds to the kernel."""
    by_layer = jax.tree.map(lambda factor: jnp.moveaxis(factor, 2, 0), (p, q))
    first = jax.tree.map(lambda factor: factor[0], by_layer)
    if p[1].shape[2] == 1:
        return _pair_in_layer(*first)

    def add(total: Array, reads: tuple[Read, Read]) -> tuple[Array, None]:
        return total + _pair_in_layer(*reads), None

    shape = jax.eval_shape(_pair_in_layer, *first)
    zeros, by_layer = vary_alike((jnp.zeros(shape.shape, shape.dtype), by_layer))
    return jax.lax.scan(add, zeros, by_layer)[0]


def _pair_in_layer(p: Read, q: Read) -> Float[Array, "i a j b"]:
    if p[1].shape[2] == q[1].shape[2] == 1:
        at_position = jax.tree.map(lambda factor: factor[:, :, 0], (p, q))
        first, second = (meet(*sides) for sides in zip(*at_position, strict=True))
        return first * second
    own = 0 if p[0].shape[1] == 1 else 1  # the side whose factors belong to whole samples
    rest = 1 - own
    if p[own].shape[1] > 1 or are_units(p[rest]) or are_units(q[rest]):
        return jnp.transpose(_pair_in_layer(q, p), (2, 3, 0, 1))

    def of_sample(p: tuple[Array, Array]) -> Float[Array, "a j b"]:
        grams = meet(p[own][0], q[own])  # (t, j, b or 1, s)
        if grams.shape[2] == 1:
            moved = jnp.einsum("tjs,jbsd->jbtd", grams[:, :, 0], q[rest])
        elif q[rest].shape[1] == 1:
            moved = jnp.einsum("tjbs,jsd->jbtd", grams, q[rest][:, 0])
        else:
            moved = jnp.einsum("tjbs,jbsd->jbtd", grams, q[rest])
        return jnp.einsum("atd,jbtd->ajb", p[rest], moved)

    return jax.lax.map(of_sample, p)


@dataclasses.dataclass(frozen=True)
class FactoredBatch:
    """Rows of the Jacobian of a network at one batch, with the gradients in some weights factored.

    Attributes:
        batch: the same Jacobian, in whole rows.
        jacobian: of one sample.
        factored: the leaves whose gradients stay factored.
        by_sample: whether a sample has one row, in which its outputs stand side by side.
    """

    batch: BatchJacobian
    jacobian: FactoredJacobian
    factored: tuple[int, ...]
    by_sample: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, m)``, or ``(B, 1)``."""
        return (self.batch.shape[0], 1) if self.by_sample else self.batch.shape

    def rows(self, chunking: Chunking, index: Index, *, after: Array | None = None) -> FactoredRows:
        """Make a chunk of rows, once the number `after` is known."""
        inputs, outputs = self.batch.chunk(chunking, index, after=after)
        chosen = jnp.asarray(self.batch.chosen)
        if self.by_sample:
            return _side_by_side(self.jacobian.rows(inputs, chosen, self.factored))
        return self.jacobian.rows(inputs, chosen[outputs], self.factored)


def _one_gram(pairs: tuple[Read, ...]) -> int | None:
    """Return the side whose products are the same for all outputs, at one position, if one is."""
    for own, rest in ((0, 1), (1, 0)):
        if all(
            pair[own].shape[1] == pair[own].shape[3] == 1 and not are_units(pair[rest])
            for pair in pairs
        ):
            return own
    return None


def _side_by_side(rows: FactoredRows) -> FactoredRows:
    """Return one row for each sample: outputs become layers, whose products are added up."""
    num_samples, num_outputs = rows.formed.shape[:2]

    def layered(factor: Factor) -> Factor:
        factor = jnp.broadcast_to(factor, (num_samples, num_outputs, *factor.shape[2:]))
        return factor.reshape(num_samples, 1, -1, *factor.shape[3:])

    def widened(factor: Factor) -> Factor:
        return jnp.moveaxis(factor, 1, -2).reshape(num_samples, 1, *factor.shape[2:4], -1)

    def of_weight(pairs: tuple[Read, ...]) -> tuple[Read, ...]:
        own = _one_gram(pairs)
        if own is None:
            return tuple((layered(first), layered(second)) for first, second in pairs)
        if own == 0:
            return tuple((first, widened(second)) for first, second in pairs)
        return tuple((widened(first), second) for first, second in pairs)

    formed = rows.formed.reshape(num_samples, 1, -1)
    return FactoredRows(formed, tuple(map(of_weight, rows.factors)))


def _all_rows(side: FactoredBatch, chunk_size: int) -> FactoredRows:
    """Make the rows of all samples, by chunks."""
    # Two outputs at least, if there are as many: factors of one output look like those of all.
    chunking = Chunking.of(side.shape, max(2, chunk_size))
    convolves = any(factoring.convolves for factoring in side.jacobian.factorings.values())
    if convolves and jax.default_backend() == "cpu":  # slow in loops
        chunks = map_chunks(
            lambda index, after: side.rows(chunking, index, after=after), range(chunking.num_chunks)
        )
    else:
        chunks = jax.lax.map(
            lambda index: side.rows(chunking, index), jnp.arange(chunking.num_chunks)
        )

    def join(leaf: Array) -> Array:
        outputs, rest = leaf.shape[2], leaf.shape[3:]
        blocks = chunking.num_chunks // chunking.pieces
        leaf = leaf.reshape(blocks, chunking.pieces, chunking.samples, outputs, *rest)
        if outputs < chunking.outputs:
            joined = leaf[:, 0].reshape(blocks * chunking.samples, 1, *rest)
        else:
            shape = (blocks * chunking.samples, chunking.pieces * outputs, *rest)
            joined = jnp.moveaxis(leaf, 1, 2).reshape(shape)
        return joined[: chunking.num_samples, : chunking.num_outputs]

    return jax.tree.map(join, chunks)


def _block(rows: FactoredRows, chunking: Chunking, index: Index) -> FactoredRows:
    samples, outputs = chunking.members(index)

    def part(leaf: Array) -> Array:
        return leaf[samples] if leaf.shape[1] == 1 else leaf[samples[:, None], outputs]

    return jax.tree.map(part, rows)


def structured(
    left: FactoredBatch,
    right: FactoredBatch,
    *,
    chunk_size: int,
    block_size: int,
    symmetric: bool,
) -> Float[Array, "n1_m n2_m"]:
    """Make the factors of all rows, and let them meet in blocks; both halves are the same."""
    rows, columns = (Chunking.of(side.shape, block_size) for side in (left, right))
    stored = _all_rows(left, chunk_size)
    others = stored if symmetric else _all_rows(right, chunk_size)
    every = range(rows.num_chunks), range(columns.num_chunks)
    pairs = [(i, j) for i, j in itertools.product(*every) if not symmetric or j <= i]

    def add(kernel: Array, pair: Int[Array, 2]) -> tuple[Array, None]:
        i, j = pair
        block = inner_products(_block(stored, rows, i), _block(others, columns, j))
        if symmetric:
            block = jnp.where(i == j, (block + block.T) / 2, block)
            kernel = jax.lax.dynamic_update_slice(kernel, block.T, (j * rows.rows, i * rows.rows))
        return jax.lax.dynamic_update_slice(kernel, block, (i * rows.rows, j * columns.rows)), None

    shape = (rows.num_chunks * rows.rows, columns.num_chunks * columns.rows)
    kernel, stored, others = vary_alike(
        (jnp.zeros(shape, numerics.accumulation_dtype()), stored, others)
    )
    kernel, _ = jax.lax.scan(add, kernel, jnp.asarray(pairs))
    return columns.trim(rows.trim(kernel).T).T
