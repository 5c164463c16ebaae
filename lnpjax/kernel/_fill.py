"""Ways to fill an empirical NTK, Theta = J_1 P J_2^T, from whole rows of J.

With N_1 and N_2 rows (samples times outputs), n_1 samples, P parameters and F operations for the
forward pass of one sample, in matrix-product operations:

- contraction: a row of J costs 3 F; all pairs of rows cost ``2 N_1 N_2 P``. Where J does not fit at
  once, the rows of J_2 are made anew for every chunk of rows of J_1.
- products: each of the N_2 rows costs 3 F, and pushing it forward through n_1 samples 2 n_1 F.

A dense layer has F = 2 P at one position, and ``2 P T`` at T positions. So contraction wins for
networks that share weights over many positions and have few outputs, products for many outputs per
sample. Novak et al. (2022) compare the same two ways in more depth. `lnpjax.kernel._structured` is
for rows that stay in factors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian import ApplyFn, Linearization, OutputSubset, linearize
from lnpjax.jacobian._linearize import linearize_samples
from lnpjax.jacobian._outputs import chosen_outputs
from lnpjax.jacobian._preconditioners import precondition

Index: TypeAlias = int | Int[Array, ""]
Tree = TypeVar("Tree")
STORED_CHUNKS = 4
"""How many chunks of rows of J_1 a contraction keeps while it makes those of J_2 one by one."""
MAX_UNROLLED = 8
"""So many chunks are written out instead of looped over: on a CPU, a convolution within a loop is
compiled to code that is several times slower."""


class Chunking(NamedTuple):
    """Rows of J in chunks of whole samples, or of some outputs of one sample.

    Chunk q holds the outputs ``a * (q % pieces)`` and following of the samples
    ``s * (q // pieces)`` and following, and repeats what lies past the end.
    """

    samples: int
    outputs: int
    num_samples: int
    num_outputs: int

    @classmethod
    def of(cls, shape: tuple[int, int], rows: int) -> Chunking:
        """Cut into chunks of about that many rows, as equal as possible."""
        num_samples, num_outputs = shape
        samples, outputs = max(1, rows // num_outputs), min(rows, num_outputs)
        return cls(_even(num_samples, samples), _even(num_outputs, outputs), *shape)

    @property
    def pieces(self) -> int:
        """Into how many chunks the outputs of a sample are cut."""
        return -(-self.num_outputs // self.outputs)

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.num_samples // self.samples) * self.pieces

    @property
    def rows(self) -> int:
        """Rows in a chunk."""
        return self.samples * self.outputs

    def members(self, index: Index) -> tuple[Int[Array, " samples"], Int[Array, " outputs"]]:
        """Return the samples and outputs of a chunk."""
        block, piece = index // self.pieces, index % self.pieces
        samples = block * self.samples + jnp.arange(self.samples)
        outputs = piece * self.outputs + jnp.arange(self.outputs)
        return (
            jnp.minimum(samples, self.num_samples - 1),
            jnp.minimum(outputs, self.num_outputs - 1),
        )

    def trim(self, padded: Float[Array, "padded ..."]) -> Float[Array, "rows ..."]:
        """Drop what the last chunks hold past the end."""
        rest = padded.shape[1:]
        whole = padded[: self.num_chunks * self.rows]
        whole = whole.reshape(-1, self.pieces * self.outputs, *rest)
        return whole[: self.num_samples, : self.num_outputs].reshape(-1, *rest)


def _even(total: int, most: int) -> int:
    """Return the size of equal parts of at most that size."""
    return -(-total // -(-total // min(most, total)))


@dataclasses.dataclass(frozen=True)
class BatchJacobian:
    """The Jacobian of a network with outputs ``(B, m)`` at one batch, by rows or as a function.

    Row k of its Jacobian belongs to output ``k % m`` of sample ``k // m``.

    Attributes:
        apply_fn: the network, with the outputs that are chosen.
        params: its parameters.
        inputs: the batch.
        wrt: the trainable subset.
        whole_fn: the network with all outputs, if it is another.
        subset: which of them are chosen.
    """

    apply_fn: ApplyFn
    params: PyTree
    inputs: PyTree
    wrt: parameters.Subset
    whole_fn: ApplyFn | None = None
    subset: OutputSubset = None

    @functools.cached_property
    def outputs(self) -> jax.ShapeDtypeStruct:
        """Shape and precision of the outputs."""
        return jax.eval_shape(self.apply_fn, self.params, self.inputs)

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, m)``."""
        return self.outputs.shape

    @property
    def num_rows(self) -> int:
        """``B m``."""
        return self.shape[0] * self.shape[1]

    def rows(self, chunking: Chunking, index: Index, *, after: Array | None = None) -> PyTree:
        """Make a chunk of rows of J, each from its own sample, once the number `after` is known."""
        inputs, outputs = self.chunk(chunking, index, after=after)
        basis = jax.nn.one_hot(outputs, chunking.num_outputs, dtype=self.outputs.dtype)
        linearization = linearize_samples(self.apply_fn, self.params, inputs, wrt=self.wrt)
        rows = linearization.map_vjp(lambda vjp: jax.vmap(vjp)(basis))
        return jax.tree.map(lambda leaf: leaf.reshape(chunking.rows, *leaf.shape[2:]), rows)

    def chunk(
        self, chunking: Chunking, index: Index, *, after: Array | None = None
    ) -> tuple[PyTree, Int[Array, " outputs"]]:
        """Return the samples of a chunk, and its outputs, once the number `after` is known.

        Without that order XLA would make all chunks first and hold them all.
        """
        samples, outputs = chunking.members(index)
        if after is not None:  # changes nothing, but XLA cannot know
            samples = jnp.minimum(samples, chunking.num_samples + jnp.isnan(after))
        inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[samples], self.inputs)
        return inputs, outputs

    @property
    def chosen(self) -> Int[np.ndarray, " m"]:
        """Which outputs of a sample are chosen, counted in row-major order."""
        network = self.whole_fn or self.apply_fn
        shape = jax.eval_shape(network, self.params, self.inputs).shape
        return chosen_outputs(shape[1:], self.subset)

    def takes(self, inputs: PyTree) -> bool:
        """Return whether the network can be called with such inputs."""
        try:
            jax.eval_shape(self.apply_fn, self.params, inputs)
        except Exception:  # whatever a network raises
            return False
        return True

    @property
    def transposable(self) -> bool:
        """`Linearization.transposable`, without a forward pass."""
        answers: list[bool] = []

        def ask() -> Array:
            linearization = self.linearization()
            answers.append(linearization.transposable)
            return linearization.outputs

        jax.eval_shape(ask)
        return answers[0]

    def linearization(self) -> Linearization:
        """Linearize the batch as one function."""
        return linearize(self.apply_fn, self.params, self.inputs, wrt=self.wrt)


