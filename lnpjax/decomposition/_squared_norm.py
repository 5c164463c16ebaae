"""The squared Frobenius norm of a network's Jacobian, ``|J|_F^2 = Tr(Theta)``, with its error."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from lnpjax import parameters
from lnpjax._base import numerics
from lnpjax._base.entry_points import entry_point
from lnpjax._base.intervals import Interval, scale_interval
from lnpjax._base.printing import result
from lnpjax._base.shards import AxisName, Shards, shards_over
from lnpjax.decomposition._chosen import ChosenSamples
from lnpjax.decomposition._estimators import (
    Estimator,
    Hutchinson,
    check_estimator,
    check_estimator_key,
    exact_leaves,
    probed_as_one,
    probed_rows,
)
from lnpjax.jacobian import ApplyFn
from lnpjax.jacobian._contract import check_batch
from lnpjax.jacobian._interaction import check_interaction, void_where_interacting
from lnpjax.jacobian._linearize import BatchLinearization
from lnpjax.jacobian._masks import check_mask, fill_masked
from lnpjax.jacobian._preconditioners import fit_preconditioner
from lnpjax.jacobian._probe_noise import ProbeNoise, degrees_of_freedom, probe_noise
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate of ``|J|_F^2`` over a batch, with its error and its parts. A pytree.

    Attributes:
        value: the sum over valid samples.
        sem: standard error of `value`; zero for `Exact`. From the spread between probes where there
            are at least two, and then unbiased (for its square). With one probe per sample it comes
            from the spread between samples, which adds their true differences: it then errs on
            the safe side (see `lnpjax.Hutchinson`). NaN where nothing can be said (one draw in
            all).
        df: how well `sem` is known, as the effective degrees of freedom of its square
            (`lnpjax.jacobian._probe_noise.degrees_of_freedom`); inf where there is no error.
        per_sample: ``|J_i|_F^2`` for each sample; zero where masked, NaN where it was not probed,
            and for `GlobalHutchinson`.
        groups: `value` split over parameter groups; the parts add up to it.
        groups_sem: the standard errors of the parts.
        groups_df: the degrees of freedom of these.
        covariance: covariance of the parts with each other, in the order of `groups`.
        noise: the deviations between draws, from which `covariance` and `df` are made.
        status: see `lnpjax.Status`.
    """

    value: Float[Array, ""]
    sem: Float[Array, ""]
    df: Float[Array, ""]
    per_sample: Float[Array, " batch"]
    groups: dict[str, Float[Array, ""]]
    groups_sem: dict[str, Float[Array, ""]]
    groups_df: dict[str, Float[Array, ""]]
    covariance: Float[Array, "group group"]
    noise: ProbeNoise
    status: Int[Array, ""]

    def interval(self, coverage: float = 0.95) -> Interval:
        """Return an interval that holds the true `value` with this probability over the probes.

        By Student's t with `df` degrees of freedom, symmetric in the logarithm
        (`lnpjax._base.intervals.scale_interval`). With one probe per sample it holds the truth at
        least as often as stated. Where it is far too wide (`df` of one or two, as where one sample
        dominates), two probes or more give one that is not. It holds it less often than stated
        where hardly anything was drawn: one or two samples of two or three outputs, whose draws
        agree by chance, or one sample of a single mode next to which all others vanish.

        Args:
            coverage: the probability.

        Returns:
            An `Interval`, NaN where nothing can be said (one draw in all).

        Raises:
            ValueError: if `coverage` does not lie between 0 and 1.

        Example:
            >>> from jax import random
            >>> weights, inputs = jnp.ones((3, 2)), jnp.arange(12.0).reshape(4, 3)
            >>> norm = squared_jacobian_norm(
            ...     lambda w, x: jnp.tanh(x @ w) @ w.T, weights, inputs, key=random.key(0)
            ... )
            >>> low, high = norm.interval(0.68)
            >>> bool(low < norm.value) and bool(norm.value < high)
            True
        """
        return scale_interval(self.value, self.sem, self.df, coverage)

    def groups_interval(self, coverage: float = 0.95) -> dict[str, Interval]:
        """Return an `interval` for each of the `groups`, by itself.

        Args:
            coverage: the probability.

        Returns:
            By the name of the group.

        Raises:
            ValueError: if `coverage` does not lie between 0 and 1.
        """
        return {
            name: scale_interval(part, self.groups_sem[name], self.groups_df[name], coverage)
            for name, part in self.groups.items()
        }


