"""Closed forms for the table that embeds the inputs and the matrix that reads out.

In a language model most parameters often sit there, and both have simple Jacobians. With hidden
states h, a read-out ``f = h W`` with V outputs and an embedding ``x_t = E[id_t]``,

- ``|df/dW|_F^2 = V |h|^2``, without any probe;
- the gradient in E of a sample has the squared norm ``sum_{t,s} [id_t = id_s] u_t . u_s``, with
  the cotangents u_t of its embedded positions: a Gram matrix of positions;
- for all other parameters the random signs v are only needed as ``W v``, which has as many
  dimensions as h and can be drawn directly.

A model that says which of its parameters these are (`SplitModel`) is measured at a lower cost and
with less noise, and no gradient of the size of the vocabulary is formed per sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import checked_ids, require
from lnpjax._base.jaxprs import read_variables
from lnpjax.jacobian._contract import check_batch
from lnpjax.jacobian._ghost_norms import shared_rows_norm
from lnpjax.jacobian._linearize import SampleLinearization, linearize_samples
from lnpjax.jacobian._pullbacks import Norms

Body = Callable[[PyTree, Array], Array]
ROOT_BLOCK = 16
"""What is left of a matrix is brought up to date after so many columns of its root."""


@dataclasses.dataclass(frozen=True)
class SplitModel:
    """A model in three parts: ``outputs = body(params, table[inputs]) @ kernel``.

    It is itself an ``apply_fn(params, inputs)`` and serves wherever one does; `Hutchinson` knows
    the closed forms of its outer parts.

    Args:
        body: ``body(params, embedded (B, ..., d)) -> hidden (B, ..., h)``. It must not read the two
            outer parameters (a model with tied embeddings cannot be split) and must keep samples
            apart, as any model that is measured.
        embedding: the path of the table ``(ids, d)``; see `lnpjax.parameters.paths`.
        readout: the path of the kernel ``(h, outputs)``.
        from_end: whether an id of -1 reads the last row, as `jnp.take` has it; else it counts as
            one outside of the table, refused where values are known, and NaN elsewhere.

    Example:
        >>> params = {"table": jnp.eye(3), "kernel": jnp.ones((3, 2))}
        >>> model = SplitModel(lambda params, x: 2 * x, embedding="table", readout="kernel")
        >>> model(params, jnp.array([[0, 2]])).shape
        (1, 2, 2)
    """

    body: Body
    embedding: str
    readout: str
    from_end: bool = True

    def __call__(self, params: PyTree, inputs: Int[Array, "batch ..."]) -> Array:
        """Return the outputs, ``(B, ..., outputs)``.

        Raises:
            TypeError: if the inputs are not integers.
            ValueError: where values are known, if an id is outside of the table; elsewhere it gives
                NaN, which `status` flags.
        """
        table, kernel = self.outer(params)
        ids = self.ids(table, inputs)
        return read_out(self.body(params, jnp.take(table, ids, axis=0)), kernel)

    def ids(
        self, table: Float[Array, "ids d"], inputs: Int[Array, "batch ..."]
    ) -> Int[Array, "batch ..."]:
        """Return the rows that are read, each by its own number, from 0.

        Raises:
            TypeError: if the inputs are not integers.
            ValueError: where values are known, if one is outside of the table.
        """
        return checked_ids("inputs", inputs, len(table), from_end=self.from_end)

    def outer(self, params: PyTree) -> tuple[Float[Array, "ids d"], Float[Array, "h outputs"]]:
        """Return the table and the kernel.

        Raises:
            ValueError: if `params` has no matrices at the two paths.
        """
        leaves = dict(zip(parameters.paths(params), jax.tree.leaves(params), strict=True))
        for argument, path in (("embedding", self.embedding), ("readout", self.readout)):
            require(
                path in leaves and jnp.ndim(leaves[path]) == 2,
                argument,
                expected=f"the path of a matrix in params, one of {sorted(leaves)}",
                got=repr(path),
            )
        return leaves[self.embedding], leaves[self.readout]


def read_out(hidden: Float[Array, "... h"], kernel: Float[Array, "h outputs"]) -> Array:
    """Return ``hidden @ kernel`` in the dtype of the hidden states."""
    return hidden @ kernel.astype(hidden.dtype)


@dataclasses.dataclass(frozen=True)
class SplitLinearization:
    """A `SplitModel` at every sample of a batch; see `linearize_split`.

    `outer` names, by its position among the trainable leaves, each outer parameter that is trained.
    """

    outputs: Float[Array, "batch ... outputs"]
    body: SampleLinearization
    ids: Int[Array, "batch ..."]
    table: Float[Array, "ids d"]
    kernel: Float[Array, "h outputs"]
    trainable: PyTree
    outer: dict[str, int]

    @property
    def exact(self) -> list[int]:
        """The trainable leaves whose squared norm needs no probe, and so has no error."""
        return [position for name, position in self.outer.items() if name == "readout"]

    @property
    def probed(self) -> Float[Array, "batch ... h"]:
        """What random signs are drawn in the shape of: the hidden states."""
        return self.body.outputs

    def vjp(self, cotangents: Float[Array, "batch ... outputs"]) -> PyTree:
        """Return ``sum_i J_i^T cotangents_i``. Cost: 2/3 gradient."""
        hidden = self.body.outputs
        behind = cotangents @ self.kernel.T.astype(cotangents.dtype)
        pulled = self.body.vjp(behind, apart=lambda path: path == "embedded")
        inner = jax.tree.leaves(pulled["params"])
        every_position = tuple(range(hidden.ndim - 1))
        outer = {
            "embedding": jnp.zeros_like(self.table).at[self.ids].add(pulled["embedded"]),
            "readout": jnp.tensordot(hidden, cotangents, (every_position, every_position)).astype(
                self.kernel.dtype
            ),
        }
        return jax.tree.unflatten(jax.tree.structure(self.trainable), self._merged(inner, outer))

    def map_norms(
        self, function: Callable[..., PyTree], *arguments: PyTree, weights: PyTree | None = None
    ) -> PyTree:
        """Return `SampleLinearization.map_norms` for signs of the shape of the hidden states.

        ``norms_i(signs)`` are those of what a random vector pulls back that has, in the space of
        the hidden states, the distribution of ``W v`` to second order.
        """
        dtype = numerics.accumulation_dtype()
        # With L L^T = W W^T, random signs times L^T have the covariance of W v.
        kernel = self.kernel.astype(dtype)
        factor = semidefinite_root(kernel @ kernel.T).T.astype(self.probed.dtype)
        body_weights, outer_weights = self._split(weights)

        def one_sample(norms: Norms, ids: Array, hidden: Array, *arguments: PyTree) -> PyTree:
            def embedding_norm(cotangents: Array) -> Float[Array, ""]:
                return shared_rows_norm(
                    cotangents.astype(dtype).reshape(ids.size, -1),
                    ids.reshape(-1),
                    outer_weights.get("embedding"),
                )

            def all_norms(signs: Array) -> Float[Array, " leaf"]:
                embedding, *inner = norms(signs @ factor, {"embedded": embedding_norm})
                readout = _kernel_norm(
                    hidden.astype(dtype), self.kernel, outer_weights.get("readout")
                )
                outer = {"embedding": embedding, "readout": readout}
                return jnp.stack(self._merged(inner, outer))

            return function(all_norms, *arguments)

        rows = (self.ids, self.probed, *arguments)
        return self.body.map_norms(one_sample, *rows, weights=body_weights)

    def _merged(self, inner: list[Any], outer: dict[str, Any]) -> list[Any]:
        """Return one list in the order of the trainable leaves."""
        placed = {position: outer[name] for name, position in self.outer.items()}
        rest = iter(inner)
        return [
            placed[index] if index in placed else next(rest)
            for index in range(len(inner) + len(placed))
        ]

    def _split(self, weights: PyTree | None) -> tuple[PyTree | None, dict[str, Array]]:
        """Undo `_merged`: weights for the parameters of the body, and for the outer ones."""
        if weights is None:
            return None, {}
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(weights)]
        outer = {name: leaves[position] for name, position in self.outer.items()}
        inner = [leaf for i, leaf in enumerate(leaves) if i not in self.outer.values()]
        # The embedded positions are no parameter and have a norm of their own.
        return {"embedded": jnp.ones(()), "params": inner}, outer


def semidefinite_root(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return a lower triangular L with ``L L^T = matrix``, for a positive semi-definite matrix.

    Cholesky's method, leaving out columns whose pivot is zero up to rounding; by blocks of columns,
    so that what lies spread over devices is brought together once for each block.
    `jnp.linalg` would call LAPACK, whose threads go on spinning and slow down what follows on a CPU
    with few cores.

    Args:
        matrix: symmetric, without negative eigenvalues.

    Example:
        >>> semidefinite_root(jnp.array([[4.0, 2.0], [2.0, 1.0]]))
        Array([[2., 0.],
               [1., 0.]], dtype=float32)
    """
    size, block = len(matrix), min(ROOT_BLOCK, len(matrix))
    negligible = numerics.rounding_floor(jnp.max(jnp.diagonal(matrix)), size)
    missing = -size % block  # zeros, whose pivots are left out
    matrix = jnp.pad(matrix, (0, missing))

    def eliminate(
        number: Int[Array, ""], carry: tuple[Float[Array, "n n"], Float[Array, "n n"]]
    ) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        rest, root = carry
        first = number * block
        columns = jax.lax.dynamic_slice_in_dim(rest, first, block, axis=1)
        columns = _eliminated(columns, first, negligible)
        rest = rest - jnp.matmul(columns, columns.T, precision="highest")
        return rest, jax.lax.dynamic_update_slice_in_dim(root, columns, first, axis=1)

    carry = matrix, jnp.zeros_like(matrix)
    return jax.lax.fori_loop(0, len(matrix) // block, eliminate, carry)[1][:size, :size]


def _eliminated(
    columns: Float[Array, "n block"], first: Int[Array, ""], negligible: Float[Array, ""]
) -> Float[Array, "n block"]:
    """Return the columns of a root from number `first` on, given what is left of the matrix."""
    size, block = columns.shape

    def next_column(
        index: Int[Array, ""], carry: tuple[Float[Array, "n block"], Float[Array, "n block"]]
    ) -> tuple[Float[Array, "n block"], Float[Array, "n block"]]:
        rest, root = carry
        pivot = rest[first + index, index]
        below = jnp.where(jnp.arange(size) >= first + index, rest[:, index], 0)
        column = jnp.where(pivot > negligible, below / jnp.sqrt(jnp.maximum(pivot, negligible)), 0)
        own = jax.lax.dynamic_slice_in_dim(column, first, block)
        return rest - jnp.outer(column, own), root.at[:, index].set(column)

    return jax.lax.fori_loop(0, block, next_column, (columns, jnp.zeros_like(columns)))[1]


def _kernel_norm(
    hidden: Float[Array, "... h"],
    kernel: Float[Array, "h outputs"],
    weights: Float[Array, "h outputs"] | None,
) -> Float[Array, ""]:
    """Return ``V |h|^2``: each of the V outputs has h as its gradient in its own column."""
    per_row = kernel.shape[1] if weights is None else jnp.sum(weights.astype(hidden.dtype), axis=1)
    return numerics.accurate_sum(jnp.square(hidden) * per_row)


def linearize_split(
    model: SplitModel, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
) -> SplitLinearization:
    """Linearise a `SplitModel` at every sample of a batch.

    Args:
        model: the model.
        params: its parameters.
        inputs: ids ``(B, ...)``.
        wrt: the trainable subset.

    Returns:
        A `SplitLinearization`, with ``outputs`` and ``vjp`` as every linearisation has them.

    Raises:
        ValueError: if the body reads an outer parameter; and as `linearize_samples`.

    Cost: one forward pass.
    """
    check_batch(model, params, inputs)
    table, kernel = model.outer(params)
    _require_untied(model, params, inputs)
    trainable, _ = parameters.partition(params, wrt)
    names = parameters.paths(trainable)
    outer_paths = {"embedding": model.embedding, "readout": model.readout}
    outer = {name: names.index(path) for name, path in outer_paths.items() if path in names}
    inner, _ = parameters.split_paths(trainable, lambda path: path not in outer_paths.values())

    def body(perturbed: PyTree, embedded: Array) -> Array:
        subset = parameters.combine(perturbed["params"], params)
        return model.body(subset, embedded + perturbed["embedded"])

    ids = model.ids(table, inputs)
    embedded = jnp.take(table, ids, axis=0)
    # A perturbation of the embedded positions gives their cotangents, sample by sample.
    still = jnp.zeros(embedded.shape[1:], embedded.dtype)
    linearization = linearize_samples(
        body, {"params": inner, "embedded": still}, embedded, norms_only=True
    )
    assert isinstance(linearization, SampleLinearization)
    outputs = read_out(linearization.outputs, kernel)
    return SplitLinearization(outputs, linearization, ids, table, kernel, trainable, outer)


def _require_untied(model: SplitModel, params: PyTree, inputs: PyTree) -> None:
    outer = (model.embedding, model.readout)
    inner, rest = parameters.split_paths(params, lambda path: path not in outer)
    table, _ = model.outer(params)
    embedded = jax.eval_shape(lambda: jnp.take(table, inputs, axis=0))

    def body(outer_params: PyTree, embedded: Array) -> Array:
        return model.body(parameters.combine(outer_params, inner), embedded)

    jaxpr = jax.make_jaxpr(body)(rest, embedded).jaxpr
    read = read_variables(jaxpr)
    used = [
        path
        for path, variable in zip(parameters.paths(rest), jaxpr.invars, strict=False)
        if variable in read
    ]
    require(
        not used,
        "body",
        expected="a function that reads neither the table nor the kernel (if they are tied, "
        "measure the model as a plain apply_fn)",
        got=f"one that reads {', '.join(map(repr, used))}",
    )