class Rows(Protocol):
    """The rows of a Jacobian, whole or in factors."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(B, m)``."""

    def rows(self, chunking: Chunking, index: Index, *, after: Array | None = None) -> PyTree:
        """Make a chunk of rows, once the number `after` is known."""


def contraction(
    left: Rows,
    right: Rows,
    inner_products: Callable[[PyTree, PyTree], Float[Array, "rows columns"]],
    *,
    weights: PyTree | None,
    chunk_size: int,
    symmetric: bool,
) -> Float[Array, "n1_m n2_m"]:
    """Contract rows of J_1 with rows of J_2 by blocks; the lower half of a symmetric kernel."""
    rows = Chunking.of(left.shape, chunk_size)
    columns = Chunking.of(right.shape, chunk_size)
    stored = _even(rows.num_chunks, STORED_CHUNKS)

    def block_row(first: Index, after: Array | None) -> Float[Array, "block columns"]:
        parts: list[PyTree] = []
        for offset in range(stored):
            index = _at_most(first + offset, rows.num_chunks - 1)
            parts.append(precondition(left.rows(rows, index, after=after), weights))
            after = _a_number(parts[-1])

        def contract(others: PyTree) -> Float[Array, "block chunk"]:
            return jnp.concatenate([inner_products(part, others) for part in parts])

        def block(index: Index, after: Array | None) -> Float[Array, "block chunk"]:
            kept = _known(first) and _known(index) and 0 <= index - first < stored
            if symmetric and kept and weights is None:
                return contract(parts[index - first])
            return contract(right.rows(columns, index, after=after))

        def block_below_diagonal(index: Index, after: Array | None) -> Float[Array, "block chunk"]:
            blank = jnp.zeros((stored * rows.rows, columns.rows), numerics.accumulation_dtype())
            blank, _ = vary_alike((blank, parts))
            needed = index < first + stored
            if isinstance(needed, bool):
                return block(index, after) if needed else blank
            return jax.lax.cond(needed, lambda i: block(i, None), lambda _: blank, index)

        blocks = map_chunks(
            block_below_diagonal if symmetric else block, range(columns.num_chunks), after
        )
        return jnp.moveaxis(blocks, 0, 1).reshape(stored * rows.rows, -1)

    kernel = map_chunks(block_row, range(0, rows.num_chunks, stored))
    kernel = rows.trim(kernel.reshape(-1, kernel.shape[-1]))
    return columns.trim(kernel.T).T


