"""What one batch contributes to the LNP components: loss, gradient and squared Jacobian norm."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters, precision
from lnpjax._base import numerics
from lnpjax._base.checks import concrete
from lnpjax._base.entry_points import only_where
from lnpjax._base.ordering import after
from lnpjax._base.scaling import unit_of
from lnpjax._base.shards import Shards
from lnpjax._base.slices import strided
from lnpjax.decomposition._estimators import Estimator
from lnpjax.decomposition._squared_norm import Estimate, estimate_squared_norm
from lnpjax.jacobian import ApplyFn, LossFn
from lnpjax.jacobian._losses import loss_status, sample_losses
from lnpjax.jacobian._masks import check_mask
from lnpjax.status import Status, flag


@dataclasses.dataclass(frozen=True)
class Point:
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
class Rows:
    """A batch that has been checked, or the part of it that this device holds.

    Attributes:
        inputs: of the network; rows that only pad the batch hold copies of a valid one.
        targets: of the loss, filled in the same way.
        mask: False for rows that only pad the batch; `None` where all are valid.
        key: for what is drawn on it.
        gradient: of its loss in the parameters, where that has been computed before.
        check_gradient: whether that gradient is computed again and compared.
    """

    inputs: PyTree
    targets: PyTree
    mask: Bool[Array, " batch"] | None
    key: Key[Array, ""] | None
    gradient: PyTree | None = None
    check_gradient: Bool[ArrayLike, ""] = False

    def after(self, batch: MeasuredBatch) -> Rows:
        """Return the same rows, with which nothing is computed until another batch is done."""
        inputs, targets = after((self.inputs, self.targets), batch.done)
        return dataclasses.replace(self, inputs=inputs, targets=targets)


@dataclasses.dataclass(frozen=True)
class MeasuredBatch:
    """What one batch contributes; all of it, where devices hold parts.

    Attributes:
        num_outputs: of the network for one sample.
        loss: the loss.
        unit: a power of two near the largest entry of the loss gradient g, by which g and all that
            scales with it is divided (`lnpjax._base.scaling`).
        loss_scale: ``|g|``, in this unit.
        gradient: ``J^T g``, in this unit.
        misfit: the norm of what a gradient that was handed over differs by; zero where it was not
            compared.
        sensitivity: how much g loses to rounding (`lnpjax.precision.loss_sensitivity`).
        jacobian: ``|J|_F^2``.
        status: what is wrong with the loss (`loss_status`).
        num_samples: how many samples count.
        num_terms: how many loss terms: all axes of the outputs but the last.
    """

    num_outputs: int
    loss: Float[Array, ""]
    unit: Float[Array, ""]
    loss_scale: Float[Array, ""]
    gradient: PyTree
    misfit: Float[Array, ""]
    sensitivity: Float[Array, ""]
    jacobian: Estimate
    status: Int[Array, ""]
    num_samples: Float[Array, ""]
    num_terms: Float[Array, ""]

    @property
    def done(self) -> PyTree:
        """What is computed last; see `lnpjax._base.ordering`."""
        return self.gradient, self.jacobian.value, self.misfit


class LossGradient(NamedTuple):
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


class RealUpdate(NamedTuple):
    """How the loss on B changes over an update; NaN where none was given.

    *Spectral Reach*, eq. 15.

    Attributes:
        loss_change: the change.
        linear_change: what linearisation predicts, ``<grad_B, d theta>``.
    """

    loss_change: Float[Array, ""]
    linear_change: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class BatchMeasure:
    """Measures one batch.

    Attributes:
        apply_fn: the network.
        loss_fn: ``loss_fn(outputs, targets)``, a mean over samples.
        estimator: of the squared Jacobian norm.
        wrt: the trainable subset.
        shards: the parts of a batch that devices hold.
    """

    apply_fn: ApplyFn
    loss_fn: LossFn
    estimator: Estimator
    wrt: parameters.Subset
    shards: Shards

    def __call__(self, point: Point, rows: Rows) -> MeasuredBatch:
        """Return what a batch contributes."""
        linearize = functools.partial(
            self.estimator.linearize, self.apply_fn, point.params, wrt=self.wrt
        )
        linearization = linearize(rows.inputs)
        outputs = linearization.outputs
        g = self.loss_gradient(outputs, rows)
        status = loss_status(self.loss_fn, outputs, rows.targets)
        few, few_rows = _few(outputs, rows)
        sensitivity = self._sensitivity(
            few,
            few_rows,
            unit=g.unit,
            gradient_norm=g.scale * math.sqrt(self.shards.count * len(outputs) / len(few)),
            eps=point.eps,
        )
        # What follows waits until all is read of the outputs, so that they are not kept beside it.
        seen = sensitivity, status.astype(sensitivity.dtype)
        if rows.gradient is None:
            gradient = self.shards.total(linearization.vjp(after(g.values, *seen)))
        else:
            gradient = jax.tree.map(lambda leaf: _divided(leaf, g.unit), rows.gradient)
        valid = check_mask("mask", rows.mask, len(outputs))
        jacobian = estimate_squared_norm(
            linearization,
            self.estimator,
            point.members,
            key=after(rows.key, gradient, *seen),
            mask=valid,
            preconditioner=point.preconditioner,
            shards=self.shards,
        )
        misfit = jnp.zeros((), numerics.accumulation_dtype())
        if rows.gradient is not None:
            known = concrete(rows.check_gradient) is not None

            def distance() -> Float[Array, ""]:
                if known:
                    return self._misfit(linearization, g, gradient, g.unit)
                # What a branch shares with what is around it is kept at every step, whether it is
                # taken or not: it makes a forward pass of its own, once the norms are done.
                again = linearize(after(rows.inputs, jacobian.value))
                return self._misfit(
                    again, self.loss_gradient(again.outputs, rows), gradient, g.unit
                )

            misfit = only_where(rows.check_gradient, distance, misfit, given=gradient)
        num_samples = self.shards.total(jnp.sum(valid).astype(numerics.accumulation_dtype()))
        return MeasuredBatch(
            num_outputs=math.prod(outputs.shape[1:]),
            loss=g.loss.astype(numerics.accumulation_dtype()),
            unit=g.unit,
            loss_scale=g.scale,
            gradient=gradient,
            misfit=misfit,
            sensitivity=sensitivity,
            jacobian=jacobian,
            status=status,
            num_samples=num_samples,
            num_terms=num_samples * math.prod(outputs.shape[1:-1]),
        )

    def _misfit(
        self, linearization: Any, g: LossGradient, gradient: PyTree, unit: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Return how far a gradient, in that unit, is from what the batch gives."""
        own = parameters.widened(self.shards.total(linearization.vjp(g.values)))
        # Rounding may have put the two largest entries on different sides of a power of two.
        own = jax.tree.map(lambda leaf: multiplied(leaf, g.unit / unit), own)
        difference = jax.tree.map(jnp.subtract, own, gradient)
        return jnp.sqrt(jnp.sum(numerics.leaf_inner_products(difference, difference)))

    def loss(self, outputs: Float[Array, "batch ..."], rows: Rows) -> Float[Array, ""]:
        """Return the loss of the whole batch."""
        return self.shards.total(self._contribution(rows)(outputs))

    def loss_gradient(self, outputs: Float[Array, "batch ..."], rows: Rows) -> LossGradient:
        """Return the loss of the whole batch, and its gradient in the outputs of this part."""
        dtype = numerics.accumulation_dtype()
        loss, gradient = jax.value_and_grad(self._contribution(rows))(outputs)
        # Everything scales with the loss gradient; a very small or large one is scaled to about 1.
        unit = self.shards.largest(unit_of(gradient.astype(dtype)))
        gradient = _divided(gradient, unit)
        squares = numerics.accurate_sum(jnp.square(gradient.astype(dtype)))
        return LossGradient(
            self.shards.total(loss), gradient, unit, jnp.sqrt(self.shards.total(squares))
        )

    def _contribution(self, rows: Rows) -> Callable[[Array], Float[Array, ""]]:
        """Return the function from the outputs of a part to what it adds to the mean loss."""
        if rows.mask is not None:
            return _masked_loss(self.loss_fn, rows.targets, rows.mask, self.shards)
        parts = self.shards.count
        if parts == 1:
            return lambda outputs: self.loss_fn(outputs, rows.targets)
        return lambda outputs: self.loss_fn(outputs, rows.targets) / parts

    def _sensitivity(
        self,
        few: Float[Array, "few ..."],
        rows: Rows,
        *,
        unit: Float[Array, ""],
        gradient_norm: Float[Array, ""],
        eps: float,
    ) -> Float[Array, ""]:
        """Return how much the loss gradient of these samples loses to rounding."""
        loss_of = dataclasses.replace(self, shards=Shards())._contribution(rows)

        def gradient_of(outputs: Array) -> Float[Array, "few ..."]:
            return _divided(jax.grad(loss_of)(outputs), unit)

        own = precision.loss_sensitivity(
            gradient_of, few, gradient_of(few), gradient_norm=gradient_norm, eps=eps
        )
        if self.shards.count == 1:
            return own
        return jnp.sqrt(self.shards.total(jnp.square(own)) / self.shards.count)


