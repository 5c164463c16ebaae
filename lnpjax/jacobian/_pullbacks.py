"""The pullbacks of all samples of a batch, with what a forward pass stored for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._factored_norms import cheap_factorings, factored_norm
from lnpjax.jacobian._factorings import Factoring
from lnpjax.jacobian._ghost_norms import add_taps, tap_shapes, zero_taps
from lnpjax.jacobian._reads import tapped

Pullback: TypeAlias = Callable[[Array], PyTree]
"""``vjp(cotangent) = J^T cotangent``, in the structure of the parameters."""
Measured: TypeAlias = tuple[PyTree, Callable[[], dict[int, Float[Array, ""]]]]
"""``J^T cotangent``, and what gives the squared norms that are known without it, by leaf."""
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
        treedef: of ``(output, pullback, others)``.
        trainable: the parameters, for their structure.
        tapped: which of their leaves have taps that collect norms (`_ghost_norms`).
        factorings: of leaves whose norms are those of factors (`_factored_norms`).
    """

    residuals: list[Array]
    axes: tuple[int | None, ...]
    treedef: Any
    trainable: PyTree
    tapped: tuple[int, ...]
    factorings: Mapping[int, Factoring]

    @property
    def outputs(self) -> Float[Array, "batch ..."]:
        """The network outputs."""
        return self.treedef.unflatten(self.residuals)[0]

    @property
    def measures_norms(self) -> bool:
        """Whether some norms are taken without gradients."""
        return bool(self.tapped or self.factorings)

    def map(self, function: Callable[..., PyTree], *arguments: PyTree, out_axes: Any = 0) -> PyTree:
        """Return ``function(pullback_i, *arguments_i)`` for every sample, stacked.

        A pullback gives the gradient in the parameters (that of the whole batch in leaves with
        taps) and what gives norms; see `Measured`.
        """

        def one_sample(residuals: list[Array], *arguments: PyTree) -> PyTree:
            _, pullback, others = self.treedef.unflatten(residuals)

            def pull(cotangent: Array) -> Measured:
                gradient, *taps = pullback(vary_alike((cotangent, residuals))[0])
                return gradient, lambda: self._known_norms(others, *taps)

            return function(pull, *arguments)

        in_axes = (list(self.axes), *([0] * len(arguments)))
        mapped = jax.vmap(one_sample, in_axes, out_axes, axis_size=len(self.outputs))
        return mapped(self.residuals, *arguments)

    def map_gradients(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Return ``function(vjp_i, *arguments_i)`` for every sample; no leaf may have taps."""
        assert not self.measures_norms

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
        assert weights is None or not self.measures_norms
        count = len(jax.tree.leaves(self.trainable))
        leaf_weights = [None] * count if weights is None else jax.tree.leaves(weights)

        def with_norms(pullback: Pullback, *arguments: PyTree) -> PyTree:
            def norms(cotangent: Array, own: OwnNorms | None = None) -> Float[Array, " leaf"]:
                gradient, known = pullback(cotangent)
                return self._squared_norms(gradient, known(), leaf_weights, own or {})

            return function(norms, *arguments)

        return self.map(with_norms, *arguments)

    def _known_norms(
        self, others: list[Array], norms: list[Array], sensitivities: list[Array]
    ) -> dict[int, Float[Array, ""]]:
        """Return the norms of one sample's gradients in leaves with taps and in factored ones."""
        known = {  # added up over layers, where they are stacked
            leaf: jnp.sum(norm) for leaf, norm in zip(self.tapped, norms, strict=True)
        }
        arrays = iter(others), iter(sensitivities)
        factored = {
            leaf: factored_norm(factoring, *arrays) for leaf, factoring in self.factorings.items()
        }
        return known | factored

    def _squared_norms(
        self,
        gradient: PyTree,
        known: Mapping[int, Float[Array, ""]],
        weights: list[Array | None],
        own: OwnNorms,
    ) -> Float[Array, " leaf"]:
        def squared_norm(
            index: int, path: str, leaf: Array, weight: Array | None
        ) -> Float[Array, ""]:
            if path in own:
                return own[path](leaf)
            if index in known:
                return known[index]
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
    tap = _with_taps if ghost_norms else _without_taps
    network = tap(apply_one, trainable, sample)
    treedef: Any = None

    def linearize_one(trainable: PyTree, taps: _Taps, sample: PyTree) -> list[Array]:
        nonlocal treedef
        apply = functools.partial(network.apply, sample=sample)
        leaves, treedef = jax.tree.flatten(jax.vjp(apply, trainable, *taps, has_aux=True))
        return leaves

    # Two traces may store the same things in another order, so one jaxpr serves all that follows.
    shared, _ = vary_alike(((trainable, network.taps), inputs))
    jaxpr = jax.make_jaxpr(linearize_one)(*shared, sample)
    residuals, axes = _vmap_lazily(
        jax.extend.core.jaxpr_as_fun(jaxpr), jax.tree.leaves(shared), jax.tree.leaves(inputs)
    )
    return StoredPullbacks(residuals, axes, treedef, trainable, network.tapped, network.factorings)


_Taps: TypeAlias = tuple[list[Array], list[Array]]
"""What goes into the taps that collect norms, and into those whose gradients are sensitivities."""


class _Network(NamedTuple):
    """A network of one sample, with taps.

    Attributes:
        apply: ``apply(trainable, norms, sensitivities, sample) -> output, others``; see `_Taps` and
            `_factored_norms`.
        taps: what goes into them.
        tapped: which leaves have the first ones.
        factorings: of the leaves that have the second ones.
    """

    apply: Callable[..., tuple[Array, list[Array]]]
    taps: _Taps
    tapped: tuple[int, ...]
    factorings: Mapping[int, Factoring]


def _without_taps(
    apply_one: Callable[[PyTree, PyTree], Array], trainable: PyTree, sample: PyTree
) -> _Network:
    del trainable, sample

    def apply(subset: PyTree, *taps: list[Array], sample: PyTree) -> tuple[Array, list[Array]]:
        del taps
        return apply_one(subset, sample), []

    return _Network(apply, ([], []), (), {})


def _with_taps(
    apply_one: Callable[[PyTree, PyTree], Array], trainable: PyTree, sample: PyTree
) -> _Network:
    """Put taps into the program of a network where norms cost less than gradients."""
    program = jax.make_jaxpr(apply_one)(trainable, sample)
    count = len(jax.tree.leaves(trainable))
    alone = tap_shapes(program.jaxpr, count)
    factorings = cheap_factorings(program.jaxpr, [i for i in range(count) if i not in alone])
    places = [read for factoring in factorings.values() for read in factoring.reads]
    if not alone and not places:
        return _without_taps(apply_one, trainable, sample)
    zeros = [jnp.zeros(read.tap_shape, read.equation.outvars[0].aval.dtype) for read in places]
    zeros, _ = vary_alike((zeros, trainable))
    whole, shapes = program, alone
    if places:
        whole = jax.make_jaxpr(tapped(program, places))(jax.tree.leaves((trainable, sample)), zeros)
        shapes = tap_shapes(whole.jaxpr, count)

    def apply(
        subset: PyTree, norms: list[Array], sensitivities: list[Array], *, sample: PyTree
    ) -> tuple[Array, list[Array]]:
        leaves = [*jax.tree.leaves((subset, sample)), *sensitivities]
        output, *others = add_taps(whole, tuple(shapes))(leaves, norms)
        return output, others

    return _Network(apply, (zero_taps(shapes), zeros), tuple(shapes), factorings)


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