def map_chunks(
    function: Callable[[Index, Array | None], Tree], indices: range, after: Array | None = None
) -> Tree:
    """Return ``stack([function(index, ...) for index in indices])``, looping over many.

    Written out, each call receives an entry of the result before it, to be made `after` it.
    """
    if len(indices) > MAX_UNROLLED:
        return jax.lax.map(lambda index: function(index, None), jnp.asarray(indices))
    results = []
    for index in indices:
        results.append(function(index, after))
        after = _a_number(results[-1])
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _a_number(tree: PyTree) -> Array:
    return next(leaf for leaf in jax.tree.leaves(tree) if leaf.size).ravel()[-1]


def _known(index: Index) -> bool:
    return isinstance(index, int)


def _at_most(index: Index, last: int) -> Index:
    return min(index, last) if isinstance(index, int) else jnp.minimum(index, last)


def products(
    left: BatchJacobian, right: BatchJacobian, *, weights: PyTree | None, chunk_size: int
) -> Float[Array, "n1_m n2_m"]:
    """Compute column k as ``J_1 P (J_2^T e_k)``, with ``J_2^T e_k`` from its own sample."""
    chunking = Chunking.of(right.shape, chunk_size)
    push = jax.vmap(left.linearization().jvp)

    def columns(index: Index, after: Array | None) -> Float[Array, "chunk n1 m"]:
        return push(precondition(right.rows(chunking, index, after=after), weights))

    kernel = map_chunks(columns, range(chunking.num_chunks))
    return _transposed(chunking.trim(kernel.reshape(-1, left.num_rows)))


def batch_products(
    left: BatchJacobian, right: BatchJacobian, *, weights: PyTree | None, chunk_size: int
) -> Float[Array, "n1_m n2_m"]:
    """Pull the whole batch back for each column: also right where samples interact."""
    pull, push = right.linearization(), left.linearization()

    def column(index: Int[Array, ""]) -> Float[Array, "n1 m"]:
        basis = jax.nn.one_hot(index, right.num_rows, dtype=pull.outputs.dtype)
        return push.jvp(precondition(pull.vjp(basis.reshape(right.shape)), weights))

    def each(indices: Int[Array, " chunk"]) -> Float[Array, "chunk n1 m"]:
        try:
            return jax.vmap(column)(indices)
        except NotImplementedError:  # an operation without a rule for vmap
            return jax.lax.map(column, indices)

    def columns(start: Index, after: Array | None) -> Float[Array, "chunk n1 m"]:
        del after
        return each(start + jnp.arange(chunk_size))

    kernel = map_chunks(columns, range(0, right.num_rows, chunk_size))
    return _transposed(kernel.reshape(-1, left.num_rows)[: right.num_rows])


def _transposed(columns: Float[Array, "n2_m n1_m"]) -> Float[Array, "n1_m n2_m"]:
    return columns.T.astype(numerics.accumulation_dtype())


def inner_products(left: PyTree, right: PyTree) -> Float[Array, "rows columns"]:
    """Return all inner products of two sets of rows, accumulated in `accumulation_dtype`."""

    def within_leaf(left: Array, right: Array) -> Float[Array, "rows columns"]:
        return jnp.einsum(
            "rp,cp->rc",
            left.reshape(len(left), -1),
            right.reshape(len(right), -1),
            preferred_element_type=numerics.accumulation_dtype(),
        )

    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(within_leaf, left, right)))
