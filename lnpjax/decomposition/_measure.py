"""The LNP decomposition of the linearised loss change (*Spectral Reach*, sec. 3, app. A).

``delta_loss = chi_loss * chi_net * chi_pos``: the scale of the loss gradient, the scale of the
network's Jacobian, and the spectral position, which says where in the spectrum of the empirical NTK
the loss gradient lies. All three come from gradients; no kernel is formed.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters, precision
from lnpjax._base import numerics
from lnpjax._base.checks import check_functions, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.ordering import after
from lnpjax._base.shards import AxisName, Shards, shards_over
from lnpjax.decomposition._batches import (
    BatchMeasure,
    MeasuredBatch,
    Point,
    Rows,
    gradient_misfit,
    multiplied,
    real_update,
)
from lnpjax.decomposition._components import LNP, components, impossible_position, with_status
from lnpjax.decomposition._estimators import (
    Estimator,
    Hutchinson,
    check_estimator,
    check_estimator_key,
)
from lnpjax.jacobian import ApplyFn, Batch, LossFn
from lnpjax.jacobian._contract import check_training_batch, with_state
from lnpjax.jacobian._interaction import check_interaction
from lnpjax.jacobian._masks import as_mask, check_mask, fill_masked
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.jacobian._rounding import compute_precision
from lnpjax.status import Status

Normalization: TypeAlias = Literal["sample", "token"] | None


@dataclasses.dataclass(frozen=True, eq=False)  # hashable: jit takes it whatever `wrt` holds
class LNPMeasure:
    """A measurement of the LNP components, made by `lnp`. Call it; see there."""

    apply_fn: ApplyFn
    loss_fn: LossFn
    estimator: Estimator
    normalization: Normalization
    groups: parameters.Grouping
    wrt: parameters.Subset
    axis_name: AxisName

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
        check_gradient_a: Bool[ArrayLike, ""] = True,
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
                training step's own, before clipping or weight decay, and of the batch of all
                devices): saves 2/3 gradient where it is not checked. Under `wrt`, frozen leaves may
                be there, be `None`, or be left out.
            check_gradient_a: whether to compute that gradient all the same, and flag one that is
                off by more than `GRADIENT_TOLERANCE`: clipped, decayed, scaled, drawn with dropout.
                Where it is not checked, nor are samples compared that the program of the network
                shows to be independent. `instrument` checks at the start of some windows. The same
                on all devices.
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
        measured, _ = self._measured(
            params,
            batch_a,
            batch_b,
            key=key,
            mask_a=mask_a,
            mask_b=mask_b,
            gradient_a=gradient_a,
            check_gradient_a=check_gradient_a,
            params_after=params_after,
            preconditioner=preconditioner,
            state=state,
        )
        return measured

    @entry_point
    def value_and_gradient(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None = None,
        *,
        key: Key[Array, ""] | None = None,
        mask_a: Bool[Array, " batch"] | None = None,
        mask_b: Bool[Array, " batch"] | None = None,
        preconditioner: PyTree | None = None,
        state: PyTree | None = None,
    ) -> tuple[LNP, PyTree]:
        """Measure, and return the gradient of the loss on A, which the measurement has made.

        For a training step of one's own that is measured: it needs no gradient besides, and the
        forward pass on A is made once. In gradients, such a step with a cross batch and one probe
        costs 10/3, where a gradient by `jax.grad` that is handed over makes it 11/3.

        Args:
            params: the parameters before the update.
            batch_a: ``(inputs, targets)`` of the batch that makes the update.
            batch_b: the batch on which the loss change is read; `None` for A itself.
            key: a `jax.random` key, for estimators that draw.
            mask_a: boolean, False for rows of A that only pad it.
            mask_b: boolean, False for rows of B that only pad it.
            preconditioner: optional diagonal P >= 0; the gradient is that without it.
            state: of the network besides parameters, handed to `apply_fn` and not trained.

        Returns:
            An `LNP`, whose `loss_a` is the loss, and the gradient in the structure of the trainable
            parameters.

        Raises:
            TypeError, ValueError: as `lnp`.

        Example:
            >>> measure = lnp(lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2))
            >>> batch = (jnp.eye(2), jnp.ones((2, 1)))
            >>> weights = jnp.zeros((2, 1))
            >>> out, gradient = measure.value_and_gradient(weights, batch, key=jax.random.key(0))
            >>> float(out.loss_a), gradient.ravel()
            (1.0, Array([-1., -1.], dtype=float32))
        """
        measured, on_a = self._measured(
            params,
            batch_a,
            batch_b,
            key=key,
            mask_a=mask_a,
            mask_b=mask_b,
            preconditioner=preconditioner,
            state=state,
        )
        return measured, jax.tree.map(lambda leaf: multiplied(leaf, on_a.unit), on_a.gradient)

    def _measured(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None,
        *,
        key: Key[Array, ""] | None,
        mask_a: Bool[Array, " batch"] | None,
        mask_b: Bool[Array, " batch"] | None,
        preconditioner: PyTree | None,
        state: PyTree | None,
        gradient_a: PyTree | None = None,
        check_gradient_a: Bool[ArrayLike, ""] = True,
        params_after: PyTree | None = None,
    ) -> tuple[LNP, MeasuredBatch]:
        """Return the components, and what batch A contributed."""
        measure = with_state(self, state)
        shards = shards_over(self.axis_name)
        shards.check_split("batch_a", batch_a)
        trainable, frozen = parameters.partition(params, self.wrt)
        members = parameters.group_leaves(trainable, self.groups)
        check_estimator_key(self.estimator, key)
        keys = (None, None) if key is None else jax.random.split(shards.key(key))
        rows_a = measure._checked(params, batch_a, "a", mask_a, keys[0])
        rows_b = None
        if batch_b is None:
            require(mask_b is None, "mask_b", expected="None where batch_b is None", got="a mask")
        else:
            rows_b = measure._checked(params, batch_b, "b", mask_b, keys[1])
        if gradient_a is not None:
            gradient_a, _ = parameters.fit_parts("gradient_a", gradient_a, trainable, frozen)
            rows_a = dataclasses.replace(
                rows_a, gradient=gradient_a, check_gradient=check_gradient_a
            )
        if params_after is not None:
            moved, still = parameters.fit_parts("params_after", params_after, trainable, frozen)
            params_after = parameters.combine(moved, frozen if still is None else still)
        preconditioner, negative = fit_preconditioner(preconditioner, trainable)
        eps = compute_precision(measure.apply_fn, params, rows_a.inputs)
        point = Point(params, params_after, members, preconditioner, eps)
        result, status, on_a = measure._decompose(point, shards, rows_a, rows_b)
        return shards.replicated(with_status(result, shards.flags(status | negative))), on_a

    def _checked(
        self,
        params: PyTree,
        batch: Batch,
        name: str,
        mask: Bool[Array, " batch"] | None,
        key: Key[Array, ""] | None,
    ) -> Rows:
        """Check a batch, and put valid rows where it was only padded."""
        mask = as_mask(mask)
        num_samples = check_training_batch(
            self.apply_fn, self.loss_fn, params, batch, argument=f"batch_{name}"
        )
        valid = check_mask(f"mask_{name}", mask, num_samples)
        inputs, targets = batch if mask is None else fill_masked(tuple(batch), valid)
        return Rows(inputs, targets, mask, key)

    def _decompose(
        self, point: Point, shards: Shards, rows_a: Rows, rows_b: Rows | None
    ) -> tuple[LNP, Int[Array, ""], MeasuredBatch]:
        """Measure one batch after the other, and put the components together."""
        measure = BatchMeasure(self.apply_fn, self.loss_fn, self.estimator, self.wrt, shards)
        on_a, on_b = measure(point, rows_a), None
        if rows_b is not None:
            rows_b = rows_b.after(on_a)
            on_b = measure(point, rows_b)
        read, read_rows = on_b or on_a, rows_b or rows_a
        status = on_a.jacobian.status | on_a.status | read.jacobian.status | read.status
        if self.estimator.per_sample:
            watched = [rows.inputs for rows in (rows_a, rows_b) if rows is not None]
            status |= check_interaction(
                self.apply_fn,
                point.params,
                *after(watched, read.done),
                confirm=True if rows_a.gradient is None else rows_a.check_gradient,
            )

        products = numerics.leaf_inner_products(
            read.gradient, on_a.gradient, weights=point.preconditioner
        )
        deltas = numerics.sum_groups(products, point.members)
        update, update_status = real_update(measure, point, read_rows, read)
        result = components(point.members, deltas, self._factor(on_a, read), on_a, on_b, update)
        status |= self._gradient_status(point, jnp.sum(products), on_a, read)
        return result, status | update_status, on_a

    def _gradient_status(
        self, point: Point, delta_loss: Float[Array, ""], on_a: MeasuredBatch, read: MeasuredBatch
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
                batch.num_samples * batch.num_outputs,
                eps=point.eps,
                sensitivity=batch.sensitivity,
            )
            norms.append(norm)
            noises.append(noise)
            status |= gradient_misfit(batch, norm, noise)
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


def lnp(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    *,
    estimator: Estimator = Hutchinson(1),
    normalization: Normalization = "sample",
    groups: parameters.Grouping = None,
    wrt: parameters.Subset = None,
    axis_name: AxisName = None,
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
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axis (or axes) over which devices hold
            parts of A and of B, of equal sizes: the components are then those of the whole batches,
            the same on every device. ``()`` for components of each device's own. Of no use
            elsewhere: `jit` sees whole batches.

    Returns:
        A pure function ``measure(params, batch_a, batch_b=None, *, key) -> LNP``; see
        `LNPMeasure.__call__`. It can be jitted, scanned and vmapped.

    Raises:
        TypeError: if `apply_fn` or `loss_fn` is not a function, or `estimator` not an estimator.
        ValueError: if `normalization` is unknown; when called, inside `jax.shard_map` or
            `jax.pmap` without `axis_name`; for bad input, such as a
            preconditioner below zero, before anything is computed; and, outside `jit`, where
            samples interact (inside, `status` says so).

    Cost: with `Hutchinson(1)`, in gradients: 5/3 where A = B, 10/3 for a cross batch, 8/3 if A's
    gradient is handed over and not checked; less where norms are computed without gradients
    (`lnpjax.jacobian`), and a forward pass more per batch under a preconditioner, which needs
    gradients. Memory: that of the larger batch's pass, since A is done with before B begins.

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
    return LNPMeasure(apply_fn, loss_fn, estimator, normalization, groups, wrt, axis_name)
