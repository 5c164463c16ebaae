"""Gradients of a weight as sums of products of two factors, and how the factors are cut.

The gradient of one output in a weight that is only multiplied is ``sum_t x_t u_t^T``: the inputs x
of its products, and the sensitivities u of the output to their results. Inner products of such
gradients need the factors alone (Novak et al., 2022, sec. 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lnpjax._base import numerics
from lnpjax.jacobian._reads import Read, is_convolution, is_lookup, looked_up, patches

Factor: TypeAlias = Array
"""``(samples, outputs or 1, layers, positions, width)``; integers without the last axis stand for
unit vectors."""
Groups: TypeAlias = tuple[list[int], list[int], list[int]]
"""Axes by what they count: layers, positions, and entries of one side of the weight."""


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


def fit_together(
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


def cut(array: Array, groups: Sequence[list[int]]) -> Array:
    sizes = [math.prod(array.shape[axis] for axis in group) for group in groups]
    return jnp.transpose(array, [axis for group in groups for axis in group]).reshape(sizes)


class Arrays(NamedTuple):
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


def factors_of(factoring: Factoring, arrays: Iterator[Arrays]) -> tuple[tuple[Factor, Factor], ...]:
    pairs = []
    for read, layout, sizes in zip(*factoring[:3], strict=True):
        other, sensitivities, units, positions = next(arrays)
        if units is not None:
            hidden = cut(other, layout.other[1:])
            pairs.append((units[:, None, None], hidden[positions][:, None, None]))
            continue
        second = jax.vmap(lambda u, groups=layout.result: cut(u, groups))(sensitivities)
        if is_lookup(read.equation):
            ids, inside = looked_up(read.equation, other)
            first = cut(ids, layout.other[:2])
            second = jnp.where(cut(inside, layout.other[:2])[..., None], second, 0)
        else:
            if is_convolution(read.equation):
                other = patches(read.equation, other, len(read.loops))
            first = cut(other, layout.other)
        if factoring.bias is not None:  # of inputs that are all one
            first = jnp.concatenate([first, jnp.ones_like(first[..., :1])], axis=-1)
        pairs.append((second, first[None]) if sizes.swapped else (first[None], second))
    return tuple(pairs)


def meet(left: Factor, right: Factor) -> Array:
    """Return all inner products of two sets of factors; the axes of both, except the widths."""
    dtype = numerics.accumulation_dtype()
    if are_units(left) and are_units(right):
        return jnp.equal(*jnp.ix_(left.ravel(), right.ravel())).reshape(left.shape + right.shape)
    if are_units(left):
        taken = jnp.take(right, left.ravel(), axis=-1, mode="clip")
        return jnp.moveaxis(taken, -1, 0).reshape(left.shape + right.shape[:-1]).astype(dtype)
    if are_units(right):
        taken = jnp.take(left, right.ravel(), axis=-1, mode="clip")
        return taken.reshape(left.shape[:-1] + right.shape).astype(dtype)
    return jnp.tensordot(left, right, (-1, -1), preferred_element_type=dtype)


def are_units(factor: Factor) -> bool:
    return jnp.issubdtype(factor.dtype, jnp.integer)
