"""Everything cheap against everything exact, on one network (*Spectral Reach*, D.5).

The cheap side is `lnpjax.lnp`, which never forms a kernel. The exact side is the explicit kernel,
by this library and by neural-tangents, and its eigenmodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lnpjax._base import numerics
from lnpjax._base.checks import check_key
from lnpjax.decomposition import Estimate, Exact, Hutchinson, lnp, squared_jacobian_norm
from lnpjax.jacobian import ApplyFn, Batch, LossFn, OutputSubset, select_outputs
from lnpjax.jacobian._outputs import restrict
from lnpjax.kernel import (
    Backend,
    Modes,
    ModeStep,
    eigenmodes,
    entk,
    kernel_target_alignment,
    mode_pairs,
    normalized_kernel,
    step_along_gradient,
)
from lnpjax.spectra import effective_rank, inverse_participation_ratio

COMPONENTS = ("delta_loss", "chi_loss", "chi_net", "chi_pos")
"""What is compared first, on one batch and across two."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network at one state, a loss, and two batches to look at it with.

    Attributes:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        params: any pytree.
        batch_a: the batch whose eigenmodes are taken.
        batch_b: another one, for the cross-batch quantities.
        outputs: which outputs of each sample to keep (`lnpjax.jacobian.select_outputs`).

    Example:
        >>> subject = Subject(
        ...     lambda w, x: x @ w,
        ...     lambda f, y: jnp.mean((f - y) ** 2),
        ...     jnp.ones((3, 2)),
        ...     batch_a=(jnp.eye(3)[:2], jnp.zeros((2, 2))),
        ...     batch_b=(jnp.eye(3)[2:], jnp.zeros((1, 2))),
        ... )
        >>> sorted({finding.agrees for finding in validate(subject).findings})
        [True]
    """

    apply_fn: ApplyFn
    loss_fn: LossFn
    params: PyTree
    batch_a: Batch
    batch_b: Batch
    outputs: OutputSubset = None


class Finding(NamedTuple):
    """One quantity, measured in every way there is; `validate` makes it.

    Attributes:
        quantity: its name.
        cheap: without a kernel; `None` where there is no such way.
        exact: from the explicit kernel, by backend.
        difference: the largest difference, relative to the scale of the quantity.
        tolerance: how large it may be.

    Example:
        >>> Finding("chi_net", 2.0, {"jax": 2.5}, difference=0.2, tolerance=1e-3).agrees
        False
    """

    quantity: str
    cheap: float | None
    exact: dict[str, float]
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether all ways lead to the same number; not so if one is NaN."""
        return self.difference <= self.tolerance


class Validation(NamedTuple):
    """The outcome of a validation; made by `validate`.

    Attributes:
        findings: one for each quantity.
        modes: the eigenmodes of batch A, by this library.
        steps: gradient steps of growing size, mode by mode.
        loss: on batch A.
    """

    findings: list[Finding]
    modes: Modes
    steps: ModeStep
    loss: float

    @property
    def agrees(self) -> bool:
        """Whether everything agrees."""
        return all(finding.agrees for finding in self.findings)


def validate(
    subject: Subject, *, backends: Sequence[Backend] = ("jax",), key: Array | None = None
) -> Validation:
    """Compare the cheap measurement with the explicit kernel, by every backend.

    Args:
        subject: what to look at.
        backends: of `lnpjax.entk`; the first one's eigenmodes are returned.
        key: for the random probes.

    Returns:
        A `Validation`.

    Raises:
        TypeError, ValueError, ImportError: for what `lnpjax.entk` refuses.

    Cost: three explicit kernels and three eigendecompositions for each backend, and `Exact`
    measurements of both batches.

    Example:
        >>> data = jnp.eye(3), jnp.zeros((3, 2))
        >>> subject = Subject(
        ...     lambda w, x: jnp.tanh(x @ w),
        ...     lambda f, y: jnp.mean((f - y) ** 2),
        ...     jnp.arange(6.0).reshape(3, 2) / 6,
        ...     data,
        ...     data,
        ... )
        >>> validate(subject).agrees
        True
    """
    check_key("key", key)
    key = jax.random.key(0) if key is None else key
    kernels = {backend: _kernels(subject, backend) for backend in backends}
    gradients = _loss_gradients(subject)
    exact = {name: _exact(*kernel, *gradients) for name, kernel in kernels.items()}
    cheap, estimated = _cheap(subject, gradients, key)
    modes, scales, _ = exact[backends[0]]
    loss, steps = _steps(subject, modes)
    return Validation(
        [
            *_compared(cheap, {name: values for name, (_, _, values) in exact.items()}, scales),
            _estimated(
                estimated, {name: modes_of_a.trace for name, (modes_of_a, _, _) in exact.items()}
            ),
            _step_finding(steps, modes),
            *_kernel_finding(kernels),
        ],
        modes,
        steps,
        float(loss),
    )


