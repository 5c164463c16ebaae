"""The LNP decomposition of the linearised loss change (Spectral Reach, section 3, appendix A).

``delta_loss = chi_loss * chi_net * chi_pos``: the scale of the loss gradient, the scale of the
network's Jacobian, and the spectral position, which says where in the spectrum of the empirical NTK
the loss gradient lies. All three come from gradients; no kernel is formed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters, precision
from lnpjax._base import numerics
from lnpjax._base.checks import check_functions, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.ordering import after
from lnpjax._base.scaling import unit_of
from lnpjax.decomposition._components import LNP, Side, components, impossible_position, with_status
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
)
from lnpjax.jacobian._interaction import interaction_status, samples_interact
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.status import Status, flag

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
    ) -> LNP:
        """Measure the LNP components.

        Args:
            params: the parameters before the update.
            batch_a: ``(inputs, targets)`` of the batch that makes the update.
            batch_b: the batch on which the loss change is read; `None` for A itself.
            key: a `jax.random` key, for estimators that draw.
            mask_a: boolean, False for rows of A that only pad it. The loss is then the mean of
                ``loss_fn`` over single valid samples.
            mask_b: likewise for B.
            gradient_a: the gradient of the loss on A in `params`, if it is already known (the
                training step's own, before clipping or weight decay): saves 2/3 gradient. One that
                is longer than the loss and the network allow is flagged; others are taken as given.
                Under `wrt`, frozen leaves may be there, be `None`, or be left out.
            params_after: the parameters after the update, likewise; fills `loss_change`,
                `linear_change` and `nu`, for a forward pass on B.
            preconditioner: optional diagonal P >= 0 in the structure of the trainable parameters:
                the components of ``J P J^T``, along which ``-P grad`` descends.

        Returns:
            An `LNP`.

        Raises:
            TypeError, ValueError: as `lnp`.
        """
        mask_a, mask_b = as_mask(mask_a), as_mask(mask_b)
        trainable, frozen = parameters.partition(params, self.wrt)
        members = parameters.group_leaves(trainable, self.groups)
        check_estimator_key(self.estimator, key)
        batch_a = self._checked(params, batch_a, "a", mask_a)
        if batch_b is None:
            require(mask_b is None, "mask_b", expected="None where batch_b is None", got="a mask")
        else:
            batch_b = self._checked(params, batch_b, "b", mask_b)
        if gradient_a is not None:
            gradient_a, _ = parameters.fit_parts("gradient_a", gradient_a, trainable, frozen)
        if params_after is not None:
            moved, still = parameters.fit_parts("params_after", params_after, trainable, frozen)
            params_after = parameters.combine(moved, frozen if still is None else still)
        preconditioner, negative = fit_preconditioner(preconditioner, trainable)

        keys = (None, None) if key is None else jax.random.split(key)
        eps = compute_precision(self.apply_fn, params, batch_a[0])
        measured = functools.partial(self._side, params, members, preconditioner, eps)
        side_a = measured(batch_a, keys[0], mask_a, gradient_a)
        side_b = side_a
        if batch_b is not None:
            batch_b = after(batch_b, side_a.gradient, side_a.jacobian.value)
            side_b = measured(batch_b, keys[1], mask_b, None)

        watched = [batch[0] for batch in (batch_a, batch_b) if batch is not None]
        interact = self._interaction(params, after(watched, side_b.gradient, side_b.jacobian.value))

        products = numerics.leaf_inner_products(
            side_b.gradient, side_a.gradient, weights=preconditioner
        )
        factor = self._factor(side_a, side_b)
        loss_change, linear_change = self._real_update(
            params, params_after, batch_b or batch_a, mask_a if batch_b is None else mask_b, side_b
        )
        result = components(
            members,
            numerics.sum_groups(products, members),
            factor,
            side_a,
            None if batch_b is None else side_b,
        )
        return with_status(
            dataclasses.replace(
                result,
                loss_change=loss_change,
                linear_change=linear_change,
                nu=loss_change - linear_change,
            ),
            side_a.status
            | side_b.status
            | interact
            | loss_status(self.loss_fn, side_a.outputs, batch_a[1])
            | negative
            | self._gradient_flags(jnp.sum(products), side_a, side_b, members, eps, preconditioner)
            | flag(
                (params_after is not None) & ~jnp.isfinite(loss_change + linear_change),
                Status.NON_FINITE,
            ),
        )

    def _checked(
        self, params: PyTree, batch: Batch, side: str, mask: Bool[Array, " batch"] | None
    ) -> Batch:
        """The batch, with valid rows where it was only padded."""
        num_samples = check_training_batch(
            self.apply_fn, self.loss_fn, params, batch, argument=f"batch_{side}"
        )
        valid = check_mask(f"mask_{side}", mask, num_samples)
        return batch if mask is None else fill_masked(tuple(batch), valid)

    def _interaction(self, params: PyTree, inputs: list[PyTree]) -> Int[Array, ""]:
        if not self.estimator.per_sample:
            return jnp.int32(Status.OK)
        return interaction_status("apply_fn", samples_interact(self.apply_fn, params, *inputs))

    def _side(
        self,
        params: PyTree,
        members: dict[str, tuple[int, ...]],
        preconditioner: PyTree | None,
        eps: float,
        batch: Batch,
        key: Key[Array, ""] | None,
        mask: Bool[Array, " batch"] | None,
        gradient: PyTree | None,
    ) -> Side:
        inputs, targets = batch
        dtype = numerics.accumulation_dtype()
        linearization = self.estimator.linearize(self.apply_fn, params, inputs, wrt=self.wrt)
        outputs = linearization.outputs

        def loss_of(outputs: Array) -> Float[Array, ""]:
            return _masked_loss(self.loss_fn, outputs, targets, mask)

        loss, cotangents = jax.value_and_grad(loss_of)(outputs)
        # Everything scales with the loss gradient; a very small or large one is scaled to about 1.
        unit = unit_of(cotangents.astype(dtype))

        def scaled(array: Array) -> Array:
            return (array.astype(dtype) / unit).astype(array.dtype)

        cotangents = scaled(cotangents)
        loss_scale = jnp.sqrt(numerics.accurate_sum(jnp.square(cotangents.astype(dtype))))
        if gradient is None:
            gradient = linearization.vjp(cotangents)
        else:
            gradient = jax.tree.map(scaled, gradient)
        valid = check_mask("mask", mask, len(outputs))
        jacobian = estimate_squared_norm(
            linearization,
            self.estimator,
            members,
            key=after(key, loss_scale, gradient),
            mask=valid,
            preconditioner=preconditioner,
        )
        num_samples = jnp.sum(valid).astype(dtype)
        # The noise of single samples is independent: over n times as many, each of which weighs
        # 1/n in the mean, it falls by sqrt(n). An eighth of the batch tells how large it is.
        few = evenly_spread((outputs, targets, mask), max(4, len(outputs) // 8))
        return Side(
            loss=loss.astype(dtype),
            loss_scale=loss_scale,
            gradient=gradient,
            jacobian=jacobian,
            num_samples=num_samples,
            num_terms=num_samples * math.prod(outputs.shape[1:-1]),
            status=jacobian.status,
            outputs=outputs,
            sensitivity=self._sensitivity(
                *after(few, gradient, jacobian.value),
                unit=unit,
                gradient_norm=loss_scale * math.sqrt(len(outputs) / len(few[0])),
                eps=eps,
            ),
            unit=unit,
        )

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
        """How much the loss gradient of these samples loses to rounding."""

        def gradient_of(outputs: Array) -> Float[Array, "batch ..."]:
            gradient = jax.grad(lambda f: _masked_loss(self.loss_fn, f, targets, mask))(outputs)
            return (gradient.astype(unit.dtype) / unit).astype(gradient.dtype)

        return precision.loss_sensitivity(
            gradient_of, outputs, gradient_of(outputs), gradient_norm=gradient_norm, eps=eps
        )

    def _gradient_flags(
        self,
        delta_loss: Float[Array, ""],
        side_a: Side,
        side_b: Side,
        members: dict[str, tuple[int, ...]],
        eps: float,
        preconditioner: PyTree | None,
    ) -> Int[Array, ""]:
        """Flags where rounding is an appreciable part of chi_pos, and where it is impossible."""

        def squares_of(side: Side) -> Float[Array, " group"]:
            gradient = side.gradient
            squares = numerics.leaf_inner_products(gradient, gradient, weights=preconditioner)
            return numerics.sum_groups(squares, members)

        def noise(
            side: Side, squares: Float[Array, " group"]
        ) -> tuple[Float[Array, ""], Float[Array, ""]]:
            norm = jnp.sqrt(jnp.sum(squares))
            return norm, precision.gradient_noise(
                norm,
                side.loss_scale,
                side.jacobian.value,
                side.num_samples * math.prod(side.outputs.shape[1:]),
                eps=eps,
                sensitivity=side.sensitivity,
            )

        squares_a, squares_b = squares_of(side_a), squares_of(side_b)
        (norm_a, noise_a), (norm_b, noise_b) = noise(side_a, squares_a), noise(side_b, squares_b)
        error = precision.relative_error(delta_loss, norm_a, norm_b, noise_a, noise_b)
        return (
            precision.rounding_flag(error)
            | impossible_position(side_a, squares_a, eps, per_sample=self.estimator.per_sample)
            | impossible_position(side_b, squares_b, eps, per_sample=self.estimator.per_sample)
        )

    def _factor(self, side_a: Side, side_b: Side) -> Float[Array, ""]:
        """What moves from chi_net to chi_loss to make both independent of batch size (eq. 29)."""
        if self.normalization == "sample":
            return jnp.sqrt(side_a.num_samples * side_b.num_samples)
        if self.normalization == "token":
            return jnp.sqrt(side_a.num_terms * side_b.num_terms)
        return jnp.ones((), numerics.accumulation_dtype())

    def _real_update(
        self,
        params: PyTree,
        params_after: PyTree | None,
        batch: Batch,
        mask: Bool[Array, " batch"] | None,
        side: Side,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The change of the loss over the update, and its prediction (equation 15).

        Both losses are taken on B: the paper's equation 14 subtracts the loss on A instead, which
        would leave the difference between the batches in nu.
        """
        dtype = numerics.accumulation_dtype()
        if params_after is None:
            return jnp.full((), jnp.nan, dtype), jnp.full((), jnp.nan, dtype)
        inputs, targets = after(batch, side.gradient, side.jacobian.value)
        updated = self.estimator.linearize(self.apply_fn, params_after, inputs, wrt=self.wrt)
        loss_after = _masked_loss(self.loss_fn, updated.outputs, targets, mask)
        update = jax.tree.map(
            jnp.subtract,
            *(
                parameters.widened(parameters.partition(point, self.wrt)[0])
                for point in (params_after, params)
            ),
        )
        linear = jnp.sum(numerics.leaf_inner_products(side.gradient, update)) * side.unit
        return loss_after.astype(dtype) - side.loss, linear


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

    ``delta_loss = chi_loss * chi_net * chi_pos`` (Spectral Reach, equations 24 and 29; computed by
    equations 49 to 51). With g the gradient of the loss in the outputs and J the Jacobian,

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
        estimator: how ``|J|_F^2`` is found: `Exact`, `Hutchinson` (default), `GlobalHutchinson`.
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
    gradient is handed over; less where norms are had without gradients (`lnpjax.jacobian`), and a
    forward pass more per batch under a preconditioner, which needs them. Memory: that of the larger
    batch's pass, since A is done with before B begins.

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
