"""Rows of J in which the gradients of some weights stay factored.

The gradient of one output in a weight that is only multiplied is ``sum_t x_t u_t^T``: the inputs x
of its products, and the sensitivities u of the output to their results. Inner products of such
gradients need the factors alone (Novak et al., 2022, sec. 3.3).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lnpjax import parameters
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._contract import ApplyFn, one_sample_at_a_time
from lnpjax.jacobian._linearize import partition_as_taken
from lnpjax.jacobian._reads import (
    Read,
    is_convolution,
    is_lookup,
    last_product,
    looked_up,
    patches,
    reads,
    tapped,
)

Factor: TypeAlias = Array
"""``(samples, outputs or 1, layers, positions, width)``; integers without the last axis stand for
unit vectors."""
Groups: TypeAlias = tuple[list[int], list[int], list[int]]
"""Axes by what they count: layers, positions, and entries of one side of the weight."""


class FactoredRows(NamedTuple):
    """Rows of J, for chosen outputs of some samples.

    Attributes:
        formed: gradients in all the weights that do not stay factored, one after another.
        factors: for each of the others, by read: pairs of factors, whose products, added over
            positions and reads, are the gradient.
    """

    formed: Float[Array, "samples outputs parameters"]
    factors: tuple[tuple[tuple[Factor, Factor], ...], ...]


class Layout(NamedTuple):
    """How the arrays of a read are cut.

    Attributes:
        layers: names of the weight's axes along which gradients stand side by side.
        sides: names of the axes that are contracted, and of those that are left.
        other: axes of what the weight is multiplied with; the entries are those contracted.
        result: axes of the results; the entries are those left.
    """

    layers: tuple[Hashable, ...]
    sides: tuple[tuple[Hashable, ...], tuple[Hashable, ...]]
    other: Groups
    result: Groups


class Sizes(NamedTuple):
    """Sizes of the two factors of a read.

    Attributes:
        layers: how many gradients stand side by side.
        positions: how many products of factors make each of them.
        widths: of the factors.
        units: whether the first factor is unit vectors.
        swapped: whether the first side of the weight is the one that is left by this read.
    """

    layers: int
    positions: int
    widths: tuple[int, int]
    units: bool
    swapped: bool


class Factoring(NamedTuple):
    """All reads of a weight, whose gradients can stay factored.

    Attributes:
        reads: where it is read.
        layouts: of each read.
        sizes: of each read's factors, the first along the same side of the weight in all.
        bias: the leaf that is added to the result of the only read, if there is one.
        readout: which read gives the outputs of the network as they are, if one does.
    """

    reads: tuple[Read, ...]
    layouts: tuple[Layout, ...]
    sizes: tuple[Sizes, ...]
    bias: int | None = None
    readout: int | None = None

    @property
    def convolves(self) -> bool:
        """Whether the weight holds filters alone."""
        return all(is_convolution(read.equation) for read in self.reads)


def _fit_together(
    places: Sequence[Read] | None, last: int | None, num_axes: int
) -> Factoring | None:
    """Return the reads of a weight, unless their factors do not belong to the same two sides."""
    if not places or any(read.shifted for read in places):
        return None
    layouts = tuple(map(_layout, places))
    readout = next((i for i, read in enumerate(places) if read.path == (last,)), None)
    if readout is not None and not _names_axes(layouts[readout], num_axes):
        readout = None
    # Unit vectors come first: rows that are looked up, or outputs that are read out.
    lookup = next((i for i, read in enumerate(places) if is_lookup(read.equation)), None)
    layers, sides = layouts[0].layers, layouts[0].sides
    if readout is not None:
        sides = layouts[readout].sides[::-1]
    if lookup is not None:
        sides = layouts[lookup].sides
    for layout in layouts:
        if layout.layers != layers or layout.sides not in (sides, sides[::-1]):
            return None
    if readout is not None and layouts[readout].sides == sides:
        readout = None
    swapped = [layout.sides != sides for layout in layouts]
    sizes = list(map(_sizes, places, layouts, swapped))
    if readout is not None:  # one position for each output
        sizes[readout] = sizes[readout]._replace(positions=1, units=True, swapped=False)
    return Factoring(tuple(places), layouts, tuple(sizes), readout=readout)


def _names_axes(layout: Layout, num_axes: int) -> bool:
    """Return whether the sides of a weight are all its axes as they are."""
    names = {name for side in layout.sides for name in side}
    return names == set(range(num_axes))


def _sizes(read: Read, layout: Layout, swapped: bool) -> Sizes:
    count = len(read.loops)
    layers, positions, left = (
        math.prod(read.tap_shape[axis] for axis in group) for group in layout.result
    )
    weight = read.equation.invars[read.operand].aval
    beside = math.prod(read.tap_shape[axis] for axis in layout.result[0] if axis >= count)
    widths = (weight.size // (left * beside), left)
    units = is_lookup(read.equation)
    return Sizes(layers, positions, widths[::-1] if swapped else widths, units, swapped)


class _Axis(NamedTuple):
    """An axis of a weight, and where it is in what that is multiplied with, and in the result."""

    name: Hashable
    other: int = -1
    result: int = -1


def _layout(read: Read) -> Layout:
    axes_of = _AXES_OF[read.equation.primitive.name]
    positions_of_other, positions_of_result, layers, contracted, left = axes_of(read)
    shared = [i for i, name in enumerate(read.loops) if name is None]
    layers = [
        *(_Axis(name, i, i) for i, name in enumerate(read.loops) if name is not None),
        *layers,
    ]
    layers, contracted, left = (
        sorted(group, key=lambda axis: repr(axis.name)) for group in (layers, contracted, left)
    )
    return Layout(
        tuple(axis.name for axis in layers),
        (tuple(axis.name for axis in contracted), tuple(axis.name for axis in left)),
        (
            [axis.other for axis in layers],
            [*shared, *positions_of_other],
            [axis.other for axis in contracted],
        ),
        (
            [axis.result for axis in layers],
            [*shared, *positions_of_result],
            [axis.result for axis in left],
        ),
    )


_Axes: TypeAlias = tuple[list[int], list[int], list[_Axis], list[_Axis], list[_Axis]]
"""Positions in what the weight is multiplied with, and in the result; the weight's axes of layers,
those contracted, and those left."""


def _axes_of_lookup(read: Read) -> _Axes:
    first = len(read.loops)
    num_positions = read.equation.invars[1].aval.ndim - 1
    positions = list(range(first, first + num_positions))
    row = [_Axis(name, result=first + num_positions + i) for i, name in enumerate(read.axes[1:])]
    return positions, positions, [], [_Axis(read.axes[0])], row


def _axes_of_product(read: Read) -> _Axes:
    weight, other, first = read.operand, 1 - read.operand, len(read.loops)
    sums, batches = read.equation.params["dimension_numbers"]
    left = [
        [i for i in range(operand.aval.ndim) if i not in {*sums[side], *batches[side]}]
        for side, operand in enumerate(read.equation.invars)
    ]
    # The result has the axes of the batch first, then those that are left of either operand.
    starts = [first + len(batches[0]), first + len(batches[0]) + len(left[0])]
    return (
        [first + axis for axis in left[other]],
        [starts[other] + k for k in range(len(left[other]))],
        [
            _Axis(read.axes[mine], first + theirs, first + k)
            for k, (mine, theirs) in enumerate(zip(batches[weight], batches[other], strict=True))
        ],
        [
            _Axis(read.axes[mine], other=first + theirs)
            for mine, theirs in zip(sums[weight], sums[other], strict=True)
        ],
        [_Axis(read.axes[axis], result=starts[weight] + k) for k, axis in enumerate(left[weight])],
    )


def _axes_of_convolution(read: Read) -> _Axes:
    first, numbers = len(read.loops), read.equation.params["dimension_numbers"]
    _, channels, *places = (first + axis for axis in numbers.out_spec)
    positions = [first + numbers.out_spec[0], *places]
    patch = tuple(read.axes[axis] for axis in numbers.rhs_spec[1:])
    filters = read.axes[numbers.rhs_spec[0]]
    return positions, positions, [], [_Axis(patch, channels)], [_Axis(filters, result=channels)]


_AXES_OF = {
    "dot_general": _axes_of_product,
    "gather": _axes_of_lookup,
    "conv_general_dilated": _axes_of_convolution,
}


def _cut(array: Array, groups: Sequence[list[int]]) -> Array:
    sizes = [math.prod(array.shape[axis] for axis in group) for group in groups]
    return jnp.transpose(array, [axis for group in groups for axis in group]).reshape(sizes)


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
            kept = tuple(_factors(self.factorings[leaf], arrays) for leaf in factored)
            for leaf in filters:
                pairs = _factors(self.factorings[leaf], arrays)
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
        return _cut(other, self.layout.other[1:])

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


class _Arrays(NamedTuple):
    """What the factors of a read are made of.

    Attributes:
        other: what the weight is multiplied with.
        sensitivities: of the outputs to the results; not of a read-out.
        units: which result each output is, of a read-out.
        positions: at which position.
    """

    other: Array
    sensitivities: Array
    units: Array | None = None
    positions: Array | None = None


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
    ) -> tuple[list[Array], Iterator[_Arrays]]:
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
        arrays = list(map(_Arrays, others, sensitivities))
        if readout is not None and last is not None:
            positions, units = readout.places(outputs)
            arrays[last] = arrays[last]._replace(units=units, positions=positions)
        return gradients, iter(arrays)


def _factors(factoring: Factoring, arrays: Iterator[_Arrays]) -> tuple[tuple[Factor, Factor], ...]:
    pairs = []
    for read, layout, sizes in zip(*factoring[:3], strict=True):
        other, sensitivities, units, positions = next(arrays)
        if units is not None:
            hidden = _cut(other, layout.other[1:])
            pairs.append((units[:, None, None], hidden[positions][:, None, None]))
            continue
        second = jax.vmap(lambda u, groups=layout.result: _cut(u, groups))(sensitivities)
        if is_lookup(read.equation):
            ids, inside = looked_up(read.equation, other)
            first = _cut(ids, layout.other[:2])
            second = jnp.where(_cut(inside, layout.other[:2])[..., None], second, 0)
        else:
            if is_convolution(read.equation):
                other = patches(read.equation, other, len(read.loops))
            first = _cut(other, layout.other)
        if factoring.bias is not None:  # of inputs that are all one
            first = jnp.concatenate([first, jnp.ones_like(first[..., :1])], axis=-1)
        pairs.append((second, first[None]) if sizes.swapped else (first[None], second))
    return tuple(pairs)


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
        if (factoring := _fit_together(some, last, leaves[leaf].ndim)) is not None
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
