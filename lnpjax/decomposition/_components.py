"""The algebra of the LNP decomposition: from norms and inner products to the components.

Spectral Reach, equations 24 to 29 and 49; nothing here touches a network.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.intervals import Interval, scale_interval
from lnpjax._base.printing import result
from lnpjax.decomposition._squared_norm import Estimate, standard_error
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
            of a gradient step on A (equation 16).
        chi_loss: scale of the loss gradient in output space (equations 24, 27).
        chi_net: scale of the Jacobian, ``Tr(Theta)`` where A = B (equations 22, 24, 28).
        chi_pos: spectral position (equations 9, 24, 49), in [0, 1] where A = B; negative where a
            step on A harms B.
        chi_net_sem: standard error of `chi_net`, from the probes.
        chi_pos_sem: standard error of `chi_pos`, from the probes.
        sem_df: effective degrees of freedom of both (`lnpjax.Estimate.df`).
        loss_change: actual change of the loss on B over the update, if the updated parameters were
            given; else NaN.
        linear_change: what linearisation predicts for that very update, ``<grad_B, d theta>``.
        nu: ``loss_change - linear_change``, what the linearisation misses (nu_t of equation 15).
        groups: the parts by parameter group.
        status: `lnpjax.Status` flags; nonzero where a component is undefined.
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


@dataclasses.dataclass(frozen=True)
class Side:
    """What one batch contributes."""

    loss: Float[Array, ""]
    loss_scale: Float[Array, ""]
    """``|g|``, in units of `unit`, as the gradient is."""
    gradient: PyTree
    jacobian: Estimate
    num_samples: Float[Array, ""]
    num_terms: Float[Array, ""]
    outputs: Float[Array, "batch ..."]
    sensitivity: Float[Array, ""]
    status: Int[Array, ""]
    unit: Float[Array, ""]


POSITION_ERRORS = 10
"""So many standard errors of a squared Jacobian norm must a gradient exceed to be impossible..."""
POSITION_DRAWS = 10
"""...that are known with so many degrees of freedom: by chance, once in 600,000 times."""
POSITION_ROUNDING = 16
"""And so many roundings, relative to its square."""


def impossible_position(
    side: Side, squares: Float[Array, " group"], eps: float, *, per_sample: bool
) -> Int[Array, ""]:
    """`Status.IMPOSSIBLE_POSITION` where a gradient is longer than loss and network allow.

    ``|J^T g|^2 <= |J|_F^2 |g|^2``, of the whole and of every group. With it, and the inequality of
    Cauchy and Schwarz, every chi_pos lies within [-1, 1].

    Args:
        side: the batch.
        squares: the squared norms of its gradient in each group.
        eps: the spacing of numbers in the network.
        per_sample: whether norms of single samples were added up; else the whole batch was drawn.
    """
    groups = side.jacobian.groups
    norms = jnp.stack([side.jacobian.value, *groups.values()])
    sems = jnp.stack([side.jacobian.sem, *side.jacobian.groups_sem.values()])
    dfs = jnp.stack([side.jacobian.df, *side.jacobian.groups_df.values()])
    gradient = jnp.concatenate([jnp.sum(squares)[None], squares])
    most = norms * (1 + POSITION_ROUNDING * eps) + POSITION_ERRORS * sems
    # A group that nothing depends on (a bias in front of a normalisation) holds only rounding.
    most += (POSITION_ROUNDING * eps) ** 2 * norms[0]
    # Draws that hardly know their own error (two for the whole batch) do not show anything.
    if not per_sample:  # two draws that agree by chance have no error either
        most = jnp.where((dfs >= POSITION_DRAWS) & (sems > 0), most, jnp.inf)
    # A comparison with an unknown error is false.
    return flag(jnp.any(gradient > most * side.loss_scale**2), Status.IMPOSSIBLE_POSITION)


def components(
    members: dict[str, tuple[int, ...]],
    deltas: Float[Array, " group"],
    factor: Float[Array, ""],
    side_a: Side,
    side_b: Side | None,
) -> LNP:
    """Assemble the decomposition from its ingredients (equations 24, 29, 49).

    Standard errors follow those of ``|J|_F^2`` to first order, with the covariances between groups;
    and so do their degrees of freedom.

    Args:
        members: the parameter groups, in order.
        deltas: ``<grad_B, grad_A>`` within each group, in the units of both sides.
        factor: what the normalisation takes from chi_net (equation 29).
        side_a: batch A.
        side_b: batch B, or `None` for A itself.

    Returns:
        An `LNP` without the record of the real update, and without status.
    """

    def network_scales(
        norms_a: Float[Array, " group"], norms_b: Float[Array, " group"] | None = None
    ) -> Float[Array, " group"]:
        """chi_net per group; adds up to Tr(Theta) or |J_A| |J_B| (equation 24)."""
        if norms_b is None:
            return norms_a / factor
        ratio = jnp.sqrt(jnp.sum(norms_b) / jnp.sum(norms_a))
        return (norms_a * ratio + norms_b / ratio) / (2 * factor)

    chi_loss = factor * side_a.loss_scale * (side_b or side_a).loss_scale
    estimates = [side.jacobian for side in (side_a, side_b) if side is not None]
    norms = [jnp.stack(list(estimate.groups.values())) for estimate in estimates]
    chi_nets = network_scales(*norms)
    slopes = jax.jacfwd(network_scales, argnums=tuple(range(len(norms))))(*norms)
    covariance = sum(
        (
            slope @ estimate.covariance @ slope.T
            for slope, estimate in zip(slopes, estimates, strict=True)
        ),
        jnp.zeros_like(estimates[0].covariance),
    )

    def position(
        delta: Array, chi_net: Array, chi_net_sem: Array
    ) -> tuple[Float[Array, ...], Float[Array, ...]]:
        chi_pos = delta / (chi_loss * chi_net)
        return chi_pos, jnp.abs(chi_pos) * chi_net_sem / chi_net

    dfs = degrees_of_freedom(
        [estimate.noise for estimate in estimates],
        [jnp.concatenate([slope, jnp.sum(slope, axis=0, keepdims=True)]) for slope in slopes],
    )
    sems = jnp.sqrt(jnp.diagonal(covariance))
    delta_loss, chi_net = jnp.sum(deltas), jnp.sum(chi_nets)
    chi_net_sem = standard_error(covariance)
    chi_pos, chi_pos_sem = position(delta_loss, chi_net, chi_net_sem)

    def in_units(number: Array) -> Array:
        # One unit after the other: their product may be beyond the range of floats.
        return number * side_a.unit * (side_b or side_a).unit

    positions = position(deltas, chi_nets, sems)
    group_columns = (in_units(deltas), chi_nets, *positions, sems, dfs[:-1])
    unknown = jnp.full_like(delta_loss, jnp.nan)
    return LNP(
        loss_a=side_a.loss,
        loss_b=(side_b or side_a).loss,
        delta_loss=in_units(delta_loss),
        chi_loss=in_units(chi_loss),
        chi_net=chi_net,
        chi_pos=chi_pos,
        chi_net_sem=chi_net_sem,
        chi_pos_sem=chi_pos_sem,
        sem_df=dfs[-1],
        loss_change=unknown,
        linear_change=unknown,
        nu=unknown,
        groups={
            name: GroupLNP(delta, net, pos, chi_net_sem=net_sem, chi_pos_sem=pos_sem, sem_df=df)
            for name, delta, net, pos, pos_sem, net_sem, df in zip(
                members, *group_columns, strict=True
            )
        },
        status=jnp.int32(Status.OK),
    )


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
    meaningful = (status & jnp.int32(Status.SAMPLES_INTERACT)) == 0
    voided = jax.tree.map(
        lambda leaf: jnp.where(meaningful, leaf, jnp.nan).astype(leaf.dtype),
        dataclasses.replace(result, status=jnp.zeros(())),
    )
    return dataclasses.replace(voided, status=status)