GRADIENT_TOLERANCE = 0.05
"""How far, relative to its norm, a gradient that was handed over may be from the loss's own..."""
GRADIENT_ROUNDING = 8
"""...beyond so many times what rounding makes of either."""


def gradient_misfit(
    batch: MeasuredBatch, norm: Float[Array, ""], noise: Float[Array, ""]
) -> Int[Array, ""]:
    """Return `Status.GRADIENT_MISFIT` where a gradient is not what the batch gives.

    Args:
        batch: the batch.
        norm: of its gradient, in its unit.
        noise: what rounding adds to it (`lnpjax.precision.gradient_noise`).
    """
    allowed = GRADIENT_TOLERANCE * norm + GRADIENT_ROUNDING * noise
    return flag(batch.misfit > allowed, Status.GRADIENT_MISFIT)


def real_update(
    measure: BatchMeasure, point: Point, rows: Rows, batch: MeasuredBatch
) -> tuple[RealUpdate, Int[Array, ""]]:
    """Return the change of the loss over the update, and its prediction; and what is wrong.

    *Spectral Reach*, eq. 15. Both losses are taken on B: the paper's eq. 14 subtracts the loss
    on A instead, which would leave the difference between the batches in nu.
    """
    dtype = numerics.accumulation_dtype()
    if point.params_after is None:
        unknown = jnp.full((), jnp.nan, dtype)
        return RealUpdate(unknown, unknown), jnp.int32(Status.OK)
    rows = rows.after(batch)
    updated = measure.estimator.linearize(
        measure.apply_fn, point.params_after, rows.inputs, wrt=measure.wrt
    )
    loss_after = measure.loss(updated.outputs, rows)
    new, old = (
        parameters.widened(parameters.partition(params, measure.wrt)[0])
        for params in (point.params_after, point.params)
    )
    difference = jax.tree.map(jnp.subtract, new, old)
    linear = jnp.sum(numerics.leaf_inner_products(batch.gradient, difference)) * batch.unit
    update = RealUpdate(loss_after.astype(dtype) - batch.loss, linear)
    moved = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(difference)]))
    finite = jnp.isfinite(update.loss_change + update.linear_change)
    return update, flag(~finite, Status.NON_FINITE) | flag(~moved, Status.NO_UPDATE)


