"""Training steps whose update is made of the gradients of several batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lnpjax._base.checks import check_count, check_functions, require
from lnpjax.jacobian import Batch
from lnpjax.training._steps import TrainStep


def accumulated(train_step: TrainStep, num_micro_steps: int) -> TrainStep:
    """Make one step of several that accumulate their gradients, for `instrument` to measure.

    A step that only adds to an accumulated gradient (`optax.MultiSteps`) makes no update, and the
    one that does was made of several batches: what an update has to be measured against is all of
    them together, which is what the step that is returned takes.

    Args:
        train_step: ``train_step(state, batch) -> (state, metrics)``, which updates once in
            `num_micro_steps` calls.
        num_micro_steps: how many batches an update is made of.

    Returns:
        ``train_step(state, batch) -> (state, metrics)`` that splits a batch evenly, in order, and
        takes one micro-step with each part. Floating-point metrics are averaged, others the last.
        Its compiled program holds one micro-step.

    Raises:
        TypeError: if `train_step` is not a function.
        ValueError: if `num_micro_steps` is less than 1; when called, if it does not divide the
            batch.

    Example:
        >>> def add(total, batch):
        ...     return total + batch[0].sum(), batch[0].sum()
        >>> accumulated(add, 2)(jnp.zeros(()), (jnp.arange(4.0), jnp.zeros(4)))
        (Array(6., dtype=float32), Array(3., dtype=float32))
    """
    check_functions(train_step=train_step)
    check_count("num_micro_steps", num_micro_steps)

    def split(leaf: jax.Array) -> jax.Array:
        size = jnp.shape(leaf)[0]
        require(
            size % num_micro_steps == 0,
            "batch",
            expected=f"a multiple of {num_micro_steps} samples, the number of micro-steps",
            got=f"{size}",
        )
        return jnp.reshape(leaf, (num_micro_steps, size // num_micro_steps, *leaf.shape[1:]))

    def average(metric: jax.Array) -> jax.Array:
        floating = jnp.issubdtype(metric.dtype, jnp.floating)
        return jnp.mean(metric, axis=0) if floating else metric[-1]

    def step(state: object, batch: Batch) -> tuple[object, object]:
        state, metrics = jax.lax.scan(train_step, state, jax.tree.map(split, batch))
        return state, jax.tree.map(average, metrics)

    return step
