"""Losses of single samples, and whether the loss of a batch is their mean."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lnpjax._base.checks import concrete
from lnpjax._base.slices import strided
from lnpjax.jacobian._contract import LossFn
from lnpjax.jacobian._rounding import compute_precision, typical_size
from lnpjax.status import Status, describe_status, flag


def sample_losses(
    loss_fn: LossFn, outputs: Float[Array, "batch ..."], targets: PyTree
) -> Float[Array, " batch"]:
    """Compute the loss of every sample as a batch of one.

    Example:
        >>> sample_losses(lambda f, y: jnp.mean((f - y) ** 2), jnp.array([1.0, 3.0]), jnp.zeros(2))
        Array([1., 9.], dtype=float32)
    """
    singles = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], (outputs, targets))
    return jax.vmap(loss_fn)(*singles)


def loss_status(
    loss_fn: LossFn,
    outputs: Float[Array, "batch ..."],
    targets: PyTree,
) -> Int[Array, ""]:
    """Flag a loss that is not the mean over samples, or refuse it where that is known.

    Sums and broadcasts (outputs ``(B, 1)`` against targets ``(B,)``) are such losses, and means
    over tokens where samples differ in how many count.

    Args:
        loss_fn: ``loss_fn(outputs, targets)``.
        outputs: of a batch.
        targets: of the same batch.

    Returns:
        `Status.LOSS_NOT_A_MEAN` or zero. Losses that are not finite say nothing.

    Raises:
        ValueError: outside of `jit`.

    Cost: two evaluations of the loss; under `jit`, where they would be paid for at every
    measurement, on an eighth of the batch (four samples at least).

    Example:
        >>> loss = lambda f, y: jnp.mean((f - y) ** 2)
        >>> outputs, targets = jnp.array([[1.0], [2.0]]), jnp.array([1.0, 2.0])
        >>> loss_status(loss, outputs, targets)
        Traceback (most recent call last):
            ...
        ValueError: loss_fn: expected the mean over samples of what it gives for each, 0.0, ...
    """
    if isinstance(outputs, jax.core.Tracer):
        # With the last sample: rows that only fill a batch up stand at its end.
        count = max(4, len(outputs) // 8)
        outputs, targets = strided((outputs, targets), count, last=True)
    losses = sample_losses(loss_fn, outputs, targets)
    whole, mean = loss_fn(outputs, targets), jnp.mean(losses)
    eps = compute_precision(loss_fn, outputs, targets)
    scale = typical_size(jnp.abs(outputs).reshape(-1))
    tolerance = math.sqrt(eps) * jnp.mean(jnp.abs(losses)) + 4 * eps * scale
    differ = jnp.isfinite(whole) & ~(jnp.abs(whole - mean) <= tolerance)
    if concrete(differ):
        raise ValueError(
            f"loss_fn: expected the mean over samples of what it gives for each, {float(mean)}, "
            f"got {float(whole)} for the batch: {describe_status(Status.LOSS_NOT_A_MEAN)}"
        )
    return flag(differ, Status.LOSS_NOT_A_MEAN)
