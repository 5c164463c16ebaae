"""The LNP decomposition of the linearised loss change (*Spectral Reach*, sec. 3, app. A).

``delta_loss = chi_loss * chi_net * chi_pos``: the scale of the loss gradient, the scale of the
network's Jacobian, and the spectral position, which says where in the spectrum of the empirical NTK
the loss gradient lies. All three come from gradients; no kernel is formed.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters, precision
from lnpjax._base import numerics
from lnpjax._base.checks import check_functions, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.ordering import after
from lnpjax._base.scaling import unit_of
from lnpjax.decomposition._components import (
    LNP,
    MeasuredBatch,
    RealUpdate,
    components,
    impossible_position,
    with_status,
)
from lnpjax.decomposition._estimators import (
    Estimator,
    Hutchinson,
    check_estimator,
    check_estimator_key,
)
from lnpjax.decomposition._squared_norm import estimate_squared_norm
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.jacobian._contract import (
    as_mask,
    check_mask,
    check_training_batch,
    compute_precision,
    evenly_spread,
    fill_masked,
    loss_status,
    sample_losses,
    with_state,
)
from lnpjax.jacobian._interaction import check_interaction
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.status import Status, flag

Normalization: TypeAlias = Literal["sample", "token"] | None


@dataclasses.dataclass(frozen=True)
class _Point:
    """Where in parameter space is measured, and how on every batch.

    Attributes:
        params: the parameters.
        params_after: those after the update, or `None`.
        members: the parameter groups.
        preconditioner: diagonal P, or `None`.
        eps: the spacing of numbers in the network.
    """

    params: PyTree
    params_after: PyTree | None
    members: dict[str, tuple[int, ...]]
    preconditioner: PyTree | None
    eps: float


@dataclasses.dataclass(frozen=True)
class _Rows:
    """A batch that has been checked.

    Attributes:
        inputs: of the network; rows that only pad the batch hold copies of a valid one.
        targets: of the loss, filled in the same way.
        mask: False for rows that only pad the batch; `None` where all are valid.
        key: for what is drawn on it.
        gradient: of its loss in the parameters, where that has been computed before.
    """

    inputs: PyTree
    targets: PyTree
    mask: Bool[Array, " batch"] | None
    key: Key[Array, ""] | None
    gradient: PyTree | None = None

    def after(self, batch: MeasuredBatch) -> _Rows:
        """Return the same rows, with which nothing is computed until another batch is done."""
        inputs, targets = after((self.inputs, self.targets), batch.done)
        return dataclasses.replace(self, inputs=inputs, targets=targets)


class _LossGradient(NamedTuple):
    """The loss, and its gradient g in the outputs.

    Attributes:
        loss: the loss.
        values: g, over `unit`.
        unit: a power of two, by which g is divided before it is squared.
        scale: ``|g|``, over `unit`.
    """

    loss: Float[Array, ""]
    values: Float[Array, "batch ..."]
    unit: Float[Array, ""]
    scale: Float[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)  # hashable: jit takes it whatever `wrt` holds
class LNPMeasure:
    """A measurement of the LNP components, made by `lnp`. Call it; see there."""

    apply_fn: ApplyFn
    loss_fn: LossFn
    estimator: Estimator
    normalization: Normalization
    groups: parameters.Grouping
    wrt: parameters.Subset

    @entry_point
    def __call__(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None = None,
        *,
        key: Key[Array, ""] | None = None,
        mask_a: Bool[Array, " batch"] | None = None,
        mask_b: Bool[Array, " batch"] | None = None,
        gradient_a: PyTree | None = None,
        params_after: PyTree | None = None,
        preconditioner: PyTree | None = None,
        state: PyTree | None = None,
    ) -> LNP:
        """Measure the LNP components.

        Args:
            params: the parameters before the update.
            batch_a: ``(inputs, targets)`` of the batch that makes the update.
            batch_b: the batch on which the loss change is read; `None` for A itself.
            key: a `jax.random` key, for estimators that draw.
            mask_a: boolean, False for rows of A that only pad it. The loss is then the mean of
                ``loss_fn`` over single valid samples.
            mask_b: boolean, False for rows of B that only pad it.
            gradient_a: the gradient of the loss on A in `params`, if it is already known (the
                training step's own, before clipping or weight decay): saves 2/3 gradient. One that
                is longer than the loss and the network allow is flagged; others are taken as given.
                Under `wrt`, frozen leaves may be there, be `None`, or be left out.
            params_after: the parameters after the update, with or without frozen leaves; fills
                `loss_change`, `linear_change` and `nu`, for a forward pass on B.
            preconditioner: optional diagonal P >= 0 in the structure of the trainable parameters:
                the components of ``J P J^T``, along which ``-P grad`` descends.
            state: of the network besides parameters, such as batch statistics, handed to
                ``apply_fn(params, inputs, state=state)`` and not trained; `None` for a network
                without any, or one that has frozen it.

        Returns:
            An `LNP`.

        Raises:
            TypeError, ValueError: as `lnp`.
        """
        measure = with_state(self, state)
        trainable, frozen = parameters.partition(params, self.wrt)
        members = parameters.group_leaves(trainable, self.groups)
        check_estimator_key(self.estimator, key)
        keys = (None, None) if key is None else jax.random.split(key)
        rows_a = measure._checked(params, batch_a, "a", mask_a, keys[0])
        rows_b = None
        if batch_b is None:
            require(mask_b is None, "mask_b", expected="None where batch_b is None", got="a mask")
        else:
            rows_b = measure._checked(params, batch_b, "b", mask_b, keys[1])
        if gradient_a is not None:
            gradient_a, _ = parameters.fit_parts("gradient_a", gradient_a, trainable, frozen)
            rows_a = dataclasses.replace(rows_a, gradient=gradient_a)
        if params_after is not None:
            moved, still = parameters.fit_parts("params_after", params_after, trainable, frozen)
            params_after = parameters.combine(moved, frozen if still is None else still)
        preconditioner, negative = fit_preconditioner(preconditioner, trainable)
        eps = compute_precision(measure.apply_fn, params, rows_a.inputs)
        point = _Point(params, params_after, members, preconditioner, eps)
        result, status = measure._decompose(point, rows_a, rows_b)
        return with_status(result, status | negative)

    def _checked(
        self,
        params: PyTree,
        batch: Batch,
        name: str,
        mask: Bool[Array, " batch"] | None,
        key: Key[Array, ""] | None,
    ) -> _Rows:
        """Check a batch, and put valid rows where it was only padded."""
        mask = as_mask(mask)
        num_samples = check_training_batch(
            self.apply_fn, self.loss_fn, params, batch, argument=f"batch_{name}"
        )
        valid = check_mask(f"mask_{name}", mask, num_samples)
        inputs, targets = batch if mask is None else fill_masked(tuple(batch), valid)
        return _Rows(inputs, targets, mask, key)

    def _decompose(
        self, point: _Point, rows_a: _Rows, rows_b: _Rows | None
    ) -> tuple[LNP, Int[Array, ""]]:
        """Measure one batch after the other, and put the components together."""
        on_a = self._measured(point, rows_a)
        on_b = None
        if rows_b is not None:
            rows_b = rows_b.after(on_a)
            on_b = self._measured(point, rows_b)
        read, read_rows = on_b or on_a, rows_b or rows_a
        status = on_a.jacobian.status | read.jacobian.status
        if self.estimator.per_sample:
            watched = [rows.inputs for rows in (rows_a, rows_b) if rows is not None]
            status |= check_interaction(self.apply_fn, point.params, *after(watched, read.done))

        products = numerics.leaf_inner_products(
            read.gradient, on_a.gradient, weights=point.preconditioner
        )
        deltas = numerics.sum_groups(products, point.members)
        update = self._real_update(point, read_rows, read)
        result = components(point.members, deltas, self._factor(on_a, read), on_a, on_b, update)
        status |= loss_status(self.loss_fn, on_a.outputs, rows_a.targets)
        status |= self._gradient_status(point, jnp.sum(products), on_a, read)
        if point.params_after is not None:
            predicted = update.loss_change + update.linear_change
            status |= flag(~jnp.isfinite(predicted), Status.NON_FINITE)
        return result, status

    def _measured(self, point: _Point, rows: _Rows) -> MeasuredBatch:
        linearization = self.estimator.linearize(
            self.apply_fn, point.params, rows.inputs, wrt=self.wrt
        )
        outputs = linearization.outputs
        g = self._loss_gradient(outputs, rows)
        if rows.gradient is None:
            gradient = linearization.vjp(g.values)
        else:
            gradient = jax.tree.map(lambda leaf: _divided(leaf, g.unit), rows.gradient)
        valid = check_mask("mask", rows.mask, len(outputs))
        jacobian = estimate_squared_norm(
            linearization,
            self.estimator,
            point.members,
            key=after(rows.key, g.scale, gradient),
            mask=valid,
            preconditioner=point.preconditioner,
        )
        num_samples = jnp.sum(valid).astype(numerics.accumulation_dtype())
        # The noise of single samples is independent: over n times as many, each of which weighs
        # 1/n in the mean, it falls by sqrt(n). An eighth of the batch tells how large it is.
        few = evenly_spread((outputs, rows.targets, rows.mask), max(4, len(outputs) // 8))
        return MeasuredBatch(
            outputs=outputs,
            loss=g.loss.astype(numerics.accumulation_dtype()),
            unit=g.unit,
            loss_scale=g.scale,
            gradient=gradient,
            sensitivity=self._sensitivity(
                *after(few, gradient, jacobian.value),
                unit=g.unit,
                gradient_norm=g.scale * math.sqrt(len(outputs) / len(few[0])),
                eps=point.eps,
            ),
            jacobian=jacobian,
            num_samples=num_samples,
            num_terms=num_samples * math.prod(outputs.shape[1:-1]),
        )

    def _loss_gradient(self, outputs: Float[Array, "batch ..."], rows: _Rows) -> _LossGradient:
        dtype = numerics.accumulation_dtype()

        def loss_of(outputs: Array) -> Float[Array, ""]:
            return _masked_loss(self.loss_fn, outputs, rows.targets, rows.mask)

        loss, gradient = jax.value_and_grad(loss_of)(outputs)
        # Everything scales with the loss gradient; a very small or large one is scaled to about 1.
        unit = unit_of(gradient.astype(dtype))
        gradient = _divided(gradient, unit)
        scale = jnp.sqrt(numerics.accurate_sum(jnp.square(gradient.astype(dtype))))
        return _LossGradient(loss, gradient, unit, scale)

    def _sensitivity(
        self,
        outputs: Float[Array, "batch ..."],
        targets: PyTree,
        mask: Bool[Array, " batch"] | None,
        *,
        unit: Float[Array, ""],
        gradient_norm: Float[Array, ""],
        eps: float,
    ) -> Float[Array, ""]:
        """Return how much the loss gradient of these samples loses to rounding."""

        def gradient_of(outputs: Array) -> Float[Array, "batch ..."]:
            gradient = jax.grad(lambda f: _masked_loss(self.loss_fn, f, targets, mask))(outputs)
            return _divided(gradient, unit)

        return precision.loss_sensitivity(
            gradient_of, outputs, gradient_of(outputs), gradient_norm=gradient_norm, eps=eps
        )

    def _gradient_status(
        self, point: _Point, delta_loss: Float[Array, ""], on_a: MeasuredBatch, read: MeasuredBatch
    ) -> Int[Array, ""]:
        """Flag where rounding is an appreciable part of chi_pos, and where it is impossible."""
        norms, noises, status = [], [], jnp.int32(Status.OK)
        for batch in (on_a, read):
            products = numerics.leaf_inner_products(
                batch.gradient, batch.gradient, weights=point.preconditioner
            )
            squares = numerics.sum_groups(products, point.members)
            norm = jnp.sqrt(jnp.sum(squares))
            noise = precision.gradient_noise(
                norm,
                batch.loss_scale,
                batch.jacobian.value,
                batch.num_samples * math.prod(batch.outputs.shape[1:]),
                eps=point.eps,
                sensitivity=batch.sensitivity,
            )
            norms.append(norm)
            noises.append(noise)
            per_sample = self.estimator.per_sample
            status |= impossible_position(batch, squares, point.eps, per_sample=per_sample)
        error = precision.relative_error(delta_loss, *norms, *noises)
        return status | precision.rounding_flag(error)

    def _factor(self, on_a: MeasuredBatch, read: MeasuredBatch) -> Float[Array, ""]:
        """Return what moves from chi_net to chi_loss (*Spectral Reach*, eq. 29).

        It makes both independent of the size of the batch.
        """
        if self.normalization == "sample":
            return jnp.sqrt(on_a.num_samples * read.num_samples)
        if self.normalization == "token":
            return jnp.sqrt(on_a.num_terms * read.num_terms)
        return jnp.ones((), numerics.accumulation_dtype())

    def _real_update(self, point: _Point, rows: _Rows, batch: MeasuredBatch) -> RealUpdate:
        """Return the change of the loss over the update, and its prediction.

        *Spectral Reach*, eq. 15. Both losses are taken on B: the paper's eq. 14 subtracts the loss
        on A instead, which would leave the difference between the batches in nu.
        """
        dtype = numerics.accumulation_dtype()
        if point.params_after is None:
            return RealUpdate(jnp.full((), jnp.nan, dtype), jnp.full((), jnp.nan, dtype))
        rows = rows.after(batch)
        updated = self.estimator.linearize(
            self.apply_fn, point.params_after, rows.inputs, wrt=self.wrt
        )
        loss_after = _masked_loss(self.loss_fn, updated.outputs, rows.targets, rows.mask)
        new, old = (
            parameters.widened(parameters.partition(params, self.wrt)[0])
            for params in (point.params_after, point.params)
        )
        difference = jax.tree.map(jnp.subtract, new, old)
        linear = jnp.sum(numerics.leaf_inner_products(batch.gradient, difference)) * batch.unit
        return RealUpdate(loss_after.astype(dtype) - batch.loss, linear)


def lnp(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    estimator: Estimator = Hutchinson(1),
    normalization: Normalization = "sample",
    groups: parameters.Grouping = None,
    wrt: parameters.Subset = None,
) -> LNPMeasure:
    """Make a measurement of the LNP components.

    ``delta_loss = chi_loss * chi_net * chi_pos`` (*Spectral Reach*, eqs. 24 and 29; computed by
    eqs. 49 to 51). With g the gradient of the loss in the outputs and J the Jacobian,

    - ``delta_loss = <J_B^T g_B, J_A^T g_A>``,
    - ``chi_loss = |g_A| |g_B|``, times the normalisation,
    - ``chi_net = |J_A|_F |J_B|_F``, over the normalisation,
    - ``chi_pos = delta_loss / (chi_loss chi_net)``, which is ``sum_k gamma_k^2 p_k`` where A = B.

    The estimate of ``|J|_F^2`` is unbiased; where A = B, so is chi_net. As smooth functions of
    noisy estimates the others carry a small bias, relative to themselves about ``-(a + b)/8`` for a
    cross batch's chi_net, ``3 (a + b)/8`` for its chi_pos, and ``a`` for chi_pos where A = B, with
    a and b the squared relative errors of ``|J_A|^2`` and ``|J_B|^2``: 1e-4 at the usual one
    percent, far below the standard error. The product identity holds to rounding regardless.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples. Labels outside of
            their range are for it to refuse: JAX takes -1 for the last class, and what is measured
            is the loss as it is computed. Near zero, formulas of the usual losses cancel, and
            `status` says so; `lnpjax.precision` shows some that do not.
        estimator: how ``|J|_F^2`` is estimated: `Exact`, `Hutchinson` or `GlobalHutchinson`.
        normalization: ``"sample"`` multiplies chi_loss and divides chi_net by ``sqrt(|A| |B|)``;
            ``"token"`` does so with the number of loss terms (samples times positions: all axes of
            the outputs but the last); `None` leaves them raw. delta_loss and chi_pos do not change.
        groups: the parameter groups (`lnpjax.parameters.group_leaves`); `None` for the top-level
            modules.
        wrt: the trainable subset (`lnpjax.parameters.partition`); everything if `None`.

    Returns:
        A pure function ``measure(params, batch_a, batch_b=None, *, key) -> LNP``; see
        `LNPMeasure.__call__`. It can be jitted, scanned and vmapped.

    Raises:
        TypeError: if `apply_fn` or `loss_fn` is not a function, or `estimator` not an estimator.
        ValueError: if `normalization` is unknown; when called, for bad input, such as a
            preconditioner below zero, before anything is computed; and, outside `jit`, where
            samples interact (inside, `status` says so).

    Cost: with `Hutchinson(1)`, in gradients: 5/3 where A = B, 10/3 for a cross batch, 8/3 if A's
    gradient is handed over; less where norms are computed without gradients (`lnpjax.jacobian`),
    and a forward pass more per batch under a preconditioner, which needs gradients. Memory: that of
    the larger batch's pass, since A is done with before B begins.

    Example:
        >>> key = jax.random.key(0)
        >>> weights = jnp.array([[1.0], [0.0]])
        >>> batch = (jnp.eye(2), jnp.array([[2.0], [0.0]]))
        >>> def mean_squared_error(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> measure = lnp(lambda w, x: x @ w, mean_squared_error)
        >>> out = measure(weights, batch, key=key)
        >>> float(out.delta_loss), float(out.chi_net), float(out.chi_pos)
        (1.0, 1.0, 0.5)
    """
    require(
        normalization is None or normalization in ("sample", "token"),
        "normalization",
        expected="'sample', 'token' or None",
        got=repr(normalization),
    )
    check_estimator(estimator)
    check_functions(apply_fn=apply_fn, loss_fn=loss_fn)
    return LNPMeasure(apply_fn, loss_fn, estimator, normalization, groups, wrt)


def _divided(array: Array, unit: Float[Array, ""]) -> Array:
    """Return the array over a unit, divided in the dtype of the unit."""
    return (array.astype(unit.dtype) / unit).astype(array.dtype)


def _masked_loss(
    loss_fn: LossFn,
    outputs: Float[Array, "batch ..."],
    targets: PyTree,
    mask: Bool[Array, " batch"] | None,
) -> Float[Array, ""]:
    if mask is None:
        return loss_fn(outputs, targets)
    losses = sample_losses(loss_fn, outputs, targets)
    return jnp.sum(jnp.where(mask, losses, 0)) / jnp.sum(mask)
