"""The pullbacks of all samples of a batch, with what a forward pass stored for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lnpjax import parameters
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._ghost_norms import add_taps, tap_shapes, zero_taps

Pullback: TypeAlias = Callable[[Array], PyTree]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SquaredNorms:
    """In place of the gradient in a weight: its squared norm, or those of its layers."""

    values: Float[Array, " *layers"]


def is_norms(node: Any) -> bool:
    """Whether a node of a gradient is `SquaredNorms`."""
    return isinstance(node, SquaredNorms)


@dataclasses.dataclass(frozen=True)
class StoredPullbacks:
    """What `store_pullbacks` makes.

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
        """``function(pullback_i, *arguments_i)`` for every sample.

        A pullback gives the gradient (in leaves with taps, what the tap leaves) and the taps'.
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
        """``function(vjp_i, *arguments_i)``, where no leaf has taps."""
        assert not self.tapped

        def with_gradient(pullback: Pullback, *arguments: PyTree) -> PyTree:
            return function(lambda cotangent: pullback(cotangent)[0], *arguments)

        return self.map(with_gradient, *arguments)

    def map_norms(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """``function(vjp_i, *arguments_i)``, with `SquaredNorms` for leaves with taps."""

        def with_norms(pullback: Pullback, *arguments: PyTree) -> PyTree:
            def vjp(cotangent: Array) -> PyTree:
                gradient, norms = pullback(cotangent)
                leaves: list[Any]
                structure: Any
                leaves, structure = jax.tree.flatten(gradient)
                for index, norm in zip(self.tapped, norms, strict=True):
                    leaves[index] = SquaredNorms(norm)
                return structure.unflatten(leaves)

            return function(vjp, *arguments)

        return self.map(with_norms, *arguments)

    def summed(
        self, cotangents: Float[Array, "batch ..."], *, apart: Callable[[str], bool] | None = None
    ) -> PyTree:
        """The gradients summed over samples, but for leaves that are to stay apart, by path."""
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
            (`lnpjax.jacobian`). Without, every sample's own gradient can be had.
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
    """``vmap`` over `mapped`; of all but the first output, only those that vary get a batch axis.

    Only `vmap` knows which do, and it tells custom batching rules: a dry run asks with one. Giving
    every stored value a batch axis would copy the weights once per sample.
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