@entry_point
def squared_jacobian_norm(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    *,
    estimator: Estimator = Hutchinson(),
    key: Key[Array, ""] | None = None,
    wrt: parameters.Subset = None,
    groups: parameters.Grouping = None,
    mask: Bool[Array, " batch"] | None = None,
    preconditioner: PyTree | None = None,
    axis_name: AxisName = None,
) -> Estimate:
    """Estimate ``|J|_F^2 = Tr(Theta)``, the squared norm of the Jacobian over a batch.

    *Spectral Reach*, eq. 22; raw, as a sum over samples and outputs (no normalisation).

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``.
        params: any pytree.
        inputs: any pytree whose leaves lead with B.
        estimator: `Exact`, `Hutchinson` or `GlobalHutchinson`.
        key: a `jax.random` key, for estimators that draw.
        wrt: the trainable subset (`lnpjax.parameters.partition`).
        groups: the parameter groups (`lnpjax.parameters.group_leaves`).
        mask: boolean ``(B,)``, False for rows that only pad the batch. Such rows count for nothing.
        preconditioner: optional diagonal P >= 0 in the structure of the trainable parameters, for
            ``Tr(J P J^T)``.
        axis_name: inside `jax.shard_map` and `jax.pmap`, the axes over which devices hold parts of
            the batch; see `lnpjax.lnp`.

    Returns:
        An `Estimate`.

    Raises:
        TypeError, ValueError: for bad input, before anything is computed; and, outside `jit`, where
            samples interact (inside, `status` says so and the numbers are NaN).

    Cost: see the estimators.

    Example:
        >>> from lnpjax import Exact
        >>> weights, inputs = jnp.ones((3, 2)), jnp.arange(12.0).reshape(4, 3)
        >>> norm = squared_jacobian_norm(lambda w, x: x @ w, weights, inputs, estimator=Exact())
        >>> float(norm.value) == 2 * float((inputs**2).sum())
        True
    """
    shards = shards_over(axis_name)
    shards.check_split("inputs", inputs)
    trainable, _ = parameters.partition(params, wrt)
    members = parameters.group_leaves(trainable, groups)
    check_estimator(estimator)
    check_estimator_key(estimator, key)
    preconditioner, negative = fit_preconditioner(preconditioner, trainable)
    valid = check_mask("mask", mask, check_batch(apply_fn, params, inputs))
    if mask is not None:
        inputs = fill_masked(inputs, valid)
    linearization = estimator.linearize(apply_fn, params, inputs, wrt=wrt)
    outputs = linearization.outputs
    interact = jnp.int32(Status.OK)
    if estimator.per_sample:
        interact = check_interaction(apply_fn, params, inputs)
    estimate = estimate_squared_norm(
        linearization,
        estimator,
        members,
        key=None if key is None else shards.key(key),
        mask=valid,
        preconditioner=preconditioner,
        shards=shards,
    )
    finite = jnp.all(jnp.isfinite(outputs))
    status = estimate.status | interact | negative | flag(~finite, Status.NON_FINITE)
    status = shards.flags(status)
    estimate = dataclasses.replace(estimate, status=status)
    return shards.replicated(void_where_interacting(estimate, status))


def estimate_squared_norm(
    linearization: BatchLinearization,
    estimator: Estimator,
    members: dict[str, tuple[int, ...]],
    *,
    key: Key[Array, ""] | None,
    mask: Bool[Array, " batch"],
    preconditioner: PyTree | None = None,
    shards: Shards,
) -> Estimate:
    """Estimate the squared norm over a batch that ``estimator.linearize`` has linearised.

    Where devices hold parts of it (`shards`), the draws are few numbers for each sample: every
    device gets those of all, and goes on as if it had drawn them.
    """
    draws = estimator.draw(linearization, key=key, mask=mask, weights=preconditioner)
    if estimator.per_sample:
        own = probed_rows(linearization, key, mask)
        draws = shards.rows(jnp.where(own[:, None, None], draws, 0))
        rows, valid = shards.rows(own), shards.rows(mask)
        per_sample = jnp.mean(jnp.sum(draws, axis=2), axis=1)
        if isinstance(linearization, ChosenSamples):
            per_sample = jnp.where(rows | ~valid, per_sample, jnp.nan)
            # Each stands for as many; what is chosen differs by more than what is drawn of it.
            draws = jnp.mean(draws, axis=1, keepdims=True) * (jnp.sum(valid) / jnp.sum(rows))
    else:
        draws, rows = shards.total(draws), jnp.ones(1, bool)
        per_sample = jnp.full(mask.shape[0] * shards.count, jnp.nan, draws.dtype)
    exact = exact_leaves(estimator, linearization, draws.shape[2])
    drawn = draws
    if probed_as_one(estimator):  # what a probe makes of all samples is a single draw
        drawn, rows = jnp.sum(draws, axis=0, keepdims=True), jnp.ones(1, bool)
    noise = probe_noise(drawn, members, rows, exact)
    parts = numerics.sum_groups(jnp.sum(jnp.mean(draws, axis=1), axis=0), members)
    value, covariance = jnp.sum(parts), noise.covariance
    every = jnp.eye(len(members) + 1, len(members), dtype=draws.dtype).at[-1].set(1)
    *groups_df, df = degrees_of_freedom([noise], [every])
    sems = jnp.sqrt(jnp.diagonal(covariance))
    return Estimate(
        value=value,
        sem=standard_error(covariance),
        df=df,
        per_sample=per_sample,
        groups=dict(zip(members, parts, strict=True)),
        groups_sem=dict(zip(members, sems, strict=True)),
        groups_df=dict(zip(members, groups_df, strict=True)),
        covariance=covariance,
        noise=noise,
        status=flag(value == 0, Status.ZERO_JACOBIAN)
        | flag(~jnp.isfinite(value), Status.NON_FINITE),
    )


def standard_error(covariance: Float[Array, "part part"]) -> Float[Array, ""]:
    """Return the standard error of the sum of parts with this covariance.

    Rounding must not make a variance negative.
    """
    return jnp.sqrt(jnp.maximum(jnp.sum(covariance), 0))
