"""The explicit empirical NTK, for models small enough to have one."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.checks import check_count, check_kernel, concrete, require
from lnpjax._base.entry_points import entry_point, vary_alike
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.shards import AxisName, shards_over
from lnpjax.jacobian import ApplyFn, OutputSubset
from lnpjax.jacobian._contract import SingleSamplesRefusedError, check_batch
from lnpjax.jacobian._interaction import samples_interact
from lnpjax.jacobian._outputs import restrict
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.kernel._costs import check_fits
from lnpjax.kernel._fill import (
    BatchJacobian,
    batch_products,
    contraction,
    inner_products,
    products,
)
from lnpjax.kernel._plan import Plan, choose_plan
from lnpjax.kernel._structured import inner_products as factored_inner_products
from lnpjax.kernel._structured import structured
from lnpjax.status import Status, describe_status

Backend: TypeAlias = Literal["jax", "neural_tangents"]
Method: TypeAlias = Literal["auto", "structured", "contraction", "products", "batch"]


@entry_point
def entk(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    inputs2: PyTree | None = None,
    outputs: OutputSubset = None,
    sum_outputs: bool = False,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
    backend: Backend = "jax",
    method: Method = "auto",
    chunk_size: int | None = None,
    max_bytes: int | None = None,
    axis_name: AxisName = None,
) -> Float[Array, "n1_m n2_m"]:
    """Compute the empirical neural tangent kernel ``Theta = J_1 J_2^T`` as a matrix.

    *Spectral Reach*, eqs. 5 and 18; *NTK Lens*, eqs. 1 and 7. A sum over parameters, never a
    mean over outputs. Rows and columns are sample-major: output a of sample i is at ``i m + a``.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        inputs: the first batch, n1 samples; any pytree whose leaves lead with the sample.
        inputs2: the second batch, n2 samples; `None` for the first one again. The kernel is then
            symmetric to the bit.
        outputs: which outputs of each sample to keep, m of them (`lnpjax.jacobian.select_outputs`);
            `None` for all.
        sum_outputs: give the kernel between samples, `trace_outputs` of this one, ``(n1, n2)``.
            "structured" never makes the rest of the kernel.
        wrt: the trainable subset (`lnpjax.parameters.partition`); everything if `None`.
        preconditioner: optional diagonal P >= 0 in the structure of the trainable parameters, for
            ``J_1 P J_2^T``; backend "jax" only.
        backend: "jax" is this library's own; "neural_tangents" computes the same with the package
            neural-tangents, for a second opinion (the extra `neural-tangents`).
        method: how the matrix is filled. "structured" takes inner products of the gradients in
            weights that are only multiplied from their factors, without making them, where that is
            cheaper (`lnpjax.kernel._structured`); "contraction" multiplies rows of J, "products"
            pushes each row forward through the network. These take each sample's rows from that
            sample alone. "batch" assumes nothing about samples, at about ``1 + n2 / n1`` times the
            cost of "products". "auto" takes the one of the first three with fewer operations;
            "batch" where the network takes no single samples and, outside `jit`, where samples
            interact. With a preconditioner there are no factors: "structured" contracts. Networks
            whose pullback has no transpose (fixed points whose custom VJP is a loop) are contracted
            also where "products" is asked for.
        chunk_size: how many rows of J are made at once; memory grows with it, and contraction keeps
            four times as many. `None` to choose: chunks of 64 MB for products on a CPU (512 MB on
            an accelerator), of up to 256 MB for contraction, and for "structured", which keeps the
            factors of all rows where they fit into 1 GB (8 GB on an accelerator). Not for
            neural-tangents, which holds all of J when it contracts.
        max_bytes: refuse a kernel that needs more, before anything is allocated; `None` for what
            the device has free.
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axis (or axes) over which devices hold
            parts of the batches. Each device computes the rows of its own samples, against the
            second batch of all devices; rows of all devices below each other are the kernel.
            ``()`` for a kernel of each device's own batches.

    Returns:
        ``(n1 m, n2 m)``, or ``(n1, n2)``, in float32 (float64 under x64). Units: outputs squared
        per parameter squared. "structured" and "contraction" also add up in that precision
        whatever the network computes in; the other methods, and neural-tangents, carry the
        network's own rounding. NaN where, under `jit`, any method but "batch" meets samples that
        interact.

    Raises:
        TypeError, ValueError: for bad input, for a kernel that does not fit (the message names the
            bytes), and, outside `jit`, where samples interact and the method is not "batch".
        ImportError: if neural-tangents is missing or cannot work with this jax.

    Cost: in gradients of one sample: ``n1 m + n2 m`` and the contraction, ``2 n1 n2 m^2``
    operations for each parameter, or for each unit of a layer whose gradients stay factored; or
    ``n2 m (1 + n1)``.

    Example:
        >>> weights, inputs = jnp.ones((2, 2)), jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> entk(lambda w, x: x @ w, weights, inputs, outputs=[0])
        Array([[1., 1.],
               [1., 2.]], dtype=float32)
    """
    check_choice("backend", backend, get_args(Backend))
    check_choice("method", method, get_args(Method))
    check_count("chunk_size", chunk_size, optional=True)
    inputs2 = second_batch(axis_name, inputs, inputs2)
    params, inputs, inputs2 = vary_alike((params, inputs, inputs2))
    symmetric = inputs2 is None
    left, right = batch_jacobians(apply_fn, params, inputs, inputs2, outputs, wrt)
    trainable, _ = parameters.partition(params, wrt)
    require(
        backend == "jax" or preconditioner is None,
        "preconditioner",
        expected="None with backend='neural_tangents', which has none",
        got="one",
    )
    preconditioner, _ = fit_preconditioner(preconditioner, trainable)

    plan_for = functools.partial(
        choose_plan,
        left,
        right,
        chunk_size=chunk_size,
        symmetric=symmetric,
        factored=preconditioner is None and backend == "jax",
        by_sample=sum_outputs,
    )
    with jax.default_matmul_precision("highest"):
        plan = plan_for(method=method)
        check_memory(left, right, plan, max_bytes)
        settled, valid = settle(method, left, right)
        if backend == "neural_tangents":
            kernel = _by_neural_tangents(left, right, settled, symmetric)
        else:
            plan = plan if settled == method else plan_for(method=settled)
            kernel = fill(left, right, plan, symmetric, preconditioner)
    if sum_outputs and plan.sides is None:
        kernel = trace_outputs(kernel, left.shape[1])
    return jnp.where(valid, completed(kernel, plan, symmetric), jnp.nan)


@entry_point
def entk_groups(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    groups: parameters.Grouping = None,
    wrt: parameters.Subset = None,
    preconditioner: PyTree | None = None,
    **options: Any,
) -> dict[str, Float[Array, "n1_m n2_m"]]:
    """Compute the share of every parameter group in the eNTK; the shares add up to it.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        inputs: a batch of samples; any pytree whose leaves lead with the sample.
        groups: the parameter groups (`lnpjax.parameters.group_leaves`); `None` for the top-level
            modules.
        wrt: the trainable subset.
        preconditioner: optional diagonal P >= 0 in the structure of the trainable parameters.
        **options: further options of `entk`.

    Returns:
        A kernel for each group.

    Raises:
        TypeError, ValueError, ImportError: for what `entk` refuses.

    Cost: as `entk` for the contractions; the rows of J are made once for each group.

    Example:
        >>> params = {"slope": jnp.ones(()), "shift": jnp.ones(())}
        >>> line = lambda p, x: p["slope"] * x + p["shift"]
        >>> parts = entk_groups(line, params, jnp.array([[1.0], [2.0]]))
        >>> parts["shift"].tolist(), parts["slope"].tolist()
        ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [2.0, 4.0]])
    """
    trainable, _ = parameters.partition(params, wrt)
    names = parameters.paths(trainable)
    kernels = {}
    for group, members in parameters.group_leaves(trainable, groups).items():
        within = {names[index] for index in members}.__contains__
        share = None
        if preconditioner is not None:
            share, _ = parameters.split_paths(preconditioner, within)
        kernels[group] = entk(apply_fn, params, inputs, wrt=within, preconditioner=share, **options)
    return kernels


def second_batch(axis_name: AxisName, inputs: PyTree, inputs2: PyTree | None) -> PyTree | None:
    """Return the second batch of all devices; `None` where it is the first, and whole."""
    shards = shards_over(axis_name)
    shards.check_split("inputs", inputs)
    if not shards.axes:
        return inputs2
    return shards.gathered("inputs2", inputs if inputs2 is None else inputs2)


def batch_jacobians(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    inputs2: PyTree | None,
    outputs: OutputSubset,
    wrt: parameters.Subset,
) -> tuple[BatchJacobian, BatchJacobian]:
    """Return the Jacobians of two batches, the same one where there is no second.

    Raises:
        TypeError, ValueError: for bad batches, or if their outputs differ in number.
    """
    check_batch(apply_fn, params, inputs)
    network = restrict(apply_fn, outputs)
    left = BatchJacobian(network, params, inputs, wrt, apply_fn, outputs)
    if inputs2 is None:
        return left, left
    check_batch(apply_fn, params, inputs2, argument="inputs2")
    right = BatchJacobian(network, params, inputs2, wrt, apply_fn, outputs)
    require(
        left.shape[1] == right.shape[1],
        "inputs2",
        expected=f"as many outputs per sample as in inputs, {left.shape[1]}",
        got=right.shape[1],
    )
    return left, right


def settle(
    method: Method, left: BatchJacobian, right: BatchJacobian
) -> tuple[Method, Bool[Array, ""] | bool]:
    """Return the method that is right for these samples, and whether its result will be."""
    if method == "batch":
        return method, True
    batches = [left.inputs] if right is left else [left.inputs, right.inputs]
    try:
        interact = samples_interact(left.apply_fn, left.params, *batches)
    except SingleSamplesRefusedError:
        if method != "auto":
            raise
        return "batch", True
    if isinstance(interact, jax.core.Tracer):
        return method, ~interact
    if bool(interact):
        require(
            method == "auto",
            "method",
            expected="'auto' or 'batch'",
            got=f"{method!r}, but {describe_status(Status.SAMPLES_INTERACT)}",
        )
        return "batch", True
    return method, True


def check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` unless the value is one of the choices."""
    require(value in choices, argument, expected=f"one of {choices}", got=repr(value))


