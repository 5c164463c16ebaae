"""The loss that is trained on, measured and reported."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import checked_ids
from lnpjax.data import PADDING


def cross_entropy(
    logits: Float[Array, "batch *time vocab"], targets: Int[Array, " batch *time"]
) -> Float[Array, ""]:
    """Compute the mean cross-entropy in nats per target, in float32 whatever the logits' dtype.

    Targets that are `lnpjax.data.PADDING` count for nothing: what is averaged over the batch is the
    mean of each sequence over its own tokens, since every measure needs a loss that is a mean over
    samples. Without padding, that is the mean over all tokens.

    Args:
        logits: `(batch, time, vocab)`, or `(batch, classes)`.
        targets: token ids, `(batch, time)`, or classes, `(batch,)`.

    Returns:
        A scalar. NaN where, under `jit`, a target is not a token or class.

    Raises:
        ValueError: where values are known, if a target is not a token or class.

    Example:
        >>> cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]])).round(4)
        Array(1.3863, dtype=float32)
    """
    return jnp.mean(sequence_losses(logits, targets))


def sequence_losses(
    logits: Float[Array, "batch *time vocab"], targets: Int[Array, " batch *time"]
) -> Float[Array, " batch"]:
    """Compute the mean of each sample over its targets; see `cross_entropy`."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    counts = jnp.not_equal(targets, PADDING)
    ids = checked_ids("targets", jnp.where(counts, targets, 0), logits.shape[-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids)
    return jnp.mean(losses, axis=tuple(range(1, losses.ndim)), where=counts)


def hits(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Return 1 where the most probable class is the label, and 0 elsewhere.

    Example:
        >>> hits(jnp.array([[1.0, 2.0], [1.0, 0.0]]), jnp.array([1, 1]))
        Array([1., 0.], dtype=float32)
    """
    return jnp.equal(jnp.argmax(logits, axis=-1), labels).astype(jnp.float32)
