"""Which steps of training are measured."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lnpjax._base.checks import check_count, is_integer, require


@runtime_checkable
class Schedule(Protocol):
    """Which steps are measured, and what they are averaged with: all that `instrument` asks for.

    Both methods take a step that is a Python integer or, inside `jit`, a traced one, and answer in
    kind.

    Example:
        >>> class Early:
        ...     def active(self, step):
        ...         return step < 10
        ...     def window(self, step):
        ...         return jnp.where(step < 10, 0, -1)
        >>> isinstance(Early(), Schedule)
        True
    """

    def active(self, step: int | Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Return whether a step is measured."""

    def window(self, step: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Return the number of the window that a step belongs to, or -1."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of measured steps; made by `log_windows` and `at_steps`.

    A step inside two windows is measured once and belongs to the later one.

    Args:
        starts: first step of each window, strictly increasing.
        width: steps in a window: one number for all, or one for each.
    """

    starts: tuple[int, ...]
    width: int | tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(self.starts))
        if not is_integer(self.width):
            object.__setattr__(self, "width", _as_tuple("width", self.width))
        for argument, values in (("starts", self.starts), ("width", self.widths)):
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
        for width in self.widths:
            check_count("width", width)
        require(
            len(self.widths) == len(self.starts),
            "width",
            expected=f"one number, or one for each of {len(self.starts)} starts",
            got=f"{len(self.widths)} numbers",
        )
        ends = self._ends
        require(
            ends == sorted(ends),
            "width",
            expected="windows that end in the order in which they start",
            got=self.width,
        )

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """The steps in each window."""
        return self.width if isinstance(self.width, tuple) else (self.width,) * len(self.starts)

    @functools.cached_property
    def steps(self) -> Int[np.ndarray, " measured"]:
        """Every measured step, once, in order."""
        windows = zip(self.starts, self.widths, strict=True)
        return np.array(sorted({start + i for start, width in windows for i in range(width)}), int)

    def active(self, step: int | Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Return whether a step is measured: a Python bool for a concrete step, else an array."""
        return self.window(step) >= 0

    def window(self, step: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Return the index of the window that a step belongs to, or -1."""
        step = step_number(step)
        if not isinstance(step, jax.core.Tracer):
            latest = int(np.searchsorted(self.starts, int(step), side="right")) - 1
            return latest if latest >= 0 and int(step) < self._ends[latest] else -1
        if not self.starts:
            return jnp.full_like(step, -1)
        starts = jnp.asarray(self.starts, step.dtype)
        index = jnp.searchsorted(starts, step, side="right") - 1
        inside = (index >= 0) & (step < jnp.asarray(self._ends, step.dtype)[index])
        return jnp.where(inside, index, -1)

    @property
    def _ends(self) -> list[int]:
        """The step after each window."""
        return [start + width for start, width in zip(self.starts, self.widths, strict=True)]


@dataclasses.dataclass(frozen=True)
class Every:
    """Every n-th step, each a window of its own; made by `every`."""

    interval: int
    start: int

    def active(self, step: int | Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Return whether a step is measured: a Python bool for a concrete step, else an array."""
        return self.window(step) >= 0

    def window(self, step: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Return how many measured steps there were before this one, or -1."""
        step = step_number(step)
        if not isinstance(step, jax.core.Tracer):
            index, rest = divmod(int(step) - self.start, self.interval)
            return index if index >= 0 and rest == 0 else -1
        begun = step >= self.start
        passed = jnp.where(begun, step, self.start) - self.start  # steps may be unsigned
        measured = begun & (passed % self.interval == 0)
        return jnp.where(measured, (passed // self.interval).astype(jnp.int32), -1)


def every(interval: int, *, start: int = 0) -> Every:
    """Measure every n-th step.

    Args:
        interval: n.
        start: the first step that is measured.

    Returns:
        A `Schedule`, each of whose steps is a window of its own.

    Raises:
        ValueError: if `interval` is less than 1 or `start` negative.

    Example:
        >>> [step for step in range(10) if every(4, start=1).active(step)]
        [1, 5, 9]
    """
    check_count("interval", interval)
    check_count("start", start, least=0)
    return Every(interval, start)


def at_steps(steps: Iterable[int]) -> Windows:
    """Measure some steps, each a window of its own.

    Args:
        steps: any steps >= 0, in any order.

    Returns:
        The `Windows`.

    Raises:
        TypeError: if one is not an integer.
        ValueError: if one is negative.

    Example:
        >>> at_steps([100, 0, 10]).starts
        (0, 10, 100)
    """
    return Windows(tuple(sorted(set(_as_tuple("steps", steps)))), 1)


def _as_tuple(argument: str, numbers: Any) -> tuple[Any, ...]:
    """Return numbers, in whatever they come, as a tuple of Python's."""
    require(
        isinstance(numbers, Iterable),
        argument,
        expected="integers",
        got=repr(numbers),
        error=TypeError,
    )
    return tuple(int(number) if is_integer(number) else number for number in numbers)


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


def log_windows(
    max_steps: int,
    *,
    per_decade: int = 5,
    width: int = 50,
    growth: float = 0.0,
    last: bool = False,
) -> Windows:
    """Make windows that start at logarithmically spaced steps.

    ``int(per_decade * log10(max_steps)) + 1`` points evenly spaced in the logarithm from 1 to
    `max_steps`, cut to integers, with duplicates dropped and step 0 added; a window starts at each
    point and is dropped where it would run past `max_steps`. This reproduces the counts of
    *Spectral Reach*, app. B.2: 24 windows and 801 measured steps of 66,116; 23 and 752 of 42,207.

    Args:
        max_steps: the number of training steps.
        per_decade: points per factor of ten.
        width: steps in a window.
        growth: windows that start late are longer: this many times their first step, if that is
            more than `width`.
        last: whether to add a window that ends at the last step. Without it, up to a factor of
            ``10 ** (1 / per_decade)`` of the steps follows the last window, 37 % of them.

    Returns:
        The `Windows`.

    Raises:
        ValueError: if an argument is less than 1, `growth` negative, or `width` more than
            `max_steps`.

    Example:
        >>> windows = log_windows(66_116)
        >>> len(windows.starts), len(windows.steps)
        (24, 801)
        >>> windows.active(70), windows.active(66_000)
        (True, False)
        >>> log_windows(1_000, per_decade=1, width=2, growth=0.1)
        Windows(starts=(0, 1, 10, 100), width=(2, 2, 2, 10))
        >>> log_windows(1_000, per_decade=1, width=2, last=True).starts
        (0, 1, 10, 100, 998)
    """
    for argument, value in (("max_steps", max_steps), ("per_decade", per_decade), ("width", width)):
        check_count(argument, value)
    require(
        width <= max_steps,
        "width",
        expected=f"at most max_steps = {max_steps}, so that a window fits",
        got=width,
    )
    require(growth >= 0, "growth", expected="a number >= 0", got=growth)
    num_points = int(per_decade * math.log10(max_steps)) + 1
    # Cutting 9.999... to 9 would lose exact powers of ten, so numbers a rounding error below an
    # integer count as that integer.
    points = np.logspace(0, math.log10(max_steps), num_points)
    candidates = {0, *(int(point * (1 + 1e-12)) for point in points)}
    widths = {start: max(width, int(growth * start)) for start in sorted(candidates)}
    fitting = {start: length for start, length in widths.items() if start + length <= max_steps}
    if last and max_steps not in (start + length for start, length in fitting.items()):
        length = max(width, int(growth * max_steps / (1 + growth)))
        fitting[max_steps - length] = length  # later than the others, which end before
    return Windows(tuple(fitting), tuple(fitting.values()) if growth else width)
