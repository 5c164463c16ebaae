"""Rank correlations over a handful of runs, and how often chance does as well.

*Spectral Lens* (section 3) ranks runs by an early exponent and by their later cost. A sweep has
four to six batch sizes, so that a correlation near one often arises by chance: with four runs, one
order in 24 is perfect, and one in 12 is perfect or perfectly reversed. Every correlation here comes
with the number of its runs and with the share of all orders that are at least as extreme.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require

LEAST_RUNS = 3
ALL_ORDERS = 50_000  # of up to 8 runs; of more orders, a sample stands for all
SAMPLED_ORDERS = 20_000


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """A Spearman correlation, and how often chance does as well.

    Attributes:
        rho: the correlation, or a mean of several; NaN with fewer than three runs, or where all
            runs of a family are tied.
        p_value: share of the orders of runs within their families whose rho is at least as far
            from what is expected by chance, on either side (two-sided).
        num_runs: that it is made of.
        exact: whether all orders were counted; else a fixed random sample of them.

    Example:
        >>> correlation = spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
        >>> round(correlation.rho, 6), correlation.num_runs, correlation.exact
        (0.5, 3, True)
    """

    rho: float
    p_value: float
    num_runs: int
    exact: bool


_UNDEFINED = RankCorrelation(math.nan, math.nan, 0, True)


def spearman(x: Float[np.ndarray, " run"], y: Float[np.ndarray, " run"]) -> RankCorrelation:
    """Compute Spearman's rank correlation over runs, with an exact permutation p-value.

    Args:
        x: one number per run, such as an early tail exponent; NaN leaves the run out.
        y: another number per run, such as tokens to the target; NaN leaves the run out.

    Returns:
        The correlation; ties share their mean rank.

    Raises:
        ValueError: if they are not vectors of one length.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 30.0, 40.0]))
        RankCorrelation(rho=1.0, p_value=0.08333333333333333, num_runs=4, exact=True)
    """
    return _with_chance([_usable(x, y)], _mean_rho)


class Normalized(NamedTuple):
    """Values on the scale of their family.

    Attributes:
        values: 0 for the smallest, 1 for the largest; NaN where there was none.
        degenerate: whether all values were equal, so that there is no scale, and all are NaN.
    """

    values: Float[np.ndarray, " run"]
    degenerate: bool


def min_max_normalize(values: Float[np.ndarray, " run"]) -> Normalized:
    """Put the values of one family on a scale from 0 to 1 (*Spectral Lens*, section 3).

    With few runs, this says little beyond the order: the extremes are always 0 and 1.

    Args:
        values: one per run of the family; NaN for none.

    Returns:
        The normalised values, and whether the family was degenerate.

    Example:
        >>> min_max_normalize(np.array([3.0, 1.0, 2.0, np.nan]))
        Normalized(values=array([1. , 0. , 0.5, nan]), degenerate=False)
        >>> min_max_normalize(np.array([2.0, 2.0]))
        Normalized(values=array([nan, nan]), degenerate=True)
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size or np.ptp(finite) == 0:
        return Normalized(np.full(values.shape, math.nan), True)
    return Normalized((values - finite.min()) / np.ptp(finite), False)


class FamilyCorrelations(NamedTuple):
    """How well a statistic orders runs: `within` each family, on average, and all together.

    Attributes:
        within: one correlation per family.
        mean: their mean, over the families where there is one.
        pooled: of all runs, on the scale of their families.
        num_families: that have a correlation.

    Example:
        >>> orders = [np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])]
        >>> correlations = family_correlations(orders, [np.array([1.0, 2.0, 3.0])] * 2)
        >>> correlations.num_families, round(correlations.mean.rho, 6)
        (2, 1.0)
    """

    within: tuple[RankCorrelation, ...]
    mean: RankCorrelation
    pooled: RankCorrelation
    num_families: int


