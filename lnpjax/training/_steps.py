"""A transform of a training step, which then measures at scheduled steps."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from lnpjax._base.checks import check_functions, check_key, require
from lnpjax._base.entry_points import has_status, unknown
from lnpjax._base.ordering import after, floating_leaves
from lnpjax._base.printing import result
from lnpjax.jacobian import Batch
from lnpjax.status import Status
from lnpjax.training._schedules import Schedule, step_number

TrainStep: TypeAlias = Callable[[Any, Batch], tuple[Any, Any]]
Measure: TypeAlias = Callable[..., PyTree]


@result
@dataclasses.dataclass(frozen=True)
class Record:
    """What an instrumented step has measured. A pytree whose structure never changes.

    Attributes:
        measured: whether this step was measured.
        step: the step, before the update.
        window: the index of its window, or -1.
        measurement: what the measure returned. Where the step was not measured: NaN for floating
            numbers (infinity under `jax_debug_nans`, which refuses NaN), zero for others, and
            `Status.NOT_MEASURED` in the fields `status`, if any.

    Example:
        >>> record = Record(jnp.array(True), jnp.int32(70), jnp.int32(3), {"loss": jnp.ones(())})
        >>> int(record.step), bool(record.measured), float(record.measurement["loss"])
        (70, True, 1.0)
    """

    measured: Bool[Array, ""]
    step: Int[Array, ""]
    window: Int[Array, ""]
    measurement: PyTree


@dataclasses.dataclass(frozen=True)
class InstrumentedStep:
    """A training step that measures; made by `instrument`."""

    train_step: TrainStep
    measure: Measure
    windows: Schedule
    params_of: Callable[[Any], PyTree]
    step_of: Callable[[Any], Any]
    state_of: Callable[[Any], PyTree] | None
    take_gradient: Callable[[Any], tuple[PyTree, Any]] | None
    real_update: bool

    def __call__(
        self, state: Any, batch_a: Batch, batch_b: Batch | None, key: Key[Array, ""]
    ) -> tuple[Any, Any, Record]:
        """Train, and measure if the state's step is scheduled.

        A traced step makes a `lax.cond`; a concrete one is decided in Python, so that a step that
        is not measured costs and keeps nothing.

        Args:
            state: the training state.
            batch_a: ``(inputs, targets)``, trained on.
            batch_b: the batch on which the loss change is read; `None` for `batch_a` itself.
            key: a `jax.random` key for the probes of this step.

        Returns:
            ``(state, metrics, record)``: what `train_step` returns, and a `Record`.
        """
        check_key("key", key)
        step = step_number(self.step_of(state))
        active = self.windows.active(step)
        if not isinstance(active, jax.core.Tracer):
            chosen = self.measured if active else self.plain
            return chosen(state, batch_a, batch_b, key)
        new_state, metrics, arguments = self._train(state, batch_a, batch_b, key)
        # Under `jit`, because its trace is kept: the shapes of the blank come from the same one.
        measure = jax.jit(self._measure)
        blank = functools.partial(_blank, measure)
        measurement = jax.lax.cond(active, measure, blank, *arguments)
        return new_state, metrics, self._record(step, active, measurement)

    def plain(
        self, state: Any, batch_a: Batch, batch_b: Batch | None, key: Key[Array, ""]
    ) -> tuple[Any, Any, Record]:
        """Train without measuring, whatever the schedule says; for loops that decide in Python."""
        check_key("key", key)
        step = step_number(self.step_of(state))
        new_state, metrics, arguments = self._train(state, batch_a, batch_b, key)
        return new_state, metrics, self._record(step, False, _blank(self._measure, *arguments))

    def measured(
        self, state: Any, batch_a: Batch, batch_b: Batch | None, key: Key[Array, ""]
    ) -> tuple[Any, Any, Record]:
        """Train and measure, whatever the schedule says; for loops that decide in Python."""
        check_key("key", key)
        step = step_number(self.step_of(state))
        new_state, metrics, arguments = self._train(state, batch_a, batch_b, key)
        return new_state, metrics, self._record(step, True, self._measure(*arguments))

    def _train(
        self, state: Any, batch_a: Batch, batch_b: Batch | None, key: Key[Array, ""]
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        # Rebuilt, and before the update: an NNX state holds variables that the step may write to.
        params = jax.tree.map(lambda leaf: leaf, self.params_of(state))
        # Of the state before the update, which an NNX step writes to.
        step = step_number(self.step_of(state)) if self.take_gradient is not None else None
        rest = None if self.state_of is None else self.state_of(state)
        rest = jax.tree.map(lambda leaf: leaf, rest)
        new_state, metrics = self.train_step(state, batch_a)
        gradient = check = None
        if self.take_gradient is not None:
            gradient, metrics = self.take_gradient(metrics)
            check = self._checks_gradient(step)
        updated = self.params_of(new_state) if self.real_update else None
        trained = floating_leaves((metrics, new_state) if gradient is None else gradient)
        extras = {
            "state": rest,
            "gradient_a": gradient,
            "check_gradient_a": check,
            "params_after": updated,
        }
        accepted = inspect.signature(self.measure).parameters
        given = {
            name: value for name, value in extras.items() if value is not None and name in accepted
        }
        return new_state, metrics, (params, batch_a, batch_b, key, given, trained)

    def _checks_gradient(self, step: Any) -> Any:
        """Return whether a step checks the gradient that it hands over.

        That costs a gradient, more than handing it over saves, so it is done at the start of
        windows 0, 1, 2, 4, 8, and so on.
        """
        window = self.windows.window(step)
        return (window != self.windows.window(step - 1)) & ((window & (window - 1)) == 0)

    def _measure(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None,
        key: Key[Array, ""],
        given: dict[str, PyTree],
        trained: list[Array],
    ) -> PyTree:
        # The memory of the training step is free again before the measurement takes its own.
        batch_a, batch_b = after((batch_a, batch_b), trained)
        return self.measure(params, batch_a, batch_b, key=key, **given)

    def _record(self, step: Any, measured: Any, measurement: PyTree) -> Record:
        return Record(
            measured=jnp.asarray(measured, bool),
            step=jnp.asarray(step, jnp.int32),
            window=jnp.asarray(self.windows.window(step), jnp.int32),
            measurement=measurement,
        )


def _blank(measure: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """Return what stands for a measurement that is not made, in its shape."""
    shapes = jax.eval_shape(measure, *arguments)

    def blank(leaf: jax.ShapeDtypeStruct) -> Array:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.full_like(leaf, unknown() if floating else 0)

    return jax.tree.map(_not_measured, jax.tree.map(blank, shapes), is_leaf=has_status)


def _not_measured(node: Any) -> Any:
    """Return a result whose statuses, and those of results within it, say so."""
    if not has_status(node):
        return node
    fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    inner = {name: _not_measured(value) for name, value in fields.items()}
    inner["status"] = jnp.full_like(node.status, Status.NOT_MEASURED)
    return dataclasses.replace(node, **inner)


def _step_attribute(state: Any) -> Any:
    require(
        hasattr(state, "step"),
        "step_of",
        expected="a function from the state to its step, since the state has no attribute `step`",
        got=f"None for a state of type {type(state).__name__}",
        error=TypeError,
    )
    return state.step


def instrument(
    train_step: TrainStep,
    measure: Measure,
    windows: Schedule,
    *,
    params_of: Callable[[Any], PyTree],
    step_of: Callable[[Any], Any] = _step_attribute,
    state_of: Callable[[Any], PyTree] | None = None,
    take_gradient: Callable[[Any], tuple[PyTree, Any]] | None = None,
    real_update: bool = True,
) -> InstrumentedStep:
    """Make a training step measure at scheduled steps, within the same compiled function.

    Training itself is untouched: the states that follow are those of `train_step`, to the bit as
    XLA compiles for the CPU by default (no compiler promises to round a program alike inside a
    larger one). The measurement is taken at the parameters before the update.

    Args:
        train_step: any ``train_step(state, batch) -> (state, metrics)``.
        measure: ``measure(params, batch_a, batch_b, key=key)``, such as `lnpjax.lnp` and
            `lnpjax.spectra.position_distribution` make, or a function that calls several. It is
            also given the keywords `gradient_a`, `check_gradient_a`, `params_after` and `state` if
            it has parameters so named.
        windows: the schedule, such as `lnpjax.log_windows`, `lnpjax.every` or `lnpjax.at_steps`
            make, or any `lnpjax.training.Schedule`.
        params_of: the parameters within a state.
        step_of: the number of updates that a state has seen; its attribute ``step`` by default.
        state_of: what the network has besides parameters within a state, such as the batch
            statistics of a module that `lnpjax.from_nnx` split ``with_state=True``. The measure
            reads what it is before the update.
        take_gradient: separates the gradient on A from the metrics, if `train_step` puts it there:
            ``take_gradient(metrics) -> (gradient, remaining metrics)``. It must be the gradient of
            the measure's own loss, before clipping or weight decay, in the structure of the
            parameters; whether it is, is checked at the start of windows 0, 1, 2, 4, 8, and so on
            (`Status.GRADIENT_MISFIT`). Saves the measurement 2/3 of a gradient: under a traced step
            the compiler cannot see that the work is done already.
        real_update: whether to compare the loss change of the real update with its linear
            prediction (`LNP.nu`), for one forward pass on B.

    Returns:
        ``step(state, batch_a, batch_b, key) -> (state, metrics, record)``, which works under
        `jit`, `scan` and with donated buffers; its methods ``plain`` and ``measured`` leave the
        decision to the caller (see `InstrumentedStep`).

    Raises:
        TypeError: if `windows` is not a schedule, or what should be a function
            cannot be called; when called, if the state has no ``step`` and `step_of` is not given,
            if what `step_of` gives is not one integer, or `key` not a key.
        ValueError: when called, if `key` is an array of several.

    Cost of a measured step, in gradients on top of the training step's: that of `measure` (with
    `lnpjax.lnp` and one probe: 10/3, or 8/3 with `take_gradient`), and 1/3 for `real_update`.

    Example:
        >>> import lnpjax
        >>> def loss_fn(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> def apply_fn(w, x):
        ...     return x @ w
        >>> def train_step(state, batch):
        ...     loss, grad = jax.value_and_grad(lambda w: loss_fn(apply_fn(w, batch[0]), batch[1]))(
        ...         state["w"]
        ...     )
        ...     return {"w": state["w"] - 0.1 * grad, "step": state["step"] + 1}, loss
        >>> step = lnpjax.instrument(
        ...     train_step,
        ...     lnpjax.lnp(apply_fn, loss_fn),
        ...     lnpjax.log_windows(100, width=1),
        ...     params_of=lambda state: state["w"],
        ...     step_of=lambda state: state["step"],
        ... )
        >>> state = {"w": jnp.zeros((2, 1)), "step": jnp.int32(0)}
        >>> batch = (jnp.eye(2), jnp.ones((2, 1)))
        >>> state, loss, record = jax.jit(step)(state, batch, None, jax.random.key(0))
        >>> bool(record.measured), round(float(record.measurement.chi_pos), 6)
        (True, 0.5)
    """
    check_functions(train_step=train_step, measure=measure, params_of=params_of, step_of=step_of)
    require(
        isinstance(windows, Schedule),
        "windows",
        expected="a schedule, such as lnpjax.log_windows(max_steps) or lnpjax.every(100)",
        got=repr(windows),
        error=TypeError,
    )
    if state_of is not None:
        check_functions(state_of=state_of)
        require(
            "state" in inspect.signature(measure).parameters,
            "state_of",
            expected="None, since the measure has no parameter `state`",
            got="a function",
        )
    return InstrumentedStep(
        train_step, measure, windows, params_of, step_of, state_of, take_gradient, real_update
    )
