"""Measuring in training steps that change Flax NNX modules in place."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Key, PyTree

from lnpjax._base.checks import check_functions, require
from lnpjax.jacobian import Batch
from lnpjax.training._schedules import Schedule
from lnpjax.training._steps import InstrumentedStep, Measure, Record, instrument


@dataclasses.dataclass(frozen=True)
class InstrumentedNnxStep:
    """A training step that changes modules in place, and measures; made by `instrument_nnx`."""

    pure: InstrumentedStep

    def __call__(
        self,
        model: Any,
        optimizer: Any,
        batch_a: Batch,
        batch_b: Batch | None,
        key: Key[Array, ""],
    ) -> tuple[Any, Record]:
        """Train in place, and measure if the optimizer's step is scheduled.

        Args:
            model: the module, changed in place.
            optimizer: the `flax.nnx.Optimizer`, changed in place.
            batch_a: ``(inputs, targets)``, trained on.
            batch_b: the batch on which the loss change is read; `None` for `batch_a` itself.
            key: a `jax.random` key for the probes of this step.

        Returns:
            ``(metrics, record)``: what `train_step` returns, and a `Record`.
        """
        return self.pure((model, optimizer), batch_a, batch_b, key)[1:]

    def plain(
        self,
        model: Any,
        optimizer: Any,
        batch_a: Batch,
        batch_b: Batch | None,
        key: Key[Array, ""],
    ) -> tuple[Any, Record]:
        """Train without measuring, whatever the schedule says; for loops that decide in Python."""
        return self.pure.plain((model, optimizer), batch_a, batch_b, key)[1:]

    def measured(
        self,
        model: Any,
        optimizer: Any,
        batch_a: Batch,
        batch_b: Batch | None,
        key: Key[Array, ""],
    ) -> tuple[Any, Record]:
        """Train and measure, whatever the schedule says; for loops that decide in Python."""
        return self.pure.measured((model, optimizer), batch_a, batch_b, key)[1:]


def instrument_nnx(
    train_step: Callable[[Any, Any, Batch], Any],
    measure: Measure,
    windows: Schedule,
    *,
    take_gradient: Callable[[Any], tuple[PyTree, Any]] | None = None,
    real_update: bool = True,
) -> InstrumentedNnxStep:
    """Make a training step that changes Flax NNX modules in place measure at scheduled steps.

    As `instrument`, for steps ``train_step(model, optimizer, batch) -> metrics`` under `nnx.jit`:
    parameters are the model's `nnx.Param`, steps those of the optimizer, and the state is all else
    in the model, such as batch statistics. What is measured is the model before the update.

    Args:
        train_step: any ``train_step(model, optimizer, batch) -> metrics``.
        measure: as for `instrument`, of ``apply_fn`` from ``lnpjax.from_nnx(model,
            with_state=True)``; a model in training mode is measured as the one that was split.
        windows: the schedule, from `lnpjax.log_windows`.
        take_gradient: separates the gradient on A from the metrics; see `instrument`.
        real_update: whether to compare the loss change of the real update with its linear
            prediction; see `instrument`.

    Returns:
        ``step(model, optimizer, batch_a, batch_b, key) -> (metrics, record)``, which works under
        `nnx.jit`.

    Raises:
        TypeError, ValueError: as `instrument`; and, when called, if the model has batch statistics
            and the measure no parameter `state`, so that it would read those of the start.

    Example:
        >>> import jax.numpy as jnp, lnpjax, optax
        >>> from flax import nnx
        >>> def loss_fn(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> def train_step(model, optimizer, batch):
        ...     loss, grads = nnx.value_and_grad(lambda m: loss_fn(m(batch[0]), batch[1]))(model)
        ...     optimizer.update(model, grads)
        ...     return loss
        >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        >>> optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
        >>> apply_fn, *_ = lnpjax.from_nnx(model, with_state=True)
        >>> windows = lnpjax.log_windows(100, width=1)
        >>> step = nnx.jit(instrument_nnx(train_step, lnpjax.lnp(apply_fn, loss_fn), windows))
        >>> batch = (jnp.eye(2), jnp.ones((2, 1)))
        >>> loss, record = step(model, optimizer, batch, None, jax.random.key(0))
        >>> int(record.step), bool(record.measured), int(optimizer.step[...])
        (0, True, 1)
    """
    from flax import nnx

    check_functions(train_step=train_step, measure=measure)
    has_state = "state" in inspect.signature(measure).parameters

    def pure_step(modules: tuple[Any, Any], batch: Batch) -> tuple[tuple[Any, Any], Any]:
        model, optimizer = modules
        moving = [] if has_state else jax.tree.leaves(nnx.state(model, nnx.BatchStat))
        expected = "a function with a parameter `state`, for the batch statistics of the model"
        require(not moving, "measure", expected=expected, got="one without")
        return modules, train_step(model, optimizer, batch)

    pure = instrument(
        pure_step,
        measure,
        windows,
        params_of=lambda modules: nnx.state(modules[0], nnx.Param),
        step_of=lambda modules: modules[1].step,
        state_of=(lambda modules: nnx.state(modules[0], nnx.Not(nnx.Param))) if has_state else None,
        take_gradient=take_gradient,
        real_update=real_update,
    )
    return InstrumentedNnxStep(pure)
