"""The optimiser of a run: AdamW, its learning rate over the steps, and what clips gradients."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lnpjax.pretraining.config import TrainingOptions


def learning_rate_of(training: TrainingOptions) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """Return the learning rate as a function of the step.

    It rises linearly to its value, which the last step of the warm-up has, and then follows the
    schedule. A fall would reach its end one step after the last.

    Args:
        training: how a run is trained; the learning rate is a number.

    Example:
        >>> import dataclasses
        >>> options = TrainingOptions(learning_rate=1.0, steps=8, warmup_steps=2, schedule="wsd")
        >>> rate = learning_rate_of(dataclasses.replace(options, decay_steps=4))
        >>> [float(rate(step)) for step in range(8)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    fall = _fall(training)

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        rise = (step + 1) / max(1, training.warmup_steps)
        risen = jnp.float32(training.learning_rate) * jnp.minimum(1.0, rise)
        return risen if fall is None else risen * fall(step)

    return rate


def _fall(training: TrainingOptions) -> optax.Schedule | None:
    """Return the factor of the learning rate after the warm-up; None where it stays one."""
    room = training.steps - training.warmup_steps
    if training.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(1.0, room, alpha=training.final_share)
        return lambda step: cosine(jnp.maximum(step - training.warmup_steps, 0))
    if training.schedule == "wsd":
        length = training.steps_of_decay()
        return optax.linear_schedule(1.0, training.final_share, length, training.steps - length)
    return None


def make_optimizer(training: TrainingOptions) -> optax.GradientTransformation:
    """Return AdamW with b1 0.9 and b2 0.95 (*Spectral Reach*, B.2.1), after clipping, if any.

    Args:
        training: how a run is trained; the learning rate is a number.

    Example:
        >>> state = make_optimizer(TrainingOptions(learning_rate=0.1)).init({"w": jnp.ones(2)})
        >>> type(state[0]).__name__
        'ScaleByAdamState'
    """
    rate = learning_rate_of(training)
    adamw = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=training.weight_decay)
    if training.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(training.clip_norm), adamw)
