"""The pullbacks of all samples of a batch, with what a forward pass stored for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._ghost_norms import add_taps, tap_shapes, zero_taps

Pullback: TypeAlias = Callable[[Array], PyTree]
"""``vjp(cotangent) = J^T cotangent``, in the structure of the parameters."""
Norms: TypeAlias = Callable[..., Float[Array, " leaf"]]
"""``norms(cotangent, own=None)``: the squared norm of ``J^T cotangent`` in every leaf."""
OwnNorms: TypeAlias = Mapping[str, Callable[[Array], Float[Array, ""]]]
"""By path, functions of the gradient in a leaf whose results stand for its squared norm."""


@dataclasses.dataclass(frozen=True)
class StoredPullbacks:
    """The pullbacks of all samples, made by `store_pullbacks`.

    Attributes:
        residuals: what was stored; the leaves of ``(output, pullback)``.
        axes: the batch axis of each residual, `None` where all samples share it.
        treedef: of ``(output, pullback)``.
        trainable: the parameters, for their structure.
        tapped: which of their leaves have taps (`lnpjax.jacobian`).
    """

    residuals: list[Array]
    axes: tuple[int | None, ...]
    treedef: Any
    trainable: PyTree
    tapped: tuple[int, ...]

    @property
    def outputs(self) -> Float[Array, "batch ..."]:
        """The network outputs."""
        return self.treedef.unflatten(self.residuals)[0]

    def map(self, function: Callable[..., PyTree], *arguments: PyTree, out_axes: Any = 0) -> PyTree:
        """Return ``function(pullback_i, *arguments_i)`` for every sample, stacked.

        A pullback gives two gradients: in the parameters (that of the whole batch in leaves with
        taps) and in the taps.
        """

        def one_sample(residuals: list[Array], *arguments: PyTree) -> PyTree:
            pullback = self.treedef.unflatten(residuals)[1]

            def pull(cotangent: Array) -> PyTree:
                return pullback(vary_alike((cotangent, residuals))[0])

            return function(pull, *arguments)

        in_axes = (list(self.axes), *([0] * len(arguments)))
        mapped = jax.vmap(one_sample, in_axes, out_axes, axis_size=len(self.outputs))
        return mapped(self.residuals, *arguments)

    def map_gradients(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Return ``function(vjp_i, *arguments_i)`` for every sample; no leaf may have taps."""
        assert not self.tapped

        def with_gradient(pullback: Pullback, *arguments: PyTree) -> PyTree:
            return function(lambda cotangent: pullback(cotangent)[0], *arguments)

        return self.map(with_gradient, *arguments)

    def map_norms(
        self, function: Callable[..., PyTree], *arguments: PyTree, weights: PyTree | None = None
    ) -> PyTree:
        """Return ``function(norms_i, *arguments_i)`` for every sample, stacked; see `Norms`.

        Args:
            function: what is computed for a sample.
            *arguments: pytrees whose leaves lead with the batch.
            weights: what the squares are weighted with, in the structure of the parameters. A tap
                knows nothing of them: no leaf may have one then.
        """
        assert weights is None or not self.tapped
        count = len(jax.tree.leaves(self.trainable))
        leaf_weights = [None] * count if weights is None else jax.tree.leaves(weights)

        def with_norms(pullback: Pullback, *arguments: PyTree) -> PyTree:
            def norms(cotangent: Array, own: OwnNorms | None = None) -> Float[Array, " leaf"]:
                gradient, tap_norms = pullback(cotangent)
                return self._squared_norms(gradient, tap_norms, leaf_weights, own or {})

            return function(norms, *arguments)

        return self.map(with_norms, *arguments)

    def _squared_norms(
        self,
        gradient: PyTree,
        tap_norms: list[Array],
        weights: list[Array | None],
        own: OwnNorms,
    ) -> Float[Array, " leaf"]:
        tapped = dict(zip(self.tapped, tap_norms, strict=True))

        def squared_norm(
            index: int, path: str, leaf: Array, weight: Array | None
        ) -> Float[Array, ""]:
            if path in own:
                return own[path](leaf)
            if index in tapped:
                return jnp.sum(tapped[index])  # over layers, where they are stacked
            return numerics.inner_product(
                *((leaf, leaf) if weight is None else (leaf, leaf, weight))
            )

        paths, leaves = parameters.paths(self.trainable), jax.tree.leaves(gradient)
        rows = zip(range(len(leaves)), paths, leaves, weights, strict=True)
        return jnp.stack([squared_norm(*row) for row in rows])

    def summed(
        self, cotangents: Float[Array, "batch ..."], *, apart: Callable[[str], bool] | None = None
    ) -> PyTree:
        """Return the gradients summed over samples, except in leaves that stay apart.

        Args:
            cotangents: of every sample.
            apart: by path, whether the samples' gradients in a leaf are kept.
        """
        leaves, treedef = jax.tree.flatten(self.trainable)
        structure: Any = treedef
        kept = [apart is not None and apart(path) for path in parameters.paths(self.trainable)]

        def one_sample(pullback: Pullback, cotangent: Array) -> list[Array]:
            return jax.tree.leaves(pullback(cotangent)[0])

        # A tap has summed already.
        axes: list[int | None] = [None if i in self.tapped else 0 for i in range(len(leaves))]
        gradients = self.map(one_sample, cotangents, out_axes=axes)
        return structure.unflatten(
            gradient if axis is None or keep else jnp.sum(gradient, axis=0)
            for gradient, axis, keep in zip(gradients, axes, kept, strict=True)
        )


