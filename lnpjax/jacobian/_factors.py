"""Rows of J in which the gradients of some weights stay factored.

The gradient of one output in a weight that is only multiplied is ``sum_t x_t u_t^T``: the inputs x
of its products, and the sensitivities u of the output to their results. Inner products of such
gradients need the factors alone (Novak et al., 2022, sec. 3.3).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lnpjax import parameters
from lnpjax._base.entry_points import vary_alike
from lnpjax.jacobian._contract import ApplyFn, one_sample_at_a_time
from lnpjax.jacobian._linearize import partition_as_taken
from lnpjax.jacobian._reads import Read, is_lookup, looked_up, reads, tapped

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
    """Sizes of the two factors of a read; a lookup has unit vectors for the first."""

    layers: int
    positions: int
    widths: tuple[int, int]
    lookup: bool
    swapped: bool


class Factoring(NamedTuple):
    """All reads of a weight, whose gradients can stay factored.

    Attributes:
        reads: where it is read.
        layouts: of each read.
        sizes: of each read's factors, the first along the same side of the weight in all.
        bias: the leaf that is added to the result of the only read, if there is one.
    """

    reads: tuple[Read, ...]
    layouts: tuple[Layout, ...]
    sizes: tuple[Sizes, ...]
    bias: int | None = None


def _fit_together(places: Sequence[Read] | None) -> Factoring | None:
    """Return the reads of a weight, unless their factors do not belong to the same two sides."""
    if not places or any(read.shifted for read in places):
        return None
    layouts = tuple(map(_layout, places))
    # Unit vectors come first.
    chief = next((i for i, read in enumerate(places) if is_lookup(read.equation)), 0)
    layers, sides = layouts[chief].layers, layouts[chief].sides
    for layout in layouts:
        if layout.layers != layers or layout.sides not in (sides, sides[::-1]):
            return None
    swapped = [layout.sides != sides for layout in layouts]
    sizes = tuple(map(_sizes, places, layouts, swapped))
    return Factoring(tuple(places), layouts, sizes)


def _sizes(read: Read, layout: Layout, swapped: bool) -> Sizes:
    count = len(read.loops)
    layers, positions, left = (
        math.prod(read.tap_shape[axis] for axis in group) for group in layout.result
    )
    weight = read.equation.invars[read.operand].aval
    beside = math.prod(read.tap_shape[axis] for axis in layout.result[0] if axis >= count)
    widths = (weight.size // (left * beside), left)
    lookup = is_lookup(read.equation)
    return Sizes(layers, positions, widths[::-1] if swapped else widths, lookup, swapped)


class _Axis(NamedTuple):
    """An axis of a weight, and where it is in what that is multiplied with, and in the result."""

    name: Hashable
    other: int = -1
    result: int = -1


def _layout(read: Read) -> Layout:
    axes = _axes_of_lookup(read) if is_lookup(read.equation) else _axes_of_product(read)
    positions_of_other, positions_of_result, layers, contracted, left = axes
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

    def rows(
        self, inputs: PyTree, basis: Float[Array, "outputs ..."], factored: Sequence[int]
    ) -> FactoredRows:
        """Return rows of J for every sample.

        Args:
            inputs: the samples, along the first axis of every leaf.
            basis: cotangents of one sample's outputs.
            factored: the leaves whose gradients stay factored.
        """
        places = [read for leaf in factored for read in self.factorings[leaf].reads]
        run = tapped(self.program, places)
        formed = self.formed(factored)

        def one_sample(sample: PyTree) -> FactoredRows:
            trainable, _ = vary_alike((self.trainable, sample))

            def network(weights: list[Array], taps: list[Array]) -> tuple[Array, list[Array]]:
                leaves = list(trainable)
                for leaf, weight in zip(formed, weights, strict=True):
                    leaves[leaf] = weight
                (output,), others = run([*leaves, *jax.tree.leaves(sample)], taps)
                return output, others

            taps = [jnp.zeros(read.tap_shape, read.equation.outvars[0].aval) for read in places]
            taps, _ = vary_alike((taps, sample))
            weights = [trainable[leaf] for leaf in formed]
            _, pull, others = jax.vjp(network, weights, taps, has_aux=True)
            gradients, sensitivities = jax.vmap(pull)(vary_alike((basis, sample))[0])
            flat = [gradient.reshape(len(basis), -1) for gradient in gradients]
            both = zip(others, sensitivities, strict=True)
            return FactoredRows(
                jnp.concatenate(flat, axis=1) if flat else jnp.zeros((len(basis), 0)),
                tuple(self._factors(self.factorings[leaf], both) for leaf in factored),
            )

        return jax.vmap(one_sample)(inputs)

    def _factors(self, factoring: Factoring, arrays: Any) -> tuple[tuple[Factor, Factor], ...]:
        pairs = []
        for read, layout, sizes in zip(*factoring[:3], strict=True):
            other, sensitivities = next(arrays)
            second = jax.vmap(lambda u, groups=layout.result: _cut(u, groups))(sensitivities)
            if sizes.lookup:
                ids, inside = looked_up(read.equation, other)
                first = _cut(ids, layout.other[:2])
                second = jnp.where(_cut(inside, layout.other[:2])[..., None], second, 0)
            else:
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
        >>> rows = jacobian.rows(jnp.ones((4, 2)), jnp.eye(3), [1])
        >>> rows.formed.shape, [factor.shape for factor in rows.factors[0][0]]
        ((4, 3, 3), [(4, 1, 1, 1, 2), (4, 3, 1, 1, 3)])
    """
    trainable, frozen = partition_as_taken(apply_fn, params, inputs, wrt)

    def apply_one(subset: PyTree, sample: PyTree) -> Array:
        batch_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], sample)
        return apply_fn(parameters.combine(subset, frozen), batch_of_one)[0]

    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(trainable)]
    sample = jax.eval_shape(lambda: jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], inputs))
    with one_sample_at_a_time():
        program = jax.make_jaxpr(apply_one)(trainable, sample)
    places = [reads(program.jaxpr, var) for var in program.jaxpr.invars[: len(leaves)]]
    factorings = {
        leaf: factoring
        for leaf, some in enumerate(places)
        if (factoring := _fit_together(some)) is not None
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
