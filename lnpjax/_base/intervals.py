"""Intervals of stated coverage from estimates, their standard errors and degrees of freedom."""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lnpjax._base.checks import require

# From here on the expansion of Student's t about the normal distribution is good to six digits. In
# single precision, JAX's incomplete beta function is good to four below, and not above.
_MANY = 20.0


class Interval(NamedTuple):
    """Two ends; a pytree.

    Attributes:
        low: the lower end.
        high: the upper end.
    """

    low: Float[Array, ...]
    high: Float[Array, ...]


def jackknife_error(leave_one_out: Any) -> Any:
    """Return the standard error of a statistic from its values without one member each.

    The jackknife (Efron and Stein, 1981), ``sqrt((b - 1) / b sum (t_i - mean t)^2)``.

    Args:
        leave_one_out: an array of NumPy or JAX, `(b, ...)`.

    Returns:
        `(...)`, an array of the same kind.

    Example:
        The mean of 1 and 3, whose standard error is 1:

        >>> float(jackknife_error(jnp.array([3.0, 1.0])))
        1.0
    """
    count = len(leave_one_out)
    deviations = leave_one_out - leave_one_out.mean(axis=0)
    return ((count - 1) / count * (deviations**2).sum(axis=0)) ** 0.5


def student_t(coverage: float, df: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the t that Student's distribution does not exceed, in size, with this probability.

    With fewer than 20 degrees of freedom by Newton's method on ``I_x(df/2, 1/2) = 1 - coverage``,
    ``x = df / (df + t^2)``, with the regularised incomplete beta function I (Abramowitz and Stegun,
    equation 26.7.1); with more by the expansion about the normal distribution (26.7.5).

    Args:
        coverage: the probability, between 0 and 1.
        df: degrees of freedom, at least 1; inf for the normal distribution, NaN if unknown.

    Returns:
        t > 0; NaN where `df` is.

    Raises:
        ValueError: if `coverage` does not lie between 0 and 1.

    Cost: six incomplete beta functions for each number; works under `jit` and `vmap`.

    Example:
        >>> student_t(0.95, jnp.array([1.0, 10.0, jnp.inf])).round(1)
        Array([12.7,  2.2,  2. ], dtype=float32)
    """
    check_coverage(coverage)
    df = jnp.asarray(df, jnp.result_type(float))
    few = jnp.where(df < _MANY, df, 1)
    t = jnp.where(df < _MANY, _by_newton(coverage, few), _by_expansion(coverage, df))
    return jnp.where(jnp.isnan(df), jnp.nan, t)


@functools.partial(jax.jit, static_argnames="coverage")
def _by_newton(coverage: float, df: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    scale = 2 * jnp.exp(jax.lax.lgamma((df + 1) / 2) - jax.lax.lgamma(df / 2))
    scale /= jnp.sqrt(jnp.pi * df)

    def step(_: int, logarithm: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        # The logarithm of the probability beyond t is concave in that of t, which is why this
        # converges from everywhere, and from one side after the first step.
        t = jnp.exp(logarithm)
        rest = df / (df + jnp.square(t))
        beyond = jax.lax.betainc(df / 2, jnp.full_like(df, 0.5), rest)
        slope = t * scale * rest ** ((df + 1) / 2)
        return logarithm + jnp.log(beyond / (1 - coverage)) * beyond / slope

    start = jnp.full_like(df, math.log(_normal(coverage)))
    return jnp.exp(jax.lax.fori_loop(0, 6, step, start))


def _by_expansion(coverage: float, df: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    z = _normal(coverage)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum((term / df**power for power, term in enumerate(terms, 1)), jnp.full_like(df, z))


def _normal(coverage: float) -> float:
    return statistics.NormalDist().inv_cdf((1 + coverage) / 2)


def scale_interval(
    value: Float[Array, "*shape"],
    sem: Float[Array, "*shape"],
    df: Float[Array, "*shape"],
    coverage: float,
) -> Interval:
    """Return an interval for a positive scale: symmetric in its logarithm.

    ``value * exp(-+ t * sem / value)``. Where the error is small this is ``value -+ t * sem``.
    Where it is not, the error of a sum of squares grows with the sum, so that one that came out too
    small would have too small an interval; in the logarithm its size is the same throughout. The
    ends are never negative, and those of ``1 / value`` are the inverse of these.

    Args:
        value: an estimate; negative ones give the mirror image.
        sem: its standard error.
        df: the degrees of freedom of `sem`.
        coverage: the probability with which such intervals hold the truth.

    Returns:
        An `Interval`, NaN where `sem` or `df` is.

    Raises:
        ValueError: if `coverage` does not lie between 0 and 1.

    Example:
        >>> low, high = scale_interval(jnp.array(2.0), jnp.array(0.02), jnp.array(10.0), 0.95)
        >>> print(f"{low:.3f} to {high:.3f}")
        1.956 to 2.045
    """
    size = jnp.abs(value)
    relative = jnp.where(size > 0, sem / jnp.where(size > 0, size, 1), sem)
    factor = jnp.exp(student_t(coverage, df) * relative)
    inner, outer = value / factor, value * factor
    return Interval(jnp.minimum(inner, outer), jnp.maximum(inner, outer))


def check_coverage(coverage: float) -> None:
    """Refuse what is not a probability strictly between 0 and 1.

    Raises:
        ValueError: then.
    """
    require(
        isinstance(coverage, int | float) and 0 < coverage < 1,
        "coverage",
        expected="a probability between 0 and 1, such as 0.95",
        got=coverage,
    )
