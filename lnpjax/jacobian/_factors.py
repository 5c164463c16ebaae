"""Rows of J in which the gradients of some weights stay factored."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._contract import ApplyFn, one_sample_at_a_time
from lnpjax.jacobian._factorings import (
    Arrays,
    Factor,
    Factoring,
    Layout,
    cut,
    factors_of,
    fit_together,
)
from lnpjax.jacobian._linearize import partition_as_taken
from lnpjax.jacobian._reads import Read, last_product, reads, tapped


class FactoredRows(NamedTuple):
    """Rows of J, for chosen outputs of some samples.

    Attributes:
        formed: gradients in all the weights that do not stay factored, one after another.
        factors: for each of the others, by read: pairs of factors, whose products, added over
            positions and reads, are the gradient.
    """

    formed: Float[Array, "samples outputs parameters"]
    factors: tuple[tuple[tuple[Factor, Factor], ...], ...]


@dataclasses.dataclass(frozen=True)
class FactoredJacobian:
    """A network of one sample, and which weights' gradients can stay factored.

    Attributes:
        trainable: the leaves of the trainable parameters.
        program: of the network, given them and the leaves of a sample.
        factorings: by leaf.
    """

    trainable: list[Array]
    program: Any
    factorings: dict[int, Factoring]

    def formed(self, factored: Collection[int]) -> list[int]:
        """Return the leaves whose gradients are formed if those of others stay factored."""
        biases = {self.factorings[leaf].bias for leaf in factored}
        return [i for i in range(len(self.trainable)) if i not in factored and i not in biases]

    def _from_patches(self, leaf: int) -> bool:
        """Return whether a gradient is better formed of its factors than by going back to it.

        That of filters, for one output, is a convolution that no other output shares.
        """
        return leaf in self.factorings and self.factorings[leaf].convolves

    def rows(
        self, inputs: PyTree, outputs: Int[Array, " outputs"], factored: Sequence[int]
    ) -> FactoredRows:
        """Return rows of J for every sample.

        Args:
            inputs: the samples, along the first axis of every leaf.
            outputs: which outputs of a sample, counted in row-major order.
            factored: the leaves whose gradients stay factored.
        """
        formed = self.formed(factored)
        filters = [leaf for leaf in formed if self._from_patches(leaf)]
        weights = [leaf for leaf in formed if leaf not in filters]
        places = [read for leaf in (*factored, *filters) for read in self.factorings[leaf].reads]
        network = _Tapped(self, weights, places, self._readout(factored))

        def one_sample(sample: PyTree) -> FactoredRows:
            gradients, arrays = network.pull_back(sample, outputs)
            kept = tuple(factors_of(self.factorings[leaf], arrays) for leaf in factored)
            for leaf in filters:
                pairs = factors_of(self.factorings[leaf], arrays)
                made = [jnp.einsum("altd,olte->olde", *pair) for pair in pairs]
                gradients.append(functools.reduce(jnp.add, made))
            flat = [gradient.reshape(len(outputs), -1) for gradient in gradients]
            whole = jnp.concatenate(flat, axis=1) if flat else jnp.zeros((len(outputs), 0))
            return FactoredRows(whole, kept)

        return jax.vmap(one_sample)(inputs)

    def _readout(self, factored: Sequence[int]) -> _Readout | None:
        for leaf in factored:
            factoring = self.factorings[leaf]
            if factoring.readout is not None:
                return _Readout(
                    leaf, factoring.reads[factoring.readout], factoring.layouts[factoring.readout]
                )
        return None


class _Readout(NamedTuple):
    """The last product of a network, whose outputs are ``h_t . w_k``."""

    leaf: int
    read: Read
    layout: Layout

    def places(self, outputs: Int[Array, " outputs"]) -> tuple[Array, Array]:
        """Return position t and unit k of outputs."""
        shape, (_, positions, left) = self.read.tap_shape, self.layout.result
        numbers = np.transpose(np.arange(math.prod(shape)).reshape(shape), [*positions, *left])
        rank = np.empty(numbers.size, int)
        rank[numbers.ravel()] = np.arange(numbers.size)
        width = math.prod(shape[axis] for axis in left)
        return jnp.asarray(rank // width)[outputs], jnp.asarray(rank % width)[outputs]

    def hidden(self, other: Array) -> Float[Array, "t d"]:
        """Return h."""
        return cut(other, self.layout.other[1:])

    def cotangents(
        self, weight: Array, hidden: Float[Array, "t d"], outputs: Int[Array, " outputs"]
    ) -> Float[Array, "outputs t d"]:
        """Return the gradients of outputs in h."""
        positions, units = self.places(outputs)
        axes: Any = (*self.layout.sides[0], *self.layout.sides[1])  # numbers, by `_names_axes`
        columns = jnp.transpose(weight, axes)
        columns = columns.reshape(hidden.shape[1], -1).T[units].astype(hidden.dtype)
        at = jax.nn.one_hot(positions, len(hidden), dtype=hidden.dtype)
        return at[:, :, None] * columns[:, None]


class _Tapped(NamedTuple):
    """A network of one sample with taps.

    Attributes:
        jacobian: the network.
        weights: the leaves in which gradients are taken.
        places: where there are taps.
        readout: the last product, if it is one of the places.
    """

    jacobian: FactoredJacobian
    weights: list[int]
    places: list[Read]
    readout: _Readout | None

    def pull_back(
        self, sample: PyTree, outputs: Int[Array, " outputs"]
    ) -> tuple[list[Array], Iterator[Arrays]]:
        """Return gradients of outputs in the weights, and the arrays of every place."""
        jacobian, places, readout = self.jacobian, self.places, self.readout
        run = tapped(jacobian.program, places)
        taps = [jnp.zeros(read.tap_shape, read.equation.outvars[0].aval) for read in places]
        # A pullback to what all devices have alike would add up over them.
        trainable, sample, taps = vary_alike((jacobian.trainable, sample, taps))
        last = None if readout is None else places.index(readout.read)

        def network(values: list[Array], taps: list[Array]) -> tuple[Array, list[Array]]:
            leaves = list(trainable)
            for leaf, value in zip(self.weights, values, strict=True):
                leaves[leaf] = value
            (result,), others = run([*leaves, *jax.tree.leaves(sample)], taps)
            if readout is not None and last is not None:
                result = readout.hidden(others[last])
            return result, others

        values = [trainable[leaf] for leaf in self.weights]
        result, pull, others = jax.vjp(network, values, taps, has_aux=True)
        if readout is None:
            basis = jax.nn.one_hot(outputs, result.size, dtype=result.dtype)
        else:
            basis = readout.cotangents(trainable[readout.leaf], result, outputs)
        gradients, sensitivities = jax.vmap(pull)(vary_alike((basis, result))[0])
        arrays = list(map(Arrays, others, sensitivities))
        if readout is not None and last is not None:
            positions, units = readout.places(outputs)
            arrays[last] = arrays[last]._replace(units=units, positions=positions)
        return gradients, iter(arrays)


def factored_jacobian(
    apply_fn: ApplyFn, params: PyTree, inputs: PyTree, *, wrt: parameters.Subset = None
) -> FactoredJacobian:
    """Find the weights of a network whose gradients can stay factored.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs``; samples are passed as batches of one.
        params: any pytree.
        inputs: any pytree whose leaves lead with the batch.
        wrt: the trainable subset.

    Example:
        >>> def network(params, x):
        ...     return jnp.tanh(x @ params["w"]) * params["gain"]
        >>> params = {"gain": jnp.ones(3), "w": jnp.ones((2, 3))}
        >>> jacobian = factored_jacobian(network, params, jnp.ones((4, 2)))
        >>> list(jacobian.factorings)
        [1]
        >>> rows = jacobian.rows(jnp.ones((4, 2)), jnp.arange(3), [1])
        >>> rows.formed.shape, [factor.shape for factor in rows.factors[0][0]]
        ((4, 3, 3), [(4, 1, 1, 1, 2), (4, 3, 1, 1, 3)])
    """
    trainable, frozen = partition_as_taken(apply_fn, params, inputs, wrt)

    def apply_one(subset: PyTree, sample: PyTree) -> Array:
        batch_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], sample)
        return apply_fn(parameters.combine(subset, frozen), batch_of_one).ravel()

    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(trainable)]
    sample = jax.eval_shape(lambda: jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], inputs))
    with one_sample_at_a_time():
        program = jax.make_jaxpr(apply_one)(trainable, sample)
    places = [reads(program.jaxpr, var) for var in program.jaxpr.invars[: len(leaves)]]
    last = last_product(program.jaxpr)
    factorings = {
        leaf: factoring
        for leaf, some in enumerate(places)
        if (factoring := fit_together(some, last, leaves[leaf].ndim)) is not None
    }
    return FactoredJacobian(leaves, program, _with_biases(factorings, places))


def _with_biases(
    factorings: dict[int, Factoring], places: list[list[Read] | None]
) -> dict[int, Factoring]:
    """Join biases with the weights whose results they are added to, at one position."""
    joined = dict(factorings)
    for leaf, some in enumerate(places):
        if not some or len(some) != 1 or not some[0].shifted:
            continue
        for weight, factoring in joined.items():
            (read, *more), sizes = factoring.reads, factoring.sizes[0]
            alone = not more and factoring.bias is None and sizes.positions == 1
            if alone and (read.path, read.loops) == (some[0].shifted, some[0].loops):
                joined[weight] = factoring._replace(bias=leaf)
    return joined