def store_pullbacks(
    apply_one: Callable[[PyTree, PyTree], Array],
    trainable: PyTree,
    inputs: PyTree,
    *,
    ghost_norms: bool,
) -> StoredPullbacks:
    """Run a network forward on every sample, and store what its pullback needs.

    Args:
        apply_one: ``apply_one(trainable, sample) -> output``.
        trainable: the parameters.
        inputs: the samples, along the first axis of every leaf.
        ghost_norms: whether norms are taken without gradients, where that can be done
            (`lnpjax.jacobian`). Otherwise `StoredPullbacks.map_gradients` gives every sample's own
            gradient.
    """
    trainable, _ = vary_alike((trainable, inputs))
    sample = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], inputs))
    shapes: dict[int, tuple[int, ...]] = {}
    if ghost_norms:
        program = jax.make_jaxpr(apply_one)(trainable, sample)
        shapes = tap_shapes(program.jaxpr, len(jax.tree.leaves(trainable)))
    treedef: Any = None

    def linearize_one(trainable: PyTree, taps: list[Array], sample: PyTree) -> list[Array]:
        nonlocal treedef

        def apply(subset: PyTree, taps: list[Array]) -> Array:
            if not shapes:
                return apply_one(subset, sample)
            return add_taps(program, tuple(shapes))(jax.tree.leaves((subset, sample)), taps)[0]

        leaves, treedef = jax.tree.flatten(jax.vjp(apply, trainable, taps))
        return leaves

    # Two traces may store the same things in another order, so one jaxpr serves all that follows.
    shared, _ = vary_alike(((trainable, zero_taps(shapes)), inputs))
    jaxpr = jax.make_jaxpr(linearize_one)(*shared, sample)
    residuals, axes = _vmap_lazily(
        jax.extend.core.jaxpr_as_fun(jaxpr), jax.tree.leaves(shared), jax.tree.leaves(inputs)
    )
    return StoredPullbacks(residuals, axes, treedef, trainable, tuple(shapes))


def _vmap_lazily(
    function: Callable[..., list[Array]], shared: list[Array], mapped: list[Array]
) -> tuple[list[Array], tuple[int | None, ...]]:
    """Return ``vmap`` over `mapped`, with a batch axis only where results vary; and the axes.

    Only `vmap` knows which results vary, and it tells custom batching rules: a dry run asks with
    one. Giving every stored value a batch axis would copy the weights once per sample.
    """
    varies: list[bool] = []

    @jax.custom_batching.custom_vmap
    def ask(outputs: list[Array]) -> list[Array]:
        return outputs

    @ask.def_vmap
    def _note_answer(
        axis_size: int, in_batched: tuple[list[bool]], outputs: list[Array]
    ) -> tuple[list[Array], list[bool]]:
        del axis_size
        varies[:] = varies or in_batched[0]
        return outputs, in_batched[0]

    in_axes = (None,) * len(shared) + (0,) * len(mapped)
    dry_run = jax.vmap(lambda *arguments: ask(function(*arguments)), in_axes=in_axes)
    num_outputs = len(jax.eval_shape(dry_run, *shared, *mapped))
    varies = varies or [False] * num_outputs
    # The first is the network's output, which has a row per sample even if it ignores its inputs.
    axes = (0, *(0 if varied else None for varied in varies[1:]))
    return jax.vmap(function, in_axes=in_axes, out_axes=list(axes))(*shared, *mapped), axes
