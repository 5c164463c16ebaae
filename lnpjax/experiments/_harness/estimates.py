"""Estimates that know where the truth may lie: Student's t for means, draws for all else."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lnpjax._base.intervals import jackknife_error, student_t

NUM_DRAWS = 2000
Key = TypeVar("Key", bound=Hashable)
Groups: TypeAlias = Mapping[str, Float[np.ndarray, " n"]]
"""A number of each run, such as of every seed, by the name of the group of runs."""


class Bounds(NamedTuple):
    """The two ends of an interval or of a region; infinite where it is open."""

    low: float = -np.inf
    high: float = np.inf

    def __str__(self) -> str:
        """Such as "0.35 to 0.65", "above 0" or "below 0.5"."""
        if self.low == -np.inf:
            return f"below {self.high:.4g}"
        return (
            f"above {self.low:.4g}" if self.high == np.inf else f"{self.low:.4g} to {self.high:.4g}"
        )


@dataclasses.dataclass(frozen=True)
class Uncertain:
    """A number that was estimated, and how far off it may be.

    Attributes:
        value: the estimate.
        error: its standard error; the interval then is Student's.
        df: degrees of freedom of the error.
        draws: where the truth may lie, as a sample; where there is one, it makes the interval.

    Example:
        >>> Uncertain(2.0, 0.1, 19).interval(0.95)
        Bounds(low=1.79..., high=2.20...)
    """

    value: float
    error: float = np.nan
    df: float = np.inf
    draws: Float[np.ndarray, " draws"] | None = dataclasses.field(default=None, compare=False)

    def interval(self, coverage: float) -> Bounds:
        """Return the interval that holds the truth with this probability; NaN if unknown."""
        if self.draws is None:
            reach = _t(coverage, float(self.df)) * self.error if self.df > 0 else np.nan
            return Bounds(float(self.value - reach), float(self.value + reach))
        if not np.all(np.isfinite(self.draws)):
            return Bounds(np.nan, np.nan)
        low, high = np.quantile(self.draws, [(1 - coverage) / 2, (1 + coverage) / 2])
        return Bounds(float(low), float(high))


UNKNOWN = Uncertain(np.nan)


def mean_of(sample: Sequence[float] | Float[np.ndarray, " n"]) -> Uncertain:
    """Return the mean of independent values, as of members, seeds, or pairs.

    Example:
        >>> mean_of([1.0, 3.0]).error
        1.0
    """
    values = np.asarray(sample, float)
    n = len(values)
    if n < 2:
        return Uncertain(float(values.mean()) if n else np.nan)
    return Uncertain(float(values.mean()), float(standard_error(values)), n - 1)


def lowest_point(losses: Sequence[float] | Float[np.ndarray, " n"]) -> int:
    """Return where the loss is lowest; a loss that is not a number is not low.

    Example:
        >>> lowest_point([2.0, 1.0, np.nan])
        1
    """
    return int(np.argmin(np.nan_to_num(losses, nan=np.inf)))


def standard_error(values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, ...]:
    """Return the standard error of the mean over the first axis.

    Example:
        >>> float(standard_error(np.array([1.0, 3.0])))
        1.0
    """
    return np.std(values, axis=0, ddof=1) / len(values) ** 0.5


def sum_of(estimates: Sequence[Uncertain]) -> Uncertain:
    """Return the sum of independent estimates, with Welch's degrees of freedom.

    Example:
        >>> sum_of([Uncertain(1.0, 3.0, 2), Uncertain(2.0, 4.0, 2)]).error
        5.0
    """
    squares = np.array([estimate.error**2 for estimate in estimates])
    df = np.array([estimate.df for estimate in estimates])
    total = squares.sum()
    effective = total**2 / np.sum(squares**2 / df) if total > 0 else df.sum()
    value = sum(estimate.value for estimate in estimates)
    return Uncertain(float(value), float(total**0.5), float(effective))


def mean_of_means(groups: Sequence[Float[np.ndarray, " n"]]) -> Uncertain:
    """Return the mean of the means of independent groups, with Welch's degrees of freedom.

    Example:
        >>> mean_of_means([np.array([1.0, 3.0]), np.array([2.0, 2.0])]).error
        0.5
    """
    total = sum_of([mean_of(group) for group in groups])
    return Uncertain(total.value / len(groups), total.error / len(groups), total.df)


def without_one(count: int) -> list[Int[np.ndarray, " chosen"]]:
    """Return the numbers of all members, then of all without one each.

    Example:
        >>> [members.tolist() for members in without_one(2)]
        [[0, 1], [1], [0]]
    """
    members = np.arange(count)
    return [members, *(np.delete(members, member) for member in members)]


def jackknife(values: Float[np.ndarray, " left_out"]) -> Uncertain:
    """Return a statistic with the error that its values without one member each give.

    Args:
        values: of all members, then of all without one each (`without_one`).

    Example:
        The mean of 1 and 3, whose standard error is 1:

        >>> jackknife(np.array([2.0, 3.0, 1.0])).error
        1.0
    """
    without = values[1:]
    return Uncertain(float(values[0]), float(jackknife_error(without)), len(without) - 1)


def jackknifed(count: int, statistic: Callable[[np.ndarray], float]) -> Uncertain:
    """Return a statistic of chosen members, with its jackknife error.

    For what is not a mean, such as a ratio or an exponent of means over the same members.

    Args:
        count: how many members there are.
        statistic: of an array of members' numbers.

    Example:
        >>> values = np.array([1.0, 3.0])
        >>> jackknifed(2, lambda members: float(values[members].mean())).value
        2.0
    """
    return jackknife(np.array([statistic(members) for members in without_one(count)]))


def pooled(estimates: Sequence[Uncertain]) -> list[Uncertain]:
    """Return estimates with the error that all of them show together, and its degrees of freedom.

    For independent estimates of one kind whose errors are alike, such as a logarithm at several
    sizes: with three seeds each error alone is known to a factor of two at best.

    Args:
        estimates: with errors; those without stay as they are.

    Example:
        >>> pooled([Uncertain(1.0, 0.3, 2), UNKNOWN, Uncertain(5.0, 0.4, 2)])[2].df
        4
    """
    known = [estimate for estimate in estimates if np.isfinite(estimate.error)]
    df = sum(estimate.df for estimate in known)
    error = (sum(estimate.df * estimate.error**2 for estimate in known) / max(df, 1)) ** 0.5
    return [
        Uncertain(estimate.value, float(error), df) if np.isfinite(estimate.error) else estimate
        for estimate in estimates
    ]


def scatter(groups: Mapping[Key, Float[np.ndarray, " n"]]) -> tuple[float, int]:
    """Return the standard deviation within groups, each about its mean, and its freedom.

    Example:
        >>> scatter({"a": np.array([1.0, 3.0]), "b": np.array([5.0])})
        (1.4142135623730951, 1)
    """
    repeated = [values for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(float(np.sum((values - values.mean()) ** 2)) for values in repeated)
    return ((squares / freedom) ** 0.5 if freedom else np.nan), freedom


def contrast(
    groups: Mapping[Key, Float[np.ndarray, " n"]], weights: Mapping[Key, float]
) -> Uncertain:
    """Return a weighted sum of the means of groups, with the error that their scatter shows.

    Args:
        groups: independent values, such as of seeds; all have one scatter.
        weights: of the means; groups without one tell of the scatter alone.

    Example:
        >>> groups = {"a": np.array([1.0, 3.0]), "b": np.array([5.0])}
        >>> contrast(groups, {"a": -1.0, "b": 1.0}).value
        3.0
    """
    deviation, freedom = scatter(groups)
    value = sum(weight * groups[name].mean() for name, weight in weights.items())
    variance = sum(weight**2 / len(groups[name]) for name, weight in weights.items())
    return Uncertain(float(value), deviation * variance**0.5, freedom)


def slope_of(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Uncertain:
    """Return the slope of y on x by least squares, with the error that the scatter about it shows.

    Example:
        >>> slope_of(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.5, 2.0])).df
        1
    """
    if len(x) < 3:
        return UNKNOWN
    centred = x - np.mean(x)
    total = np.sum(centred**2)
    slope = float(np.sum(centred * y) / total)
    rest = y - np.mean(y) - slope * centred
    df = len(x) - 2
    return Uncertain(slope, float((np.sum(rest**2) / df / total) ** 0.5), df)


class MeanDraws(NamedTuple):
    """Means of groups, and where the true ones may lie: the first row is what was measured."""

    rows: Float[np.ndarray, "draws groups"]
    errors: Float[np.ndarray, " groups"]

    def estimate(self, statistic: Float[np.ndarray, " draws"]) -> Uncertain:
        """Return the estimate of a statistic of the means, given for every row."""
        return Uncertain(float(statistic[0]), draws=statistic[1:])

    def stretched(self, factor: float) -> MeanDraws:
        """Return the same means with all errors multiplied, as where a fit shows them too small."""
        first = self.rows[:1]
        return MeanDraws(first + factor * (self.rows - first), factor * self.errors)


def draws_of_log_means(
    groups: Sequence[Float[np.ndarray, " n"]], *, stretch: float = 1.0, seed: int = 0
) -> MeanDraws:
    """Draw the logarithms of the means of independent groups of positive values.

    Each is spread by Student's t with the degrees of freedom of its group, so that groups of few
    are not thought better known than they are, which redrawing their members would do.

    Args:
        groups: of two or more values.
        stretch: factor of all errors, as where a fit shows them to be too small.
        seed: of the draws.

    Returns:
        The `MeanDraws`; NaN where a mean is not positive.
    """
    means = np.array([np.mean(group) for group in groups])
    errors = np.array([standard_error(np.asarray(group)) for group in groups])
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithms, relative = np.log(means), stretch * errors / np.abs(means)
    return _spread(logarithms, relative, groups, seed)


def draws_of_means(groups: Sequence[Float[np.ndarray, " n"]], *, seed: int = 0) -> MeanDraws:
    """Draw the means of independent groups that have one scatter, which all show together.

    Args:
        groups: of which some have two or more values.
        seed: of the draws.

    Returns:
        The `MeanDraws`.

    Example:
        >>> draws_of_means([np.array([1.0, 3.0]), np.array([5.0, 5.0])]).rows[0].tolist()
        [2.0, 5.0]
    """
    deviation, freedom = scatter(dict(enumerate(groups)))
    means = np.array([group.mean() for group in groups])
    errors = deviation / np.sqrt([len(group) for group in groups])
    spread = np.random.default_rng(seed).standard_t(freedom, (NUM_DRAWS, len(groups)))
    return MeanDraws(np.vstack([means, means + errors * spread]), errors)


def draws_of_log_ratios(
    above: Sequence[Float[np.ndarray, " n"]],
    below: Sequence[Float[np.ndarray, " n"]],
    *,
    seed: int = 0,
) -> MeanDraws:
    """Draw the logarithms of ratios of means, of members with two values each, as `trace_ratio`.

    The mean of members' own ratios is larger where denominators scatter (Jensen's inequality): by a
    fifth where that is 45 %, as the trace of networks of 8 units. Errors are those of the linear
    terms, which know that both values are of the same member.

    Args:
        above: numerators of the members of each group, positive in the mean.
        below: their denominators, likewise.
        seed: of the draws.

    Returns:
        The `MeanDraws`; NaN where a mean is not positive.

    Example:
        >>> ratios = draws_of_log_ratios([np.array([2.0, 4.0])], [np.array([1.0, 2.0])])
        >>> print(np.exp(ratios.rows[0]).round(6), ratios.errors)
        [2.] [0.]
    """
    pairs = [(np.asarray(top), np.asarray(under)) for top, under in zip(above, below, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithms = np.log([top.mean() / under.mean() for top, under in pairs])
        terms = [top / top.mean() - under / under.mean() for top, under in pairs]
    return _spread(logarithms, np.array([standard_error(term) for term in terms]), above, seed)


def _spread(
    logarithms: Float[np.ndarray, " groups"],
    errors: Float[np.ndarray, " groups"],
    groups: Sequence[Float[np.ndarray, " n"]],
    seed: int,
) -> MeanDraws:
    """Draw about logarithms by Student's t, with the degrees of freedom of each group."""
    counts = np.array([len(group) for group in groups])
    spread = np.random.default_rng(seed).standard_t(counts - 1, (NUM_DRAWS, len(groups)))
    return MeanDraws(np.vstack([logarithms, logarithms + errors * spread]), errors)


@functools.cache
def _t(coverage: float, df: float) -> float:
    return float(student_t(coverage, jnp.asarray(df)))