def check_memory(
    left: BatchJacobian,
    right: BatchJacobian,
    plan: Plan,
    max_bytes: int | None,
    *,
    num_kernels: int = 1,
) -> None:
    """Refuse so many kernels of two batches, made one after the other, if they do not fit."""
    rows, columns = left.num_rows, right.num_rows
    if plan.sides is not None:
        rows, columns = (math.prod(side.shape) for side in plan.sides)
    entries = rows * columns
    copies = num_kernels + (1 if plan.stored else 2)  # the last one's mirror, and the sum
    kernels = copies * entries * numerics.accumulation_dtype().itemsize
    check_fits(
        f"the {rows} x {columns} kernel and the rows behind it",
        kernels + plan.working_bytes,
        max_bytes,
        advice="take fewer samples, fewer outputs with outputs=, or a smaller chunk_size",
    )


def fill(
    left: BatchJacobian,
    right: BatchJacobian,
    plan: Plan,
    symmetric: bool,
    preconditioner: PyTree | None,
) -> Float[Array, "n1_m n2_m"]:
    """Compute the kernel of two batches as a plan says; of a symmetric one perhaps half."""
    if plan.sides is not None and plan.stored:
        return structured(
            *plan.sides,
            chunk_size=plan.chunk_size,
            block_size=plan.block_size,
            symmetric=symmetric,
        )
    if plan.sides is None and plan.method != "contraction":
        columns = products if plan.method == "products" else batch_products
        return columns(left, right, weights=preconditioner, chunk_size=plan.chunk_size)
    first, second = (left, right) if plan.sides is None else plan.sides
    return contraction(
        first,
        second,
        inner_products if plan.sides is None else factored_inner_products,
        weights=preconditioner,
        chunk_size=plan.chunk_size,
        symmetric=symmetric,
    )


