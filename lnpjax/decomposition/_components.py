"""The algebra of the LNP decomposition: from norms and inner products to the components.

*Spectral Reach*, eqs. 24 to 29 and 49; nothing here touches a network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lnpjax._base.intervals import Interval, scale_interval
from lnpjax._base.printing import result
from lnpjax.decomposition._batches import MeasuredBatch, RealUpdate
from lnpjax.decomposition._squared_norm import Estimate, standard_error
from lnpjax.jacobian._interaction import void_where_interacting
from lnpjax.jacobian._probe_noise import degrees_of_freedom
from lnpjax.status import Status, flag


class _WithIntervals:
    """Intervals for chi_net and chi_pos, which share their relative error."""

    chi_net: Float[Array, ""]
    chi_pos: Float[Array, ""]
    chi_net_sem: Float[Array, ""]
    chi_pos_sem: Float[Array, ""]
    sem_df: Float[Array, ""]

    def chi_net_interval(self, coverage: float = 0.95) -> Interval:
        """Return an interval that holds the true chi_net with this probability over the probes.

        See `lnpjax.Estimate.interval`, whose coverage this has.

        Args:
            coverage: the probability.

        Returns:
            An `Interval`, NaN where nothing can be said.

        Raises:
            ValueError: if `coverage` does not lie between 0 and 1.
        """
        return scale_interval(self.chi_net, self.chi_net_sem, self.sem_df, coverage)

    def chi_pos_interval(self, coverage: float = 0.95) -> Interval:
        """Return an interval that holds the true chi_pos with this probability over the probes.

        It holds it where `chi_net_interval` holds chi_net: its ends are ``delta_loss / chi_loss``
        over those.

        Args:
            coverage: the probability.

        Returns:
            An `Interval`, NaN where nothing can be said.

        Raises:
            ValueError: if `coverage` does not lie between 0 and 1.
        """
        return scale_interval(self.chi_pos, self.chi_pos_sem, self.sem_df, coverage)


@result
@dataclasses.dataclass(frozen=True)
class GroupLNP(_WithIntervals):
    """The share of one parameter group in an `LNP`.

    Attributes:
        delta_loss: its part of the inner product of the gradients; the parts add up.
        chi_net: its part of the network scale; the parts add up. For a cross batch, the product of
            two norms has no natural parts: a group gets the mean of its shares in ``|J_A|^2`` and
            ``|J_B|^2``.
        chi_pos: ``delta_loss / (chi_loss * chi_net)`` with the group's own `delta_loss` and
            `chi_net`, so that the whole's chi_pos is the chi_net-weighted mean of the groups'.
            Within [-1, 1]; NaN where the group has no Jacobian.
        chi_net_sem: standard error of `chi_net`.
        chi_pos_sem: standard error of `chi_pos`.
        sem_df: effective degrees of freedom of both.

    Example:
        >>> import lnpjax
        >>> measure = lnpjax.lnp(lambda w, x: x @ w["head"], lambda f, y: jnp.mean((f - y) ** 2))
        >>> batch = (jnp.eye(2), jnp.ones((2, 1)))
        >>> out = measure({"head": jnp.zeros((2, 1))}, batch, key=jax.random.key(0))
        >>> out.groups["head"].chi_net == out.chi_net
        Array(True, dtype=bool)
    """

    delta_loss: Float[Array, ""]
    chi_net: Float[Array, ""]
    chi_pos: Float[Array, ""]
    chi_net_sem: Float[Array, ""]
    chi_pos_sem: Float[Array, ""]
    sem_df: Float[Array, ""]


@result
@dataclasses.dataclass(frozen=True)
class LNP(_WithIntervals):
    """The LNP components at one point of training. A pytree of scalars.

    NaN stands for what is unknown; under `jax_debug_nans`, which refuses it, infinity does, unless
    `status` has `Status.NON_FINITE`: then something failed, and JAX is left to say so. Set that
    flag before anything is compiled.

    Attributes:
        loss_a: loss on batch A (units of the loss, as all losses here).
        loss_b: loss on batch B; equal to `loss_a` where A = B.
        delta_loss: ``<grad_B, grad_A>``: the loss on B falls by this much per unit of learning rate
            of a gradient step on A (*Spectral Reach*, eq. 16).
        chi_loss: scale of the loss gradient in output space (*Spectral Reach*, eqs. 24, 27).
        chi_net: scale of the Jacobian, ``Tr(Theta)`` where A = B (*Spectral Reach*, eqs. 22, 24,
            28).
        chi_pos: spectral position (*Spectral Reach*, eqs. 9, 24, 49), in [0, 1] where A = B;
            negative where a step on A harms B.
        chi_net_sem: standard error of `chi_net`, from the probes.
        chi_pos_sem: standard error of `chi_pos`, from the probes.
        sem_df: effective degrees of freedom of both (`lnpjax.Estimate.df`).
        loss_change: actual change of the loss on B over the update, if the updated parameters were
            given; else NaN.
        linear_change: what linearisation predicts for that very update, ``<grad_B, d theta>``.
        nu: ``loss_change - linear_change``, what the linearisation misses (*Spectral Reach*, eq.
            15).
        groups: the parts by parameter group.
        status: `lnpjax.Status` flags; nonzero where a component is undefined.

    Example:
        >>> import lnpjax
        >>> measure = lnpjax.lnp(lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2))
        >>> batch = (jnp.eye(2), jnp.ones((2, 1)))
        >>> out = measure(jnp.zeros((2, 1)), batch, key=jax.random.key(0))
        >>> bool(jnp.isclose(out.delta_loss, out.chi_loss * out.chi_net * out.chi_pos))
        True
        >>> lnpjax.describe_status(out.status)
        'ok'
    """

    loss_a: Float[Array, ""]
    loss_b: Float[Array, ""]
    delta_loss: Float[Array, ""]
    chi_loss: Float[Array, ""]
    chi_net: Float[Array, ""]
    chi_pos: Float[Array, ""]
    chi_net_sem: Float[Array, ""]
    chi_pos_sem: Float[Array, ""]
    sem_df: Float[Array, ""]
    loss_change: Float[Array, ""]
    linear_change: Float[Array, ""]
    nu: Float[Array, ""]
    groups: dict[str, GroupLNP]
    status: Int[Array, ""]


POSITION_ERRORS = 10
"""How many standard errors of ``|J|_F^2`` an impossible gradient lies beyond what it allows..."""
POSITION_DRAWS = 10
"""...where these errors have so many degrees of freedom: by chance, once in 600,000 times."""
POSITION_ROUNDING = 16
"""And how many roundings, relative to its square."""


def impossible_position(
    batch: MeasuredBatch, squares: Float[Array, " group"], eps: float, *, per_sample: bool
) -> Int[Array, ""]:
    """Return `Status.IMPOSSIBLE_POSITION` where a gradient is longer than loss and network allow.

    ``|J^T g|^2 <= |J|_F^2 |g|^2``, of the whole and of every group. With it, and the inequality of
    Cauchy and Schwarz, every chi_pos lies within [-1, 1].

    Args:
        batch: the batch.
        squares: the squared norms of its gradient in each group.
        eps: the spacing of numbers in the network.
        per_sample: whether norms of single samples were added up; else the whole batch was drawn.
    """
    groups = batch.jacobian.groups
    norms = jnp.stack([batch.jacobian.value, *groups.values()])
    sems = jnp.stack([batch.jacobian.sem, *batch.jacobian.groups_sem.values()])
    dfs = jnp.stack([batch.jacobian.df, *batch.jacobian.groups_df.values()])
    gradient = jnp.concatenate([jnp.sum(squares)[None], squares])
    most = norms * (1 + POSITION_ROUNDING * eps) + POSITION_ERRORS * sems
    # A group that nothing depends on (a bias in front of a normalisation) holds only rounding.
    most += (POSITION_ROUNDING * eps) ** 2 * norms[0]
    # Draws that hardly know their own error (two for the whole batch) do not show anything.
    if not per_sample:  # two draws that agree by chance have no error either
        most = jnp.where((dfs >= POSITION_DRAWS) & (sems > 0), most, jnp.inf)
    # A comparison with an unknown error is false.
    return flag(jnp.any(gradient > most * batch.loss_scale**2), Status.IMPOSSIBLE_POSITION)


def components(
    members: dict[str, tuple[int, ...]],
    deltas: Float[Array, " group"],
    factor: Float[Array, ""],
    on_a: MeasuredBatch,
    on_b: MeasuredBatch | None,
    update: RealUpdate,
) -> LNP:
    """Assemble the decomposition from its ingredients.

    *Spectral Reach*, eqs. 24, 29, 49. Standard errors follow those of ``|J|_F^2`` to first order,
    with the covariances between groups; and so do their degrees of freedom.

    Args:
        members: the parameter groups, in order.
        deltas: ``<grad_B, grad_A>`` within each group, in the units of both batches.
        factor: what the normalisation takes from chi_net (*Spectral Reach*, eq. 29).
        on_a: batch A.
        on_b: batch B, or `None` for A itself.
        update: what the real update did.

    Returns:
        An `LNP` without status; see `with_status`.
    """
    read = on_b or on_a
    estimates = [batch.jacobian for batch in (on_a, on_b) if batch is not None]
    chi_nets, covariance, dfs = _network_scales(estimates, factor)
    chi_loss = factor * on_a.loss_scale * read.loss_scale

    def position(
        delta: Array, chi_net: Array, chi_net_sem: Array
    ) -> tuple[Float[Array, ...], Float[Array, ...]]:
        chi_pos = delta / (chi_loss * chi_net)
        return chi_pos, jnp.abs(chi_pos) * chi_net_sem / chi_net

    def in_units(number: Array) -> Array:
        # One unit after the other: their product may be beyond the range of floats.
        return number * on_a.unit * read.unit

    sems = jnp.sqrt(jnp.diagonal(covariance))
    delta_loss, chi_net = jnp.sum(deltas), jnp.sum(chi_nets)
    chi_net_sem = standard_error(covariance)
    chi_pos, chi_pos_sem = position(delta_loss, chi_net, chi_net_sem)
    columns = (in_units(deltas), chi_nets, *position(deltas, chi_nets, sems), sems, dfs[:-1])
    return LNP(
        loss_a=on_a.loss,
        loss_b=read.loss,
        delta_loss=in_units(delta_loss),
        chi_loss=in_units(chi_loss),
        chi_net=chi_net,
        chi_pos=chi_pos,
        chi_net_sem=chi_net_sem,
        chi_pos_sem=chi_pos_sem,
        sem_df=dfs[-1],
        loss_change=update.loss_change,
        linear_change=update.linear_change,
        nu=update.loss_change - update.linear_change,
        groups={
            name: GroupLNP(delta, net, pos, chi_net_sem=net_sem, chi_pos_sem=pos_sem, sem_df=df)
            for name, delta, net, pos, pos_sem, net_sem, df in zip(members, *columns, strict=True)
        },
        status=jnp.int32(Status.OK),
    )


def _network_scales(
    estimates: Sequence[Estimate], factor: Float[Array, ""]
) -> tuple[Float[Array, " group"], Float[Array, "group group"], Float[Array, " number"]]:
    """Return chi_net of each group, their covariance, and degrees of freedom.

    The degrees of freedom are those of the groups and, last, of the whole.
    """

    def scales(
        norms_a: Float[Array, " group"], norms_b: Float[Array, " group"] | None = None
    ) -> Float[Array, " group"]:
        """Return shares that add up to Tr(Theta) or |J_A| |J_B| (*Spectral Reach*, eq. 24)."""
        if norms_b is None:
            return norms_a / factor
        ratio = jnp.sqrt(jnp.sum(norms_b) / jnp.sum(norms_a))
        return (norms_a * ratio + norms_b / ratio) / (2 * factor)

    norms = [jnp.stack(list(estimate.groups.values())) for estimate in estimates]
    slopes = jax.jacfwd(scales, argnums=tuple(range(len(norms))))(*norms)
    covariance = sum(
        (
            slope @ estimate.covariance @ slope.T
            for slope, estimate in zip(slopes, estimates, strict=True)
        ),
        jnp.zeros_like(estimates[0].covariance),
    )
    dfs = degrees_of_freedom(
        [estimate.noise for estimate in estimates],
        [jnp.concatenate([slope, jnp.sum(slope, axis=0, keepdims=True)]) for slope in slopes],
    )
    return scales(*norms), covariance, dfs


def with_status(result: LNP, status: Int[Array, ""]) -> LNP:
    """Flag what is undefined; void everything where per-sample Jacobians do not exist."""
    main = jnp.stack(
        [result.loss_a, result.loss_b, result.delta_loss, result.chi_loss, result.chi_net]
    )
    status = (
        status
        | flag(result.chi_loss == 0, Status.ZERO_LOSS_GRADIENT)
        | flag(~jnp.all(jnp.isfinite(main)), Status.NON_FINITE)
    )
    return void_where_interacting(dataclasses.replace(result, status=status), status)
