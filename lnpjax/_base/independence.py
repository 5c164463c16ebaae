"""Whether a traced program keeps the samples of a batch apart, read off its operations.

Comparing numbers cannot tell: a gate that is zero today hides dropout or batch normalisation behind
it, and a capacity limit that this batch does not reach will be reached by another. The program
shows both. Every value is followed from the inputs to the outputs and is one of three things:

- shared: made of parameters and constants alone. Along some of its axes it is known to be constant.
- per sample: along one axis, each entry was made of one sample and of shared values, by the same
  operations for every sample.
- anything else, `None`: samples may have met, or their places in the batch may matter.

Operations without a rule count as the last kind, so that a program may keep samples apart and not
be recognised; it is never the other way around, except within rules of differentiation that a user
supplies (`jax.custom_jvp`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import PyTree

from lnpjax._base.jaxprs import called_program, every_program, scan_operands


@dataclasses.dataclass(frozen=True)
class Shared:
    """A value that no input has gone into.

    Attributes:
        constant: the axes along which all its entries are known to be equal.
    """

    constant: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class PerSample:
    """A value whose entries belong to one sample each.

    Attributes:
        axis: which axis counts the samples, perhaps together with other things.
        inner: how many entries in a row along it belong to one sample: T where samples and
            T positions have been joined into one axis.
    """

    axis: int
    inner: int = 1


State: TypeAlias = Shared | PerSample | None
Rule: TypeAlias = Callable[[Any, "list[State]", int], "list[State]"]


def keeps_samples_apart(
    function: Callable[[PyTree, PyTree], PyTree], params: PyTree, inputs: PyTree
) -> PyTree[bool]:
    """Tell which outputs are certain to have rows that depend on one sample each.

    Args:
        function: ``function(params, inputs)`` gives an array with a row per sample, or a pytree of
            such arrays.
        params: any pytree.
        inputs: any pytree whose leaves lead with the batch.

    Returns:
        A Python bool for each array of outputs. False says that the program does not show it.
        Nothing is computed.

    Example:
        >>> both = lambda w, x: {"shifted": x - x[:1], "scaled": w * x}
        >>> keeps_samples_apart(both, 2.0, jnp.ones((4, 3)))
        {'scaled': True, 'shifted': False}
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(params, inputs)
    num_shared = len(jax.tree.leaves(params))
    num_samples = jnp.shape(jax.tree.leaves(inputs)[0])[0]
    if num_samples == 1:
        return jax.tree.map(lambda _: True, shapes)
    if not _same_for_two_samples(closed, function, params, inputs):
        return jax.tree.map(lambda _: False, shapes)
    given: list[State] = [
        Shared() if place < num_shared else PerSample(0)
        for place in range(len(closed.jaxpr.invars))
    ]
    states = _follow(closed.jaxpr, given, num_samples)
    apart = [
        0 in state.constant if isinstance(state, Shared) else state == PerSample(0)
        for state in states
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), apart)


def _same_for_two_samples(
    closed: core.ClosedJaxpr,
    function: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    inputs: PyTree,
) -> bool:
    """Return whether the program of a batch is that of two samples, except in shapes."""
    pair = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:2], inputs)
    try:
        program = jax.make_jaxpr(function)(params, pair)
    except Exception:
        # A model that takes some sizes of batches only (they divide, or lie on devices) raises
        # whatever it likes. It looks at the size.
        return False
    return _numbers(closed) == _numbers(program)


def _numbers(closed: core.ClosedJaxpr) -> list[Any]:
    """Return what a program is made of besides shapes: operations, and the numbers in them.

    They are the same for every size of batch, unless the function looks at the size in Python.
    """
    numbers: list[Any] = []
    for program in every_program(closed):
        numbers += [_fingerprint(const) for const in program.consts]
        for equation in program.jaxpr.eqns:
            numbers.append(equation.primitive.name)
            literals = [one.val for one in equation.invars if isinstance(one, core.Literal)]
            options = [
                one for _, one in sorted(equation.params.items()) if isinstance(one, int | float)
            ]
            numbers += [_fingerprint(number) for number in (*literals, *options)]
    return numbers