def completed(kernel: Float[Array, "N2 N1"], plan: Plan, symmetric: bool) -> Float[Array, "N2 N1"]:
    """Return all of a kernel, of which a plan may compute one half, or both up to rounding."""
    if not symmetric or plan.stored:
        return kernel
    return jnp.tril(kernel) + jnp.tril(kernel, -1).T


def _by_neural_tangents(
    left: BatchJacobian, right: BatchJacobian, method: str, symmetric: bool
) -> Float[Array, "n1_m n2_m"]:
    """Fill the matrix by neural-tangents: samples as one function ("batch"), or each alone."""
    from lnpjax.kernel._neural_tangents import neural_tangents_kernel

    trainable, frozen = parameters.partition(left.params, left.wrt)

    def apply_trainable(trainable: PyTree, inputs: PyTree) -> Float[Array, "batch m"]:
        return left.apply_fn(parameters.combine(trainable, frozen), inputs)

    return neural_tangents_kernel(
        apply_trainable,
        trainable,
        left.inputs,
        None if symmetric else right.inputs,
        implementation="contraction" if method in ("contraction", "structured") else "products",
        vmap_axes=None if method == "batch" else 0,
    ).astype(numerics.accumulation_dtype())


@entry_point
def normalized_kernel(kernel: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the kernel of gradients of length one, ``Theta_ij / sqrt(Theta_ii Theta_jj)``.

    *NTK Lens*, appendix B.3: its effective rank counts directions of learning whatever the rates at
    which they are learned. In the kernel of several outputs, ``(B m, B m)``, every output of every
    sample is a gradient of its own.

    Args:
        kernel: a symmetric positive semi-definite kernel.

    Returns:
        The cosines between the gradients. A gradient of zero has no direction: its row and column
        stay zero.

    Raises:
        TypeError: if `kernel` is not an array of real floating-point numbers.
        ValueError: if `kernel` is not a square matrix; and, where its values are known, if it is
            not finite or not symmetric, or has a negative diagonal entry.

    Example:
        >>> normalized_kernel(jnp.array([[4.0, 1.0], [1.0, 1.0]]))
        Array([[1. , 0.5],
               [0.5, 1. ]], dtype=float32)
    """
    check_kernel("kernel", kernel)
    values = concrete(kernel)
    if values is not None:
        require(
            bool(np.all(np.diagonal(values) >= 0)),
            "kernel",
            expected="squared lengths of gradients on the diagonal",
            got=f"a negative entry {np.min(np.diagonal(values))}",
        )
    kernel = jnp.asarray(kernel, accumulation_dtype())
    squares = jnp.diagonal(kernel)
    inverse_lengths = jnp.where(squares == 0, 0, jax.lax.rsqrt(squares))
    # The outer product first: it is symmetric to the last bit, and so is the result.
    return kernel * jnp.outer(inverse_lengths, inverse_lengths)


def trace_outputs(kernel: Float[Array, "n1m n2m"], num_outputs: int) -> Float[Array, "n1 n2"]:
    """Return the kernel between samples, ``sum_k Theta_(i k)(j k)``: the trace over outputs.

    *NTK Lens*, appendix A, sums these blocks ``Theta_kk`` of its eq. 7. A sum, not a mean: the
    trace of a square kernel does not change. (neural-tangents' `trace_axes` takes the mean.)

    Args:
        kernel: ``(n1 m, n2 m)``, sample-major, between any two batches.
        num_outputs: m, the outputs of one sample.

    Returns:
        The kernel ``(n1, n2)`` between samples.

    Raises:
        TypeError: if `kernel` is not an array of real floating-point numbers.
        ValueError: if `kernel` is not a matrix, or `num_outputs` does not divide its sides; and,
            where its values are known, if they are not finite.

    Example:
        >>> trace_outputs(jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0])), 2)
        Array([[3., 0.],
               [0., 7.]], dtype=float32)
    """
    check_kernel("kernel", kernel, symmetric=False)
    rows, columns = kernel.shape
    check_count("num_outputs", num_outputs)
    require(
        rows % num_outputs == 0 and columns % num_outputs == 0,
        "num_outputs",
        expected=f"a divisor of both sides of the kernel {kernel.shape}",
        got=num_outputs,
    )
    blocks = jnp.asarray(kernel, accumulation_dtype()).reshape(
        rows // num_outputs, num_outputs, columns // num_outputs, num_outputs
    )
    return jnp.trace(blocks, axis1=1, axis2=3)
