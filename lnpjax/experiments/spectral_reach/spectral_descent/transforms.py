"""Optimizers that move on into the tail: the top modes of the kernel count less in a gradient.

*Spectral Reach* (section 7) asks whether an optimizer can push a model faster into the tail, and
(section 6) what happens if chi_pos is clamped. Both are transformations of gradients here, to stand
before any optimizer of optax. The modes are Ritz vectors from Lanczos at the loss gradient, and
are renewed now and then; in parameter space, mode k has the direction
``v_k = J^T q_k / sqrt(lambda_k)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import check_count, require
from lnpjax._base.numerics import inner_product
from lnpjax.decomposition import Hutchinson, squared_jacobian_norm
from lnpjax.jacobian import ApplyFn, Batch, LossFn, linearize
from lnpjax.spectra import RitzModes, ritz_modes

Weigh = Callable[[Float[Array, " mode"], Float[Array, " mode"]], Float[Array, " mode"]]
"""What is left of each mode, from ``p_k`` and ``gamma_k^2`` of the Ritz vectors, descending."""


class ReweightState(NamedTuple):
    """What is kept between two renewals.

    Attributes:
        step: steps so far.
        directions: unit vectors in the space of the parameters, with the mode in front.
        weights: what is left of a gradient along each.
    """

    step: Int[Array, ""]
    directions: PyTree
    weights: Float[Array, " mode"]


def damp_top_modes(
    apply_fn: ApplyFn, loss_fn: LossFn, *, num_modes: int, left: float, **settings: int
) -> optax.GradientTransformationExtraArgs:
    """Make a transformation that damps the leading modes of a gradient.

    Args:
        apply_fn: the network.
        loss_fn: the loss, a mean over samples.
        num_modes: how many are damped.
        left: what is left of each: 0 removes it, 1 changes nothing.
        **settings: of `reweight_modes`.

    Returns:
        A transformation whose update takes ``batch=(inputs, targets)`` as well.

    Raises:
        ValueError: if `left` is not between 0 and 1.

    Example:
        >>> settings = {"num_modes": 1, "left": 2.0}
        >>> damp_top_modes(None, None, **settings)
        Traceback (most recent call last):
            ...
        ValueError: left: expected a number between 0 and 1, got 2.0
    """
    require(0 <= left <= 1, "left", expected="a number between 0 and 1", got=left)
    check_count("num_modes", num_modes)

    def weigh(p: Float[Array, " mode"], gamma2: Float[Array, " mode"]) -> Float[Array, " mode"]:
        del gamma2
        return jnp.where(jnp.arange(len(p)) < num_modes, left, 1.0)

    return reweight_modes(apply_fn, loss_fn, weigh, **settings)


def clamp_position(
    apply_fn: ApplyFn, loss_fn: LossFn, *, ceiling: float, **settings: int
) -> optax.GradientTransformationExtraArgs:
    """Make a transformation that keeps the chi_pos of what is followed at or below a ceiling.

    Modes above the ceiling are scaled down, all by the same factor; see `clamped_weights`.

    Args:
        apply_fn: the network.
        loss_fn: the loss, a mean over samples.
        ceiling: of chi_pos.
        **settings: of `reweight_modes`.

    Returns:
        A transformation whose update takes ``batch=(inputs, targets)`` as well.

    Raises:
        ValueError: if the ceiling is not above 0.

    Example:
        >>> clamp_position(None, None, ceiling=0.0)
        Traceback (most recent call last):
            ...
        ValueError: ceiling: expected a number above 0, got 0.0
    """
    require(ceiling > 0, "ceiling", expected="a number above 0", got=ceiling)
    weigh = functools.partial(clamped_weights, ceiling=ceiling)
    return reweight_modes(apply_fn, loss_fn, weigh, **settings)


def clamped_weights(
    p: Float[Array, " mode"], gamma2: Float[Array, " mode"], *, ceiling: float
) -> Float[Array, " mode"]:
    """Return weights that bring the mean of p, as the weighted gradient has it, to a ceiling.

    With a factor s for the modes above it, ``(s^2 A + B) / (s^2 a + b)`` is the ceiling, where a
    and A are the sums of ``gamma^2`` and of ``gamma^2 p`` over these modes, and b and B over the
    others.

    Example:
        >>> p, gamma2 = jnp.array([0.9, 0.1]), jnp.array([0.5, 0.5])
        >>> left = clamped_weights(p, gamma2, ceiling=0.3)
        >>> float(jnp.sum(left**2 * gamma2 * p) / jnp.sum(left**2 * gamma2))
        0.3...
    """
    above = p > ceiling
    share, energy = gamma2, gamma2 * p
    excess = jnp.sum(jnp.where(above, energy - ceiling * share, 0))
    room = jnp.sum(jnp.where(above, 0, ceiling * share - energy))
    factor = jnp.sqrt(jnp.clip(room / jnp.where(excess > 0, excess, 1), 0, 1))
    return jnp.where(above & (excess > 0), factor, 1.0)


def reweight_modes(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    weigh: Weigh,
    *,
    num_matvecs: int = 8,
    every: int = 50,
) -> optax.GradientTransformationExtraArgs:
    """Make a transformation that weighs the modes of a gradient.

    Args:
        apply_fn: the network.
        loss_fn: the loss, a mean over samples.
        weigh: says what is left of each mode.
        num_matvecs: products with the kernel for each renewal, and Ritz vectors.
        every: steps from one renewal to the next.

    Returns:
        A transformation whose update takes ``batch=(inputs, targets)`` as well.

    Raises:
        ValueError: if a number is less than one.

    Cost: `refresh_cost` gradients every `every` steps, and memory for `num_matvecs` copies of the
    parameters.
    """
    check_count("num_matvecs", num_matvecs)
    check_count("every", every)

    def init(params: PyTree) -> ReweightState:
        directions = jax.tree.map(lambda leaf: jnp.zeros((num_matvecs, *leaf.shape)), params)
        return ReweightState(jnp.zeros((), jnp.int32), directions, jnp.ones(num_matvecs))

    def renewed(params: PyTree, batch: Batch) -> tuple[PyTree, Float[Array, " mode"]]:
        inputs, targets = batch
        here = linearize(apply_fn, params, inputs)
        gradient = jax.grad(loss_fn)(here.outputs, targets)
        modes = ritz_modes(here.ntk_vp, gradient, num_matvecs=num_matvecs)
        key = jax.random.key(0)  # any signs will do for the scale of p
        estimator = Hutchinson(1)
        trace = squared_jacobian_norm(apply_fn, params, inputs, estimator=estimator, key=key).value
        along = jnp.tensordot(modes.vectors, gradient, gradient.ndim)
        gamma2 = along**2 / jnp.sum(gradient**2)
        return _directions(here.vjp, modes), weigh(modes.values / trace, gamma2)

    def update(
        updates: PyTree, state: ReweightState, params: PyTree = None, *, batch: Batch, **_: Any
    ) -> tuple[PyTree, ReweightState]:
        directions, weights = jax.lax.cond(
            state.step % every == 0,
            lambda: renewed(params, batch),
            lambda: (state.directions, state.weights),
        )
        changed = _without(updates, directions, 1 - weights)
        return changed, ReweightState(state.step + 1, directions, weights)

    return optax.GradientTransformationExtraArgs(init, update)


def refresh_cost(num_matvecs: int) -> float:
    """Return the cost of a renewal, in gradients.

    A forward pass, 4/3 for each product, 2/3 for each direction, and one probe of the trace.

    Example:
        >>> refresh_cost(8)
        17.33...
    """
    return 1 / 3 + 2 * num_matvecs + 1


def _directions(vjp: Callable[[Array], PyTree], modes: RitzModes) -> PyTree:
    """Return ``J^T q_k / sqrt(lambda_k)``, zero where a mode does not exist."""

    def one_mode(pair: tuple[Array, Array]) -> PyTree:
        value, vector = pair
        scale = jnp.where(value > 0, jax.lax.rsqrt(jnp.where(value > 0, value, 1)), 0)
        return jax.tree.map(lambda leaf: scale * leaf, vjp(vector))

    return jax.lax.map(one_mode, (modes.values, modes.vectors))


def _without(gradient: PyTree, directions: PyTree, shares: Float[Array, " mode"]) -> PyTree:
    """Return a gradient less stated shares of its parts along directions."""

    def along(direction: PyTree) -> Float[Array, ""]:
        return sum(jax.tree.leaves(jax.tree.map(inner_product, direction, gradient)))  # type: ignore[return-value]

    taken = shares * jax.vmap(along)(directions)
    return jax.tree.map(
        lambda leaf, stack: leaf - jnp.tensordot(taken, stack, 1).astype(leaf.dtype),
        gradient,
        directions,
    )
