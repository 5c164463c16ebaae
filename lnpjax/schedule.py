"""Which training steps are measured.

Training changes ever more slowly, so the papers measure in short windows spaced evenly in the
logarithm of the step (Spectral Reach, appendix B.1).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from lnpjax._checks import require


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
                whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
                require(whole, argument, expected="integers", got=repr(value), error=TypeError)
        require(
            all(left < right for left, right in zip(self.starts, self.starts[1:], strict=False))
            and all(start >= 0 for start in self.starts),
            "starts",
            expected="strictly increasing steps >= 0",
            got=self.starts,
        )
        require(self.width >= 1, "width", expected="an integer >= 1", got=self.width)

    @functools.cached_property
    def steps(self) -> Int[np.ndarray, " measured"]:
        """Every measured step, once, in order."""
        offsets = np.arange(self.width)
        return np.unique(np.add.outer(np.array(self.starts, np.int64), offsets))

    def active(self, step: int | Int[Array, ""]) -> bool | Bool[Array, ""]:
        """Whether a step is measured: a Python bool for a concrete step, else an array."""
        return self.window(step) >= 0

    def window(self, step: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """The index of the window that a step belongs to, or -1."""
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
    """The number of a step as it is now, taken out of the variable that may hold it.

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
    """Windows that start at logarithmically spaced steps.

    ``int(per_decade * log10(max_steps)) + 1`` points evenly spaced in the logarithm from 1 to
    `max_steps`, cut to integers, with duplicates dropped and step 0 added; a window starts at each
    point and is dropped where it would run past `max_steps`. This reproduces the counts of Spectral
    Reach, appendix B.2: 24 windows and 801 measured steps of 66,116; 23 and 752 of 42,207.

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
        require(
            isinstance(value, int | np.integer) and value >= 1,
            argument,
            expected="an integer >= 1",
            got=value,
        )
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