def family_correlations(
    exponents: Sequence[Float[np.ndarray, " run"]],
    efficiencies: Sequence[Float[np.ndarray, " run"]],
) -> FamilyCorrelations:
    """Correlate within families, on average, and pooled (*Spectral Lens*, figure 2).

    Pooled are the min-max normalised exponents and the efficiencies relative to each family's best
    (eq. 5). That scaling alone aligns families, so that chance, too, gives other than zero on
    average: the p-value counts orders within families, from their mean.

    Args:
        exponents: the early exponents of the runs of each family.
        efficiencies: their tokens to the target, relative to the best of the family.

    Returns:
        The correlations. Families with fewer than three usable runs, or tied throughout, have NaN
        and take no part.

    Raises:
        ValueError: if the families do not match.

    Example:
        >>> exponents, efficiencies = np.array([1.0, 1.2, 1.4]), np.array([1.0, 1.5, 2.0])
        >>> round(family_correlations([exponents], [efficiencies]).within[0].rho, 6)
        1.0
    """
    same = len(exponents) == len(efficiencies) > 0
    got = f"{len(exponents)} and {len(efficiencies)}"
    require(same, "efficiencies", expected="one per family of exponents", got=got)
    pairs = [_usable(x, y) for x, y in zip(exponents, efficiencies, strict=True)]
    within = tuple(_with_chance([pair], _mean_rho) for pair in pairs)
    used = [pair for pair, one in zip(pairs, within, strict=True) if not math.isnan(one.rho)]
    if not used:
        return FamilyCorrelations(within, _UNDEFINED, _UNDEFINED, 0)
    normalized = [(min_max_normalize(x).values, y) for x, y in used]
    return FamilyCorrelations(
        within, _with_chance(used, _mean_rho), _with_chance(normalized, _pooled_rho), len(used)
    )


_Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
_Statistic: TypeAlias = Callable[[list[_Pair], list[np.ndarray]], np.ndarray]


def _usable(x: np.ndarray, y: np.ndarray) -> _Pair:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    same = x.ndim == 1 and x.shape == y.shape
    shapes = f"shapes {x.shape} and {y.shape}"
    require(same, "y", expected="two vectors of one length", got=shapes)
    usable = np.isfinite(x) & np.isfinite(y)
    return x[usable], y[usable]


def _with_chance(pairs: list[_Pair], statistic: _Statistic) -> RankCorrelation:
    """Compute a statistic of families, and its p-value over all orders of the runs within each."""
    count = sum(len(x) for x, _ in pairs)
    if any(len(x) < LEAST_RUNS or np.ptp(x) == 0 or np.ptp(y) == 0 for x, y in pairs):
        return dataclasses.replace(_UNDEFINED, num_runs=count)
    orders, exact = _orders([len(x) for x, _ in pairs])
    values = statistic(pairs, orders)  # the first order is the one that was observed
    distances = np.abs(values - np.mean(values))
    # Equal correlations count as equal, whatever their last digits were rounded to.
    p_value = float(np.mean(distances >= distances[0] - 1e-9))
    return RankCorrelation(float(values[0]), p_value, count, exact)


def _orders(sizes: list[int]) -> tuple[list[np.ndarray], bool]:
    """Return orders of the runs in each family, `(num_orders, size)`; the observed one is first."""
    if math.prod(math.factorial(size) for size in sizes) <= ALL_ORDERS:
        product = itertools.product(*(itertools.permutations(range(size)) for size in sizes))
        return [np.array(family) for family in zip(*product, strict=True)], True
    rng = np.random.default_rng(0)
    sampled = []
    for size in sizes:
        order = rng.permuted(np.tile(np.arange(size), (SAMPLED_ORDERS + 1, 1)), axis=1)
        order[0] = np.arange(size)
        sampled.append(order)
    return sampled, False


def _mean_rho(pairs: list[_Pair], orders: list[np.ndarray]) -> np.ndarray:
    of_families = [_rho(x, y, order) for (x, y), order in zip(pairs, orders, strict=True)]
    return np.mean(of_families, axis=0)


def _pooled_rho(pairs: list[_Pair], orders: list[np.ndarray]) -> np.ndarray:
    starts = np.cumsum([0, *(len(x) for x, _ in pairs[:-1])])
    order = np.concatenate([o + start for o, start in zip(orders, starts, strict=True)], axis=1)
    x, y = (np.concatenate(values) for values in zip(*pairs, strict=True))
    return _rho(x, y, order)


def _rho(x: np.ndarray, y: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Compute Spearman's rho of x with y in each order, `(num_orders,)`: Pearson's of the ranks."""
    ranks = [_ranks(values) for values in (x, y)]
    x_unit, y_unit = ((r - r.mean()) / np.linalg.norm(r - r.mean()) for r in ranks)
    return y_unit[order] @ x_unit


def _ranks(values: np.ndarray) -> np.ndarray:
    """Count from 1 in ascending order; equal values share the mean of their places.

    To import `scipy.stats` for it is a third of the time that the command line takes to start.
    """
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(sizes) - (sizes - 1) / 2)[group]
