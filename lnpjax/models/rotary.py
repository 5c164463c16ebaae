"""Rotary position embeddings."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lnpjax._base.checks import check_count, require

LINEAR, LLAMA3 = "linear", "llama3"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are lowered, so that a model reads longer sequences.

    "linear" divides all of them by `factor` (Chen et al., 2023). "llama3" divides those that turn
    less than `low_freq_factor` times within `original_max_position`, leaves those that turn more
    than `high_freq_factor` times, and interpolates linearly in between (Llama 3.1).

    Attributes:
        kind: "linear" or "llama3".
        factor: what the frequencies are divided by, at least 1.
        low_freq_factor: turns below which a frequency is divided; for "llama3".
        high_freq_factor: turns above which it stays; for "llama3".
        original_max_position: number of positions before scaling; for "llama3".

    Raises:
        ValueError: on construction, if a field is invalid; the message names it.

    Example:
        >>> RopeScaling(kind="linear", factor=2.0)(jnp.array([1.0, 0.5])).tolist()
        [0.5, 0.25]
    """

    kind: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position: int | None = None

    def __post_init__(self) -> None:
        known = (LINEAR, LLAMA3)
        expected = f"one of {', '.join(map(repr, known))}"
        require(self.kind in known, "rope_scaling: kind", expected=expected, got=repr(self.kind))
        numbers = ("factor", "low_freq_factor", "high_freq_factor")
        for name in numbers if self.kind == LLAMA3 else numbers[:1]:
            value = getattr(self, name)
            good = isinstance(value, int | float) and 0 < value < math.inf
            require(good, f"rope_scaling: {name}", expected="a number > 0", got=repr(value))
        if self.kind == LLAMA3:
            check_count("rope_scaling: original_max_position", self.original_max_position)
            low, high = self.low_freq_factor, self.high_freq_factor
            ascending = low is not None and high is not None and low < high
            expected = f"a number > low_freq_factor={low}"
            require(ascending, "rope_scaling: high_freq_factor", expected=expected, got=high)

    def __call__(self, frequencies: Float[Array, " half"]) -> Float[Array, " half"]:
        """Return the scaled frequencies, in radians per position."""
        if self.kind == LINEAR:
            return frequencies / self.factor
        low, high, positions = (
            self.low_freq_factor,
            self.high_freq_factor,
            self.original_max_position,
        )
        assert low is not None
        assert high is not None
        assert positions is not None
        turns = positions * frequencies / (2 * math.pi)
        kept = jnp.clip((turns - low) / (high - low), 0, 1)
        return frequencies * ((1 - kept) / self.factor + kept)


def rotary_angles(
    time: int,
    head_width: int,
    *,
    base: float,
    dtype: DTypeLike,
    scaling: RopeScaling | None = None,
) -> Float[Array, "time half"]:
    """Compute the angles `t * base^(-2i / head_width)` of the rotary embedding (Su et al., 2021).

    Args:
        time: number of positions, counted from 0.
        head_width: width of one head, or of its part that is rotated; even.
        base: base of the frequencies.
        dtype: dtype of the result.
        scaling: what is done to the frequencies.

    Returns:
        Angles in radians, `(time, head_width / 2)`.

    Example:
        >>> rotary_angles(2, 4, base=10000.0, dtype="float32").tolist()[0]
        [0.0, 0.0]
    """
    frequencies = base ** (-jnp.arange(0, head_width, 2, dtype=dtype) / head_width)
    if scaling is not None:
        frequencies = scaling(frequencies)
    return jnp.outer(jnp.arange(time, dtype=dtype), frequencies)


def rotate_pairs(
    x: Float[Array, "*heads time width"], angles: Float[Array, "time half"], *, interleaved: bool
) -> Float[Array, "*heads time width"]:
    """Turn each pair of a head's coordinates by its angle; inner products see relative positions.

    Args:
        x: queries or keys, `(..., time, width)`.
        angles: what `rotary_angles` returns. If there are fewer than `width / 2`, only the first
            coordinates of a head are turned, two for each angle.
        interleaved: pairs are (2i, 2i + 1) if true, else (i, i + half), with as many angles as
            `half`.

    Returns:
        The rotated array, with the shape and dtype of `x`.

    Example:
        >>> x = jnp.array([[1.0, 0.0]])
        >>> rotate_pairs(x, jnp.array([[jnp.pi / 2]]), interleaved=True).round(3).tolist()
        [[-0.0, 1.0]]
    """
    half = angles.shape[-1]
    if 2 * half < x.shape[-1]:
        turned = rotate_pairs(x[..., : 2 * half], angles, interleaved=interleaved)
        return jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)
    pair_shape, pair_axis = ((half, 2), -1) if interleaved else ((2, half), -2)
    pairs = x.reshape(*x.shape[:-1], *pair_shape)
    first, second = jnp.unstack(pairs, axis=pair_axis)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    rotated = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=pair_axis)
    return rotated.reshape(x.shape).astype(x.dtype)
