"""Do the eigenmodes predict what a step does, and what if a step is confined to some of them?"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from lnpjax import parameters
from lnpjax._base.checks import require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import rounding_floor
from lnpjax._base.printing import result
from lnpjax._base.scaling import unit_of
from lnpjax.jacobian import ApplyFn, Batch, LossFn, OutputSubset, linearize, select_outputs
from lnpjax.jacobian._outputs import restrict
from lnpjax.kernel._modes import Modes


@result
@dataclasses.dataclass(frozen=True)
class ModeStep:
    """What a gradient step did, mode by mode, next to what the kernel predicts.

    A pytree, made by `step_along_gradient`. With learning rates in front, every field has their
    axis in front.

    Attributes:
        learning_rate: eta.
        predicted_change: ``-eta lambda_k g . q_k``, the first-order change of the outputs along
            mode k.
        actual_change: ``q_k . (f(theta') - f(theta))``.
        predicted_loss_change: ``-eta lambda_k (g . q_k)^2`` (*Spectral Reach*, eq. 6).
        actual_loss_change: ``(g . q_k) q_k . (f(theta') - f(theta))``: what the actual motion along
            mode k does to the loss, to first order in the outputs.
        loss_change: the actual change of the loss, all orders.
        disagreement: ``|actual_change - predicted_change| / |predicted_change|`` over all modes. It
            vanishes in proportion to the learning rate, until outputs that hardly move round.
    """

    learning_rate: Float[Array, ""]
    predicted_change: Float[Array, " mode"]
    actual_change: Float[Array, " mode"]
    predicted_loss_change: Float[Array, " mode"]
    actual_loss_change: Float[Array, " mode"]
    loss_change: Float[Array, ""]
    disagreement: Float[Array, ""]


@entry_point
def step_along_gradient(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    params: PyTree,
    batch: Batch,
    modes: Modes,
    *,
    learning_rates: Float[Array, "*steps"],
    outputs: OutputSubset = None,
    wrt: parameters.Subset = None,
) -> ModeStep:
    """Take real gradient steps and compare what they do with what the modes predict.

    The check that a sceptic asks of the spectral picture (*Spectral Reach*, eqs. 5 and 6): if
    eigenvalues tell where the loss is reduced, then a step must move the outputs along mode k by
    ``-eta lambda_k g . q_k``.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        loss_fn: ``loss_fn(outputs, targets) -> scalar``, a mean over samples.
        params: any pytree.
        batch: ``(inputs, targets)``, of which `modes` are the modes.
        modes: from ``eigenmodes(entk(...), g)`` with the same inputs, `outputs` and `wrt`.
        learning_rates: one, or an array of any shape.
        outputs: the outputs that `modes` were computed for. The step then follows the part of the
            gradient that reaches the parameters through them.
        wrt: the trainable subset.

    Returns:
        A `ModeStep`, with the axes of `learning_rates` in front of every field.

    Raises:
        ValueError: if the modes do not belong to that many outputs.

    Cost: 4/3 gradients, and a forward pass for every learning rate.

    Example:
        >>> from lnpjax import eigenmodes, entk
        >>> w, x, y = jnp.ones((2, 1)), jnp.eye(2), jnp.zeros((2, 1))
        >>> model, loss = lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2)
        >>> modes = eigenmodes(entk(model, w, x), jax.grad(loss)(model(w, x), y))
        >>> step = step_along_gradient(model, loss, w, (x, y), modes, learning_rates=0.25)
        >>> round(float(step.disagreement), 6), float(step.loss_change)
        (0.0, -0.4375)
    """
    inputs, targets = batch
    trainable, frozen = parameters.partition(params, wrt)

    def full_outputs(subset: PyTree) -> Array:
        return apply_fn(parameters.combine(subset, frozen), inputs)

    with jax.default_matmul_precision("highest"):
        linearization = linearize(restrict(apply_fn, outputs), params, inputs, wrt=wrt)
        before = linearization.outputs
        _check_modes(modes, before.size)
        whole = full_outputs(trainable)
        loss_before, loss_grad = jax.value_and_grad(loss_fn)(whole, targets)
        gradient = linearization.vjp(select_outputs(loss_grad, outputs))

    def step(learning_rate: Float[Array, ""]) -> ModeStep:
        moved = jax.tree.map(
            lambda p, g: p - learning_rate.astype(p.dtype) * g, trainable, gradient
        )
        after = full_outputs(moved)
        motion = select_outputs(after, outputs) - before
        actual = motion.reshape(-1).astype(modes.p.dtype) @ modes.eigenvectors
        predicted = -learning_rate * modes.eigenvalues * modes.projections
        unit = unit_of(predicted)
        return ModeStep(
            learning_rate=learning_rate,
            predicted_change=predicted,
            actual_change=actual,
            predicted_loss_change=predicted * modes.projections,
            actual_loss_change=actual * modes.projections,
            loss_change=(loss_fn(after, targets) - loss_before).astype(modes.p.dtype),
            disagreement=jnp.linalg.norm((actual - predicted) / unit)
            / jnp.linalg.norm(predicted / unit),
        )

    rates = jnp.asarray(learning_rates, modes.p.dtype)
    with jax.default_matmul_precision("highest"):
        steps = jax.lax.map(step, rates.reshape(-1))
    return jax.tree.map(lambda leaf: leaf.reshape(rates.shape + leaf.shape[1:]), steps)


@entry_point
def project_update(
    apply_fn: ApplyFn,
    params: PyTree,
    inputs: PyTree,
    update: PyTree,
    modes: Modes,
    chosen: Bool[Array, " mode"],
    *,
    outputs: OutputSubset = None,
    wrt: parameters.Subset = None,
) -> PyTree:
    """Return the part of a parameter update that moves the outputs along chosen modes.

    Mode k of the kernel has a direction in parameter space, ``v_k = J^T q_k / sqrt(lambda_k)``; the
    projection is ``sum_{k chosen} v_k v_k^T update``. To confine learning to the chosen modes,
    apply it to the update; to freeze modes (the intervention that would test spectral reach),
    subtract it from the update. It can be used within a training step, with modes that are renewed
    as often as the kernel turns.

    Args:
        apply_fn: ``apply_fn(params, inputs) -> outputs (B, ...)``, pure.
        params: any pytree.
        inputs: the batch whose modes these are.
        update: a gradient or any other update, in the structure of the trainable parameters
            (`None` in place of frozen leaves).
        modes: the modes of that batch at `params`, or at parameters near them.
        chosen: which modes, in order; booleans, or weights between 0 and 1. Modes whose eigenvalue
            is zero up to rounding have no direction and are never chosen.
        outputs: the outputs that the modes were computed for.
        wrt: the trainable subset.

    Returns:
        An update in the same structure.

    Raises:
        ValueError: if structures or numbers of modes disagree.

    Cost: 5/3 gradients, and two products with the eigenvectors.

    Example:
        >>> from lnpjax import eigenmodes, entk
        >>> w, x = jnp.ones((2, 1)), jnp.diag(jnp.array([2.0, 1.0]))
        >>> model = lambda w, x: x @ w
        >>> modes = eigenmodes(entk(model, w, x), jnp.ones(2))
        >>> first = jnp.array([True, False])
        >>> project_update(model, w, x, jnp.array([[3.0], [5.0]]), modes, first).ravel()
        Array([3., 0.], dtype=float32)
    """
    with jax.default_matmul_precision("highest"):
        linearization = linearize(restrict(apply_fn, outputs), params, inputs, wrt=wrt)
    num_outputs = linearization.outputs.size
    _check_modes(modes, num_outputs)
    trainable, _ = parameters.partition(params, wrt)
    update = parameters.fit("update", update, trainable)
    chosen = jnp.asarray(chosen)
    eigenvalues, vectors = modes.eigenvalues, modes.eigenvectors
    require(
        jnp.shape(chosen) == jnp.shape(eigenvalues),
        "chosen",
        expected=f"shape {jnp.shape(eigenvalues)}, one entry for each mode",
        got=jnp.shape(chosen),
    )
    resolved = eigenvalues > rounding_floor(jnp.max(eigenvalues), num_outputs)
    weights = jnp.where(resolved, chosen / eigenvalues, 0)
    with jax.default_matmul_precision("highest"):
        along_modes = linearization.jvp(update).reshape(-1).astype(vectors.dtype) @ vectors
        motion = vectors @ (weights * along_modes)
        return linearization.vjp(motion.reshape(linearization.outputs.shape))


def _check_modes(modes: Modes, num_outputs: int) -> None:
    require(
        len(modes.eigenvectors) == num_outputs,
        "modes",
        expected=f"modes of {num_outputs} outputs, those of the batch",
        got=f"modes of {len(modes.eigenvectors)}",
    )