def _few(outputs: Float[Array, "batch ..."], rows: Rows) -> tuple[Float[Array, "few ..."], Rows]:
    """Return some samples of a batch, which tell how g is rounded.

    The noise of single samples is independent: over n times as many, each of which weighs 1/n in
    the mean, it falls by sqrt(n). An eighth of the batch tells how large it is.
    """
    count = max(4, len(outputs) // 8)
    few, targets, mask = strided((outputs, rows.targets, rows.mask), count)
    return few, dataclasses.replace(rows, targets=targets, mask=mask)


def _masked_loss(
    loss_fn: LossFn, targets: PyTree, mask: Bool[Array, " batch"], shards: Shards
) -> Callable[[Array], Float[Array, ""]]:
    """Return the function from outputs to the losses of valid samples, over their number."""
    count = shards.total(jnp.sum(mask))

    def loss(outputs: Array) -> Float[Array, ""]:
        losses = sample_losses(loss_fn, outputs, targets)
        return jnp.sum(jnp.where(mask, losses, 0)) / count

    return loss


def multiplied(array: Array, unit: Float[Array, ""]) -> Array:
    """Return the array times a unit, multiplied in the dtype of the unit."""
    return (array.astype(unit.dtype) * unit).astype(array.dtype)


def _divided(array: Array, unit: Float[Array, ""]) -> Array:
    """Return the array over a unit, divided in the dtype of the unit."""
    return (array.astype(unit.dtype) / unit).astype(array.dtype)