def _fingerprint(number: Any) -> Any:
    if isinstance(number, jax.core.Tracer):
        return id(number)
    if isinstance(number, jax.Array):
        return number.shape, number.dtype, id(number)
    array = np.asarray(number)
    return array.shape, array.dtype, array.tobytes()


def _follow(jaxpr: Any, given: Sequence[State], num_samples: int) -> list[State]:
    """Return the states of a program's outputs, from those of its inputs."""
    states: dict[Any, State] = dict.fromkeys(jaxpr.constvars, Shared())
    states.update(zip(jaxpr.invars, given, strict=True))

    def state_of(operand: Any) -> State:
        return Shared() if isinstance(operand, core.Literal) else states[operand]

    for equation in jaxpr.eqns:
        operands = [state_of(operand) for operand in equation.invars]
        states.update(zip(equation.outvars, _apply(equation, operands, num_samples), strict=True))
    return [state_of(operand) for operand in jaxpr.outvars]


def _apply(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    rule = _RULES.get(equation.primitive.name, _unknown)
    try:
        return rule(equation, operands, num_samples)
    except (KeyError, AttributeError):  # another release of JAX writes it down in other words
        return _unknown(equation, operands, num_samples)


def _unknown(equation: Any, operands: list[State], _: int) -> list[State]:
    only_shared = all(isinstance(state, Shared) for state in operands)
    return [Shared() if only_shared else None] * len(equation.outvars)


def _join(states: Sequence[State], ndim: int) -> State:
    """Return what arrays of one shape have in common, entry by entry."""
    if None in states:
        return None
    batched = {state for state in states if isinstance(state, PerSample)}
    constants = [state.constant for state in states if isinstance(state, Shared)]
    if not batched:
        return Shared(functools.reduce(frozenset.intersection, constants, frozenset(range(ndim))))
    if len(batched) > 1:
        return None
    (state,) = batched
    return state if all(state.axis in axes for axes in constants) else None


def _join_operands(equation: Any, operands: Sequence[State]) -> State:
    """Join an operation's operands; scalars and axes of one entry go with everything."""
    arrays: list[State] = []
    shapes = [variable.aval.shape for variable in equation.invars]
    for state, shape in zip(operands, shapes, strict=True):
        if isinstance(state, Shared):
            state = Shared(state.constant | {axis for axis, n in enumerate(shape) if n == 1})
        if shape or state is None:
            arrays.append(state)
    return _join(arrays, max(map(len, shapes), default=0))


def _ndims(variables: Sequence[Any]) -> list[int]:
    return [len(variable.aval.shape) for variable in variables]


def _elementwise(equation: Any, operands: list[State], _: int) -> list[State]:
    return [_join_operands(equation, operands)] * len(equation.outvars)


def _each_alone(equation: Any, operands: list[State], _: int) -> list[State]:
    del equation
    return operands


def _bitcast(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    same = equation.invars[0].aval.shape == equation.outvars[0].aval.shape
    return (_elementwise if same else _unknown)(equation, operands, num_samples)


def _moved(state: State, place_of: Callable[[int], int | None]) -> State:
    """Return the state of an array whose axes have moved; axes that went away have no place."""
    if isinstance(state, PerSample):
        place = place_of(state.axis)
        return None if place is None else PerSample(place, state.inner)
    if isinstance(state, Shared):
        places = (place_of(axis) for axis in state.constant)
        return Shared(frozenset(place for place in places if place is not None))
    return None


def _without(axes: Sequence[int]) -> Callable[[int], int | None]:
    """Return where an axis is once others are gone."""
    gone = set(axes)
    return lambda axis: None if axis in gone else axis - sum(other < axis for other in gone)


def _untouched(axes: Sequence[int]) -> Callable[[int], int | None]:
    """Leave axes where they are, except for some along which entries move or meet."""
    return lambda axis: None if axis in axes else axis


def _reduction(equation: Any, operands: list[State], _: int) -> list[State]:
    return [_moved(operands[0], _without(equation.params["axes"]))]


def _squeeze(equation: Any, operands: list[State], _: int) -> list[State]:
    return [_moved(operands[0], _without(equation.params["dimensions"]))]


def _transpose(equation: Any, operands: list[State], _: int) -> list[State]:
    return [_moved(operands[0], tuple(equation.params["permutation"]).index)]


def _along(option: str) -> Rule:
    """Return the rule of operations that run along one axis and keep the shape of the others."""

    def rule(equation: Any, operands: list[State], _: int) -> list[State]:
        axis = equation.params[option]
        state = _moved(_join_operands(equation, operands), _untouched((axis,)))
        return [state] * len(equation.outvars)

    return rule


def _reverse(equation: Any, operands: list[State], _: int) -> list[State]:
    return [_moved(operands[0], _untouched(equation.params["dimensions"]))]


def _unstack(equation: Any, operands: list[State], _: int) -> list[State]:
    state = _moved(operands[0], _without((equation.params["axis"],)))
    return [state] * len(equation.outvars)


def _stack(equation: Any, operands: list[State], _: int) -> list[State]:
    new = equation.params["axis"]
    joined = _join_operands(equation, operands)
    return [_moved(joined, lambda axis: axis + (axis >= new))]


def _broadcast(equation: Any, operands: list[State], _: int) -> list[State]:
    state, operand = operands[0], equation.invars[0].aval
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    if isinstance(state, PerSample):
        return [PerSample(places[state.axis], state.inner)]
    if state is None:
        return [None]
    varying = {
        place
        for axis, place in enumerate(places)
        if axis not in state.constant and operand.shape[axis] != 1
    }
    return [Shared(frozenset(range(len(shape))) - varying)]


def _tile(equation: Any, operands: list[State], _: int) -> list[State]:
    state, shape = operands[0], equation.invars[0].aval.shape
    if isinstance(state, Shared):
        return [Shared(state.constant | {axis for axis, size in enumerate(shape) if size == 1})]
    repeated = [axis for axis, times in enumerate(equation.params["reps"]) if times != 1]
    return [_moved(state, _untouched(repeated))]


def _reshape(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    state = operands[0]
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    if state is None or equation.params.get("dimensions") is not None or not math.prod(old):
        return [None if not isinstance(state, Shared) else Shared()]
    after = [math.prod(new[axis + 1 :]) for axis in range(len(new))]
    if isinstance(state, PerSample):
        # In row-major order, the sample of entry i is (i // stride) % num_samples.
        stride = state.inner * math.prod(old[state.axis + 1 :])
        for axis, step in enumerate(after):
            inner, rest = divmod(stride, step)
            if rest == 0 and new[axis] % (inner * num_samples) == 0:
                return [PerSample(axis, inner)]
        return [None]
    if len(state.constant) == len(old):
        return [Shared(frozenset(range(len(new))))]
    kept = {(old[axis], math.prod(old[axis + 1 :])) for axis in state.constant}
    return [Shared(frozenset(axis for axis in range(len(new)) if (new[axis], after[axis]) in kept))]


def _slice(equation: Any, operands: list[State], _: int) -> list[State]:
    options, shape = equation.params, equation.invars[0].aval.shape
    steps = options["strides"] or (1,) * len(shape)
    bounds = zip(options["start_indices"], options["limit_indices"], steps, shape, strict=True)
    cut = [axis for axis, part in enumerate(bounds) if part[:3] != (0, part[3], 1)]
    return [_cut(operands[0], cut)]


def _cut(state: State, axes: Sequence[int]) -> State:
    """Return what is left of an array that keeps only some entries along some axes."""
    return state if isinstance(state, Shared) else _moved(state, _untouched(axes))


def _dynamic_slice(equation: Any, operands: list[State], _: int) -> list[State]:
    if not all(isinstance(index, Shared) for index in operands[1:]):
        return [None]
    shape, sizes = equation.invars[0].aval.shape, equation.params["slice_sizes"]
    cut = [axis for axis, size in enumerate(sizes) if size != shape[axis]]
    return [_cut(operands[0], cut)]


def _dynamic_update_slice(equation: Any, operands: list[State], _: int) -> list[State]:
    if not all(isinstance(index, Shared) for index in operands[2:]):
        return [None]
    whole, part = (operand.aval.shape for operand in equation.invars[:2])
    cut = [axis for axis in range(len(whole)) if whole[axis] != part[axis]]
    joined = _join(operands[:2], len(whole))
    return [_moved(joined, _untouched(cut))]


def _pad(equation: Any, operands: list[State], _: int) -> list[State]:
    if not isinstance(operands[1], Shared):
        return [None]
    padded = [axis for axis, how in enumerate(equation.params["padding_config"]) if any(how)]
    return [_moved(operands[0], _untouched(padded))]


def _iota(equation: Any, _: list[State], __: int) -> list[State]:
    shape = equation.outvars[0].aval.shape
    return [Shared(frozenset(range(len(shape))) - {equation.params["dimension"]})]


def _dot_general(equation: Any, operands: list[State], _: int) -> list[State]:
    (left_sums, right_sums), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left_ndim, right_ndim = _ndims(equation.invars)
    free = left_ndim - len(left_sums) - len(left_batch)

    def places(ndim: int, sums: Sequence[int], batch: Sequence[int], start: int) -> dict[int, int]:
        others = [axis for axis in range(ndim) if axis not in (*sums, *batch)]
        return dict(zip(batch, range(len(batch)), strict=True)) | dict(
            zip(others, range(start, start + len(others)), strict=True)
        )

    left = places(left_ndim, left_sums, left_batch, len(left_batch))
    right = places(right_ndim, right_sums, right_batch, len(left_batch) + free)
    factors = [(operands[0], left), (operands[1], right)]
    return [_product(factors, len(equation.outvars[0].aval.shape))]


def _product(factors: Sequence[tuple[State, dict[int, int]]], out_ndim: int) -> State:
    """Return the state of a product; an axis of it belongs to one factor or to both."""
    widened: list[State] = []
    for factor, places in factors:
        state = _moved(factor, places.get)
        if isinstance(state, Shared):  # the same all along the other factor's own axes
            state = Shared(state.constant | (set(range(out_ndim)) - set(places.values())))
        widened.append(state)
    return _join(widened, out_ndim)


def _convolution(equation: Any, operands: list[State], _: int) -> list[State]:
    options, (inputs, kernel) = equation.params, operands
    numbers = options["dimension_numbers"]
    samples = numbers.lhs_spec[0]
    if isinstance(inputs, Shared) and isinstance(kernel, Shared):
        return [Shared()]
    if options["batch_group_count"] != 1 or not isinstance(kernel, Shared):
        return [None]
    return [_moved(inputs, {samples: numbers.out_spec[0]}.get)]


def _window(equation: Any, operands: list[State], _: int) -> list[State]:
    options = equation.params
    per_axis = (
        options["window_dimensions"],
        options["window_strides"],
        options["padding"],
        options["base_dilation"],
        options["window_dilation"],
    )
    touched = [
        axis for axis, how in enumerate(zip(*per_axis, strict=True)) if how != (1, 1, (0, 0), 1, 1)
    ]
    return [_moved(operands[0], _untouched(touched))]


def _gather(equation: Any, operands: list[State], _: int) -> list[State]:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    table, indices = operands[:2]
    shape, out_ndim = equation.invars[0].aval.shape, len(equation.outvars[0].aval.shape)
    places = [axis for axis in range(out_ndim) if axis not in numbers.offset_dims]
    of_indices = dict(enumerate(places))
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    paired = {axis: of_indices[partner] for axis, partner in pairs}
    kept = [
        axis
        for axis in range(len(shape))
        if axis not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    of_table = paired | {
        axis: place
        for axis, place in zip(kept, numbers.offset_dims, strict=True)
        if axis not in numbers.start_index_map and sizes[axis] == shape[axis]
    }
    moved_table, moved_indices = _moved(table, of_table.get), _moved(indices, of_indices.get)
    if isinstance(moved_table, Shared):
        absent = set(range(out_ndim)) - set(of_table.values())
        # Where only indices lead, the table is the same for all of them.
        leading = set(places) - set(paired.values())
        moved_table = Shared(moved_table.constant | (absent & leading))
    if isinstance(moved_indices, Shared):
        moved_indices = Shared(moved_indices.constant | set(numbers.offset_dims))
    return [_join([moved_table, moved_indices], out_ndim)]


def _leading(num_last: int) -> Rule:
    """Return the rule of operations on the last axes, alike for all entries of leading ones."""

    def rule(equation: Any, operands: list[State], _: int) -> list[State]:
        ndims = _ndims(equation.invars)
        joined = _join(operands, max(ndims))
        first = max(ndims) - num_last
        safe = joined if isinstance(joined, PerSample) and joined.axis < first else None
        shared = all(isinstance(state, Shared) for state in operands)
        return [Shared() if shared else safe] * len(equation.outvars)

    return rule


def _fft(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    return _leading(len(equation.params["fft_lengths"]))(equation, operands, num_samples)


def _call(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    return _follow(called_program(equation).jaxpr, operands, num_samples)


def _cond(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    if not isinstance(operands[0], Shared):
        return [None] * len(equation.outvars)
    branches = [
        _follow(branch.jaxpr, operands[1:], num_samples) for branch in equation.params["branches"]
    ]
    ndims = _ndims(equation.outvars)
    return [
        _join(states, ndim) for states, ndim in zip(zip(*branches, strict=True), ndims, strict=True)
    ]


def _settle(
    step: Callable[[list[State]], list[State]], carry: list[State], variables: Sequence[Any]
) -> list[State]:
    """Return what a loop carries in every round: joined with what rounds make of it."""
    ndims = _ndims(variables)
    while True:
        rounds = zip(carry, step(carry), ndims, strict=True)
        joined = [_join([before, after], ndim) for before, after, ndim in rounds]
        if joined == carry:
            return carry
        carry = joined


def _scan(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    body = equation.params["jaxpr"].jaxpr
    consts, carry, stacks = scan_operands(equation, operands)
    num_carry = len(carry)
    slices = [_moved(state, _without((0,))) for state in stacks]

    def step(carry: list[State]) -> list[State]:
        return _follow(body, [*consts, *carry, *slices], num_samples)

    carry = _settle(lambda carry: step(carry)[:num_carry], carry, equation.outvars[:num_carry])
    stacked = [_moved(state, lambda axis: axis + 1) for state in step(carry)[num_carry:]]
    return [*carry, *stacked]


def _while(equation: Any, operands: list[State], num_samples: int) -> list[State]:
    options = equation.params
    num_cond, num_body = options["cond_nconsts"], options["body_nconsts"]
    cond_consts, body_consts = operands[:num_cond], operands[num_cond:][:num_body]
    carry = _settle(
        lambda carry: _follow(options["body_jaxpr"].jaxpr, [*body_consts, *carry], num_samples),
        operands[num_cond + num_body :],
        equation.outvars,
    )
    (again,) = _follow(options["cond_jaxpr"].jaxpr, [*cond_consts, *carry], num_samples)
    return carry if isinstance(again, Shared) else [None] * len(carry)


def _named(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_RULES: dict[str, Rule] = {
    **_named(
        "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt "
        "ceil clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq erf "
        "erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow "
        "is_finite le lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma "
        "population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt "
        "select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square "
        "sub tan tanh xor random_fold_in threefry2x32",
        _elementwise,
    ),
    **_named(
        "layout_constraint mesh_cast name optimization_barrier pcast pvary reshard stop_gradient "
        "sharding_constraint",
        _each_alone,
    ),
    **_named(
        "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum "
        "reduce_xor",
        _reduction,
    ),
    **_named("cumlogsumexp cummax cummin cumprod cumsum split top_k", _along("axis")),
    **_named("concatenate sort", _along("dimension")),
    **_named("reduce_window_max reduce_window_min reduce_window_sum", _window),
    **_named("cholesky eigh householder_product lu qr svd triangular_solve", _leading(2)),
    **_named("random_bits random_split random_unwrap random_wrap", _leading(0)),
    **_named("closed_call core_call custom_jvp_call jit pjit remat remat2 checkpoint", _call),
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "cond": _cond,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "fft": _fft,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "scan": _scan,
    "slice": _slice,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _unstack,
    "while": _while,
}
