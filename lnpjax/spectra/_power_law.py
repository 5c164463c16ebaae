"""Power laws fitted to values by rank, within windows of ranks, with the error of the exponent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lnpjax._base.checks import check_floating, concrete, require
from lnpjax._base.entry_points import entry_point
from lnpjax._base.numerics import accumulation_dtype
from lnpjax._base.printing import result
from lnpjax.status import Status, flag


@result
@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """A fitted power law, ``value ~ amplitude * rank^(-exponent)``; made by `power_law`.

    For several windows every field has one entry per window.

    Attributes:
        exponent: how fast the values fall; positive for a decaying spectrum.
        exponent_sem: standard error of the exponent if the deviations of ``ln value`` from the line
            are independent and alike. Neighbouring eigenvalues repel each other, so it is a scale
            for the quality of the fit rather than a confidence in the exponent of a population.
        amplitude: the fitted value at rank 1, in the units of the values.
        r_squared: share of the variance of ``ln value`` within the window that the fit explains;
            NaN where the values are equal and nothing is to be explained.
        num_points: values that were used.
        num_left_out: values of the window that were not: zero, negative, under the resolution,
            infinite or NaN.
        status: `lnpjax.Status` flags: `TOO_FEW_POINTS` where fewer than three values were left (the
            numbers are then NaN), `VANISHING_EIGENVALUES` where values of the window were zero,
            negative or under the resolution.
    """

    exponent: Float[Array, "*window"]
    exponent_sem: Float[Array, "*window"]
    amplitude: Float[Array, "*window"]
    r_squared: Float[Array, "*window"]
    num_points: Int[Array, "*window"]
    num_left_out: Int[Array, "*window"]
    status: Int[Array, "*window"]


@entry_point
def power_law(
    values: Float[Array, " k"],
    ranks: tuple[int, int] | Sequence[tuple[int, int]],
    *,
    resolution: float | Float[Array, ""] | None = None,
) -> PowerLaw:
    """Fit a power law to values by rank: least squares of ``ln value`` on ``ln rank``.

    *Spectral Lens*, eq. 2, with its bank of rank windows (eq. 3). Every rank has the same
    weight, so the many high ranks of a wide window dominate its fit.

    Args:
        values: the value at rank 1, 2, ..., as eigenvalues in descending order.
        ranks: the window ``(first, last)``, counted from 1 and with both ends inside, or a sequence
            of windows.
        resolution: values below this fraction of the largest one are left out; may be traced, and
            then is not checked. Eigenvalues that rounding made follow a law of their own, which a
            fit takes for the spectrum's; see `lnpjax.spectra.spectral_resolution`. `None` leaves
            out what has no logarithm, and nothing else.

    Returns:
        A `PowerLaw`; for a sequence of windows, with a leading axis on every field. Values without
        a logarithm are left out and counted.

    Raises:
        TypeError: if `values` is not an array of real floating-point numbers.
        ValueError: if `values` is not a vector, a window is not within it, or `resolution` is not
            in [0, 1).

    Example:
        >>> fit = power_law(5 * jnp.arange(1.0, 101.0) ** -2, (10, 100))
        >>> print(f"{fit.exponent:.3f} {fit.amplitude:.3f} {fit.r_squared:.3f} {fit.num_points}")
        2.000 5.000 1.000 91
        >>> fit = power_law(jnp.arange(1.0, 101.0) ** -2, (10, 100), resolution=1e-3)
        >>> int(fit.num_points), int(fit.num_left_out), int(fit.status)
        (22, 69, 512)
    """
    check_floating("values", values)
    require(values.ndim == 1, "values", expected="a vector", got=f"shape {values.shape}")
    known_resolution = None if resolution is None else concrete(resolution)
    require(
        known_resolution is None or bool(0 <= known_resolution < 1),
        "resolution",
        expected="None or a fraction in [0, 1)",
        got=resolution,
    )
    windows = _rank_windows(ranks, len(values))
    rank = np.arange(1, len(values) + 1)
    inside = (windows[..., :1] <= rank) & (rank <= windows[..., 1:])

    dtype = accumulation_dtype()
    values = jnp.asarray(values, dtype)
    finite = jnp.isfinite(values)
    vanishing = finite & (values <= 0)
    if resolution is not None:
        vanishing |= finite & (values < resolution * jnp.max(jnp.where(finite, values, 0)))
    usable = finite & ~vanishing
    used = inside & usable
    num_points = jnp.sum(used, axis=-1, dtype=jnp.int32)
    too_few = flag(num_points < 3, Status.TOO_FEW_POINTS)

    def total(terms: Array) -> Array:
        return jnp.sum(jnp.where(used, terms, 0), axis=-1, keepdims=True)

    n = num_points[..., None]
    x = jnp.log(jnp.asarray(rank, dtype))
    y = jnp.log(jnp.where(usable, values, 1))
    mean_x, mean_y = total(x) / n, total(y) / n
    dx, dy = x - mean_x, y - mean_y
    slope = total(dx * dy) / total(dx**2)
    variance, residual = total(dy**2), total((dy - slope * dx) ** 2)
    # Equal values have a variance of their rounding errors, not of zero.
    rounding = jnp.finfo(dtype).eps * jnp.max(jnp.where(used, jnp.abs(y), 0), -1, keepdims=True)
    r_squared = jnp.where(variance > n * (4 * rounding) ** 2, 1 - residual / variance, jnp.nan)

    def where_enough(numbers: Array) -> Array:
        return jnp.where(too_few == 0, numbers[..., 0], jnp.nan)

    return PowerLaw(
        exponent=where_enough(-slope),
        exponent_sem=where_enough(jnp.sqrt(residual / jnp.maximum(n - 2, 1) / total(dx**2))),
        amplitude=where_enough(jnp.exp(mean_y - slope * mean_x)),
        r_squared=where_enough(r_squared),
        num_points=num_points,
        num_left_out=jnp.sum(inside & ~usable, axis=-1, dtype=jnp.int32),
        status=too_few | flag(jnp.any(inside & vanishing, -1), Status.VANISHING_EIGENVALUES),
    )


def _rank_windows(ranks: Any, num_values: int) -> Int[np.ndarray, "*window 2"]:
    """Return the windows as an array, checked."""
    try:
        windows = concrete(ranks)
    except ValueError:  # windows of unequal length make no array
        windows = None
    require(
        windows is not None
        and np.issubdtype(windows.dtype, np.integer)
        and windows.ndim in (1, 2)
        and windows.shape[-1] == 2
        and windows.size > 0,
        "ranks",
        expected="a window (first, last) of integers known outside of jit, or several",
        got=ranks,
    )
    assert windows is not None
    first, last = windows[..., 0], windows[..., 1]
    require(
        bool(np.all((first >= 1) & (first <= last) & (last <= num_values))),
        "ranks",
        expected=f"windows with 1 <= first <= last <= {num_values}, the number of values",
        got=ranks,
    )
    return windows