def step_sizes() -> Float[Array, " step"]:
    """Return how much of the loss the test steps are predicted to take away, up to all of it.

    The smallest must be small, for piecewise linear networks bend at every kink that a step meets,
    and large enough for the loss to be told from its rounding.
    """
    smallest = -7 if _is_double() else -3
    return 10.0 ** jnp.arange(smallest, 1)


def _is_double() -> bool:
    return numerics.accumulation_dtype() == jnp.float64


def _tolerance() -> float:
    """Return 1e-9 in double precision; in single, what rounding leaves of small modes."""
    return 1e-9 if _is_double() else 1e-3


class _Kernels(NamedTuple):
    aa: Float[Array, "N_a N_a"]
    bb: Float[Array, "N_b N_b"]
    ba: Float[Array, "N_b N_a"]


def _kernels(subject: Subject, backend: Backend) -> _Kernels:
    def kernel(params: PyTree, inputs: PyTree, inputs2: PyTree | None = None) -> Array:
        return entk(
            subject.apply_fn,
            params,
            inputs,
            inputs2=inputs2,
            outputs=subject.outputs,
            backend=backend,
        )

    compiled, (a, _), (b, _) = jax.jit(kernel), subject.batch_a, subject.batch_b
    return _Kernels(
        compiled(subject.params, a), compiled(subject.params, b), compiled(subject.params, b, a)
    )


def _loss_gradients(subject: Subject) -> tuple[Float[Array, "a m"], Float[Array, "b m"]]:
    """Return the loss gradients of both batches in the chosen outputs."""

    def loss_gradient(params: PyTree, batch: Batch) -> Float[Array, "batch m"]:
        inputs, targets = batch
        with jax.default_matmul_precision("highest"):
            outputs = subject.apply_fn(params, inputs)
        gradient = jax.grad(subject.loss_fn)(outputs, targets)
        return select_outputs(gradient, subject.outputs)

    compiled = jax.jit(loss_gradient)
    return compiled(subject.params, subject.batch_a), compiled(subject.params, subject.batch_b)


def _cheap(
    subject: Subject, gradients: tuple[Array, Array], key: Array
) -> tuple[dict[str, float], Estimate]:
    """Return the LNP components, and one stochastic estimate of the trace.

    A network with chosen outputs is measured as the network of those outputs alone, with the linear
    loss of the same gradient.
    """
    network, loss_fn = restrict(subject.apply_fn, subject.outputs), subject.loss_fn
    batch_a, batch_b = subject.batch_a, subject.batch_b
    if subject.outputs is None:
        network = subject.apply_fn
    else:
        batch_a, batch_b = (batch_a[0], gradients[0]), (batch_b[0], gradients[1])

        def loss_fn(outputs: Array, gradient: PyTree) -> Array:
            return jnp.sum(outputs * gradient)

    measure = jax.jit(lnp(network, loss_fn, estimator=Exact(), normalization=None))
    one = measure(subject.params, batch_a)
    cross = measure(subject.params, batch_a, batch_b)
    values = {name: float(getattr(one, name)) for name in COMPONENTS}
    values |= {f"{name} across A, B": float(getattr(cross, name)) for name in COMPONENTS}

    def norm(params: PyTree, inputs: PyTree, key: Array) -> Estimate:
        estimator = Hutchinson(8)
        return squared_jacobian_norm(network, params, inputs, estimator=estimator, key=key)

    return values, jax.jit(norm)(subject.params, batch_a[0], key)


