"""Running means of noisy curves."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require

EMA_FACTOR = 0.1  # Spectral Reach, C.1


def exponential_moving_average(
    values: Float[np.ndarray, " n"], factor: float = EMA_FACTOR
) -> Float[np.ndarray, " n"]:
    """Return a running mean whose weights fall off by `1 - factor` per step.

    `y_t = sum_i (1 - factor)^i x_{t-i} / sum_i (1 - factor)^i`, i from 0 to t: the weights are
    normalised, so that the first values are not pulled to where the average starts. *Spectral
    Reach*, C.1, smooths its loss curves so.

    Args:
        values: x, in order; a NaN has no weight.
        factor: the weight of the newest value in the long run, in (0, 1].

    Returns:
        y; NaN before the first value that is not.

    Raises:
        ValueError: if `factor` is outside (0, 1], or `values` is not one-dimensional.

    Example:
        >>> exponential_moving_average(np.array([1.0, 0.0, 0.0]), 0.5)
        array([1.        , 0.33333333, 0.14285714])
    """
    values = np.asarray(values, np.float64)
    require(0 < factor <= 1, "factor", expected="a number in (0, 1]", got=factor)
    require(values.ndim == 1, "values", expected="one dimension", got=f"shape {values.shape}")
    averages = np.full(values.shape, math.nan)
    total = weight = 0.0
    for t, value in enumerate(values):
        is_number = not math.isnan(value)
        total = (1 - factor) * total + (value if is_number else 0.0)
        weight = (1 - factor) * weight + is_number
        averages[t] = total / weight if weight else math.nan
    return averages
