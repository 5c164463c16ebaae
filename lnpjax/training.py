"""Measuring while training: which steps are measured, and a transform of the training step."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PyTree

from lnpjax._base.checks import check_count, check_functions, check_key, is_integer, require
from lnpjax._base.entry_points import has_status, unknown
from lnpjax._base.ordering import after, floating_leaves
from lnpjax._base.printing import result
from lnpjax.jacobian import Batch
from lnpjax.status import Status


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of measured steps; made by `log_windows`.

    A step inside two windows is measured once and belongs to the later one.

    Args:
        starts: first step of each window, strictly increasing.
        width: steps in a window.
    """

    starts: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(self.starts))
        for argument, values in (("starts", self.starts), ("width", (self.width,))):
            for value in values:
                require(
                    is_integer(value),
                    argument,
                    expected="integers",
                    got=repr(value),
                    error=TypeError,
                )
        require(
            all(left < right for left, right in zip(self.starts, self.starts[1:], strict=False))
            and all(start >= 0 for start in self.starts),
            "starts",
            expected="strictly increasing steps >= 0",
            got=self.starts,
        )
        check_count("width", self.width)

    @functools.cached_property
    def steps(self) -> Int[np.ndarray, " measured"]:
        """Every measured step, once, in order."""
        offsets = np.arange(self.width)
        return np.unique(np.add.outer(np.array(self.starts, np.int64), offsets))

    def active(self, step: int | Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Return whether a step is measured: a Python bool for a concrete step, else an array."""
        return self.window(step) >= 0

    def window(self, step: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Return the index of the window that a step belongs to, or -1."""
        step = step_number(step)
        if not isinstance(step, jax.core.Tracer):
            latest = int(np.searchsorted(self.starts, int(step), side="right")) - 1
            return latest if latest >= 0 and int(step) < self.starts[latest] + self.width else -1
        if not self.starts:
            return jnp.full_like(step, -1)
        starts = jnp.asarray(self.starts, step.dtype)
        index = jnp.searchsorted(starts, step, side="right") - 1
        inside = (index >= 0) & (step < starts[index] + self.width)
        return jnp.where(inside, index, -1)


def step_number(step: Any) -> Any:
    """Return the number of a step as it is now, taken out of a variable that may hold it.

    Args:
        step: an integer, an array of shape (), or a Flax NNX variable of one, as an
            `nnx.Optimizer` has it.

    Returns:
        The integer or array itself, which later updates of the variable do not change.

    Raises:
        TypeError: if it is not one integer.

    Example:
        >>> step_number(jnp.arange(2))
        Traceback (most recent call last):
            ...
        TypeError: step: expected one integer, got an array of shape (2,)
    """
    leaves = jax.tree.leaves(step)
    whole = len(leaves) == 1 and jnp.issubdtype(jnp.result_type(leaves[0]), jnp.integer)
    shape = jnp.shape(leaves[0]) if whole else None
    require(
        shape == (),
        "step",
        expected="one integer",
        got=f"an array of shape {shape}" if whole else repr(step),
        error=TypeError,
    )
    return leaves[0]


def log_windows(max_steps: int, *, per_decade: int = 5, width: int = 50) -> Windows:
    """Make windows that start at logarithmically spaced steps.

    ``int(per_decade * log10(max_steps)) + 1`` points evenly spaced in the logarithm from 1 to
    `max_steps`, cut to integers, with duplicates dropped and step 0 added; a window starts at each
    point and is dropped where it would run past `max_steps`. This reproduces the counts of
    *Spectral Reach*, app. B.2: 24 windows and 801 measured steps of 66,116; 23 and 752 of 42,207.

    Args:
        max_steps: the number of training steps.
        per_decade: points per factor of ten.
        width: steps in a window.

    Returns:
        The `Windows`.

    Raises:
        ValueError: if an argument is less than 1, or `width` exceeds `max_steps`.

    Example:
        >>> windows = log_windows(66_116)
        >>> len(windows.starts), len(windows.steps)
        (24, 801)
        >>> windows.active(70), windows.active(66_000)
        (True, False)
    """
    for argument, value in (("max_steps", max_steps), ("per_decade", per_decade), ("width", width)):
        check_count(argument, value)
    require(
        width <= max_steps,
        "width",
        expected=f"at most max_steps = {max_steps}, so that a window fits",
        got=width,
    )
    num_points = int(per_decade * math.log10(max_steps)) + 1
    # Cutting 9.999... to 9 would lose exact powers of ten, so numbers a rounding error below an
    # integer count as that integer.
    points = np.logspace(0, math.log10(max_steps), num_points)
    candidates = {0, *(int(point * (1 + 1e-12)) for point in points)}
    return Windows(tuple(sorted(s for s in candidates if s + width <= max_steps)), width)


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
    windows: Windows
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
        measurement = jax.lax.cond(
            active, self._measure, lambda *arguments: self._blank(*arguments), *arguments
        )
        return new_state, metrics, self._record(step, active, measurement)

    def plain(
        self, state: Any, batch_a: Batch, batch_b: Batch | None, key: Key[Array, ""]
    ) -> tuple[Any, Any, Record]:
        """Train without measuring, whatever the schedule says; for loops that decide in Python."""
        check_key("key", key)
        step = step_number(self.step_of(state))
        new_state, metrics, arguments = self._train(state, batch_a, batch_b, key)
        return new_state, metrics, self._record(step, False, self._blank(*arguments))

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
        rest = None if self.state_of is None else self.state_of(state)
        rest = jax.tree.map(lambda leaf: leaf, rest)
        new_state, metrics = self.train_step(state, batch_a)
        gradient = None
        if self.take_gradient is not None:
            gradient, metrics = self.take_gradient(metrics)
        updated = self.params_of(new_state) if self.real_update else None
        trained = floating_leaves((metrics, new_state) if gradient is None else gradient)
        return new_state, metrics, (params, batch_a, batch_b, key, rest, gradient, updated, trained)

    def _measure(
        self,
        params: PyTree,
        batch_a: Batch,
        batch_b: Batch | None,
        key: Key[Array, ""],
        state: PyTree | None,
        gradient: PyTree | None,
        updated: PyTree | None,
        trained: list[Array],
    ) -> PyTree:
        # The memory of the training step is free again before the measurement takes its own.
        batch_a, batch_b = after((batch_a, batch_b), trained)
        extras = {"state": state, "gradient_a": gradient, "params_after": updated}
        accepted = inspect.signature(self.measure).parameters
        given = {
            name: value for name, value in extras.items() if value is not None and name in accepted
        }
        return self.measure(params, batch_a, batch_b, key=key, **given)

    def _blank(self, *arguments: PyTree) -> PyTree:
        shapes = jax.eval_shape(self._measure, *arguments)

        def blank(leaf: jax.ShapeDtypeStruct) -> Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.full_like(leaf, unknown() if floating else 0)

        return jax.tree.map(_not_measured, jax.tree.map(blank, shapes), is_leaf=has_status)

    def _record(self, step: Any, measured: Any, measurement: PyTree) -> Record:
        return Record(
            measured=jnp.asarray(measured, bool),
            step=jnp.asarray(step, jnp.int32),
            window=jnp.asarray(self.windows.window(step), jnp.int32),
            measurement=measurement,
        )


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
    windows: Windows,
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
            also given the keywords `gradient_a`, `params_after` and `state` if it has parameters so
            named.
        windows: the schedule, from `lnpjax.log_windows`.
        params_of: the parameters within a state.
        step_of: the number of updates that a state has seen; its attribute ``step`` by default.
        state_of: what the network has besides parameters within a state, such as the batch
            statistics of a module that `lnpjax.from_nnx` split ``with_state=True``. The measure
            reads what it is before the update.
        take_gradient: separates the gradient on A from the metrics, if `train_step` puts it there:
            ``take_gradient(metrics) -> (gradient, remaining metrics)``. It must be the gradient of
            the measure's own loss, before clipping or weight decay, in the structure of the
            parameters. Saves the measurement 2/3 of a gradient: under a traced step the compiler
            cannot see that the work is done already.
        real_update: whether to compare the loss change of the real update with its linear
            prediction (`LNP.nu`), for one forward pass on B.

    Returns:
        ``step(state, batch_a, batch_b, key) -> (state, metrics, record)``, which works under
        `jit`, `scan` and with donated buffers; its methods ``plain`` and ``measured`` leave the
        decision to the caller (see `InstrumentedStep`).

    Raises:
        TypeError: if `windows` lacks the methods of `Windows`, or what should be a function
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
        all(callable(getattr(windows, method, None)) for method in ("active", "window")),
        "windows",
        expected="Windows, such as lnpjax.log_windows(max_steps) or Windows(starts, width)",
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
    windows: Windows,
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
        >>> import lnpjax, optax
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