def _exact(
    aa: Array, bb: Array, ba: Array, gradient_a: Array, gradient_b: Array
) -> tuple[Modes, dict[str, float], dict[str, float]]:
    """Return modes of A, scales of the quantities, and all of them from the explicit kernels."""
    a, b = eigenmodes(aa, gradient_a), eigenmodes(bb, gradient_b)

    def components(modes: Modes) -> dict[str, Array]:
        values = (
            jnp.sum(modes.loss_changes),
            jnp.sum(modes.projections**2),
            modes.trace,
            modes.chi_pos,
        )
        return dict(zip(COMPONENTS, values, strict=True))

    on_a, on_b = components(a), components(b)
    # What crosses between batches may cancel: it is judged by the size of what cancels.
    between = {
        f"{name} across A, B": math.sqrt(abs(float(on_a[name] * on_b[name]))) for name in COMPONENTS
    }
    chi_pos = jnp.sum(mode_pairs(ba, b, a))
    chi_loss, chi_net = (jnp.sqrt(on_a[name] * on_b[name]) for name in COMPONENTS[1:3])
    crossed = (chi_pos * chi_loss * chi_net, chi_loss, chi_net, chi_pos)
    normalized = jnp.linalg.eigvalsh(normalized_kernel(aa))
    values = on_a | dict(zip(between, crossed, strict=True))
    values |= {
        "effective rank": effective_rank(a.eigenvalues),
        "normalised effective rank": effective_rank(normalized),
        "inverse participation": inverse_participation_ratio(a.eigenvalues),
        "kernel-target alignment": kernel_target_alignment(aa, gradient_a),
    }
    floats = {name: float(value) for name, value in values.items()}
    return a, {name: abs(value) for name, value in floats.items()} | between, floats


def _compared(
    cheap: dict[str, float], exact: dict[str, dict[str, float]], scales: dict[str, float]
) -> Iterator[Finding]:
    for name, scale in scales.items():
        by_backend = {backend: values[name] for backend, values in exact.items()}
        numbers = [*by_backend.values(), *([cheap[name]] if name in cheap else [])]
        difference = float(np.ptp(numbers)) / scale if scale else math.nan  # NaN if one is
        yield Finding(name, cheap.get(name), by_backend, difference, _tolerance())


def _estimated(estimate: Estimate, traces: dict[str, Array]) -> Finding:
    """Compare eight probes per sample, within four standard errors and rounding."""
    exact = {name: float(trace) for name, trace in traces.items()}
    value, sem = float(estimate.value), float(estimate.sem)
    difference = max(abs(value - trace) / trace for trace in exact.values())
    tolerance = max(4 * sem / value, _tolerance())
    return Finding("chi_net, 8 random probes", value, exact, difference, tolerance)


def _steps(subject: Subject, modes: Modes) -> tuple[Array, ModeStep]:
    """Return the loss, and steps that are predicted to take the shares `step_sizes` of it."""

    def steps(params: PyTree, modes: Modes) -> tuple[Array, ModeStep]:
        inputs, targets = subject.batch_a
        loss = subject.loss_fn(subject.apply_fn(params, inputs), targets)
        per_rate = jnp.sum(modes.loss_changes) / jnp.abs(loss)
        taken = step_along_gradient(
            subject.apply_fn,
            subject.loss_fn,
            params,
            subject.batch_a,
            modes,
            learning_rates=step_sizes() / per_rate,
            outputs=subject.outputs,
        )
        return loss, taken

    return jax.jit(steps)(subject.params, modes)


def _step_finding(steps: ModeStep, modes: Modes) -> Finding:
    """Compare the slope of the loss along real steps with delta_loss.

    The two smallest steps rid the slope of its first-order error.
    """
    small, large = steps.learning_rate[:2]
    changes = jnp.sum(steps.actual_loss_change[:2], axis=1)
    weight = large / (large - small)
    slope = weight * changes[0] / small + (1 - weight) * changes[1] / large
    predicted = float(jnp.sum(modes.loss_changes))
    difference = abs(float(-slope) - predicted) / abs(predicted)
    return Finding("delta_loss, real steps", float(-slope), {"jax": predicted}, difference, 1e-3)


def _kernel_finding(kernels: dict[Any, _Kernels]) -> Iterator[Finding]:
    """Compare the largest entry of the kernels by every backend."""
    if len(kernels) < 2:
        return
    first, second = list(kernels.values())[:2]
    scale = float(jnp.max(jnp.abs(first.aa)))
    differences = (jnp.max(jnp.abs(x - y)) for x, y in zip(first, second, strict=True))
    tolerance = min(1e-5, _tolerance())
    largest = {name: float(jnp.max(jnp.abs(kernel.aa))) for name, kernel in kernels.items()}
    difference = max(float(value) for value in differences) / scale
    yield Finding("largest kernel entry", None, largest, difference, tolerance)
