"""Power laws of means in a scale: straight, with a limit, with a bend, and with a crossover.

All take the logarithms of means with their draws (`estimates.draws_of_log_means`), so that what is
fitted is known with its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    MeanDraws,
    Uncertain,
    draws_of_log_means,
)

NUM_BENDS = 121
FURTHEST = 64.0  # beyond the scales that a crossover is looked for
MOVES = np.linspace(-1.0, 2.0, 121)  # exponents of a bend that moves
EXPONENTS = np.arange(0.02, 2.5, 0.01)
Scales = Float[np.ndarray, " scales"]


def exponent(scales: Scales, means: MeanDraws) -> Uncertain:
    """Return the exponent of ``mean ~ scale^exponent``, by least squares of the logarithms.

    Args:
        scales: such as widths, two or more.
        means: at these.

    Returns:
        The exponent; unknown with fewer than two scales.

    Example:
        >>> scales = np.array([1.0, 2.0, 4.0])
        >>> means = draws_of_log_means([np.full(3, scale**-2) for scale in scales])
        >>> round(exponent(scales, means).value, 6)
        -2.0
    """
    return means.estimate(log_slope(scales, means.rows)) if len(scales) > 1 else UNKNOWN


def log_slope(
    scales: Scales, logarithms: Float[np.ndarray, "*draws scales"]
) -> Float[np.ndarray, "*draws"]:
    """Return the slope of logarithms on those of the scales, by least squares; NaN for one scale.

    Example:
        >>> float(log_slope(np.array([1.0, 10.0]), np.log([1.0, 100.0])).round(6))
        2.0
    """
    if len(scales) < 2:
        return np.full(np.shape(logarithms)[:-1], np.nan)
    x = np.log(scales)
    return logarithms @ ((x - x.mean()) / np.sum((x - x.mean()) ** 2))


def limited_exponent(
    scales: Scales, values: Sequence[Float[np.ndarray, " members"]], *, seed: int = 0
) -> Uncertain:
    """Return the exponent a of ``mean = limit + amplitude * scale^-a``, all three fitted jointly.

    By weighted least squares over a grid of exponents, with a limit that is not negative. To take
    the last mean for the limit, or none, is biased: 0.5 is then read as 0.67, or as 0.1. Where the
    means scatter about the law by more than their errors, these are stretched by as much.

    Args:
        scales: such as sizes of a training set.
        values: of every member at every scale, positive.
        seed: of the draws.

    Returns:
        The exponent; unknown with fewer than four scales.

    Example:
        >>> scales = 2.0 ** np.arange(8)
        >>> values = [np.array([0.99, 1.01]) * (0.4 + scale**-0.5) for scale in scales]
        >>> round(limited_exponent(scales, values).value, 3)
        0.5
    """
    if len(scales) < 4:
        return UNKNOWN
    means = draws_of_log_means(values, seed=seed)
    # Means far better known than the law is true must not decide alone.
    errors = np.exp(means.rows[0]) * np.maximum(means.errors, 1e-3)
    squares = _best_limited(scales, np.exp(means.rows[:1]), errors)[2]
    stretch = max(1.0, float(squares[0] / (len(scales) - 3)) ** 0.5)
    means = draws_of_log_means(values, stretch=stretch, seed=seed)
    return means.estimate(_best_limited(scales, np.exp(means.rows), errors)[0])


class LimitedPowerLaw(NamedTuple):
    """``limit + amplitude * scale^-exponent``; made by `limited_power_law`."""

    limit: Float[np.ndarray, "*draws"]
    exponent: Float[np.ndarray, "*draws"]


def limited_power_law(
    scales: Scales, means: Float[np.ndarray, "*draws scales"], errors: Scales
) -> LimitedPowerLaw:
    """Fit ``mean = limit + amplitude * scale^-exponent``, as `limited_exponent` does.

    Args:
        scales: such as steps of training, four or more.
        means: at these, of one draw or several.
        errors: of the means, up to a common factor.

    Returns:
        The limit, which is not negative, and the exponent; NaN where a mean is not a number.

    Example:
        >>> scales = 2.0 ** np.arange(8)
        >>> law = limited_power_law(scales, 0.4 + scales**-0.5, np.ones(8))
        >>> print(f"{law.limit:.2f} {law.exponent:.2f}")
        0.40 0.50
    """
    require(len(scales) >= 4, "scales", expected="four or more", got=len(scales))
    rows = np.reshape(means, (-1, len(scales)))
    known = np.all(np.isfinite(rows), axis=1)
    exponents, limits, _ = _best_limited(scales, np.where(known[:, None], rows, 0), errors)
    shape = np.shape(means)[:-1]
    return LimitedPowerLaw(
        np.where(known, limits, np.nan).reshape(shape)[()],
        np.where(known, exponents, np.nan).reshape(shape)[()],
    )


def _best_limited(
    scales: Scales, means: Float[np.ndarray, "draws scales"], errors: Scales
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """The best exponent of each draw, its limit, and its weighted sum of squares."""
    y = means / errors
    powers = scales ** -EXPONENTS[:, None] / errors  # (exponents, scales)
    ones = np.broadcast_to(1 / errors, powers.shape)
    # An orthonormal basis of each design, and the row that gives the limit.
    designs = np.stack([ones, powers], axis=-1)
    bases, _ = np.linalg.qr(designs)
    explained = np.sum(np.einsum("esk,ds->dek", bases, y, optimize=True) ** 2, axis=-1)
    limits = y @ np.linalg.pinv(designs)[:, 0].T
    alone = powers / np.linalg.norm(powers, axis=1, keepdims=True)
    explained = np.where(limits >= 0, explained, (y @ alone.T) ** 2)
    best = np.argmax(explained, axis=1)
    draws = np.arange(len(y))
    rest = np.sum(y**2, axis=1) - explained[draws, best]
    return EXPONENTS[best], np.maximum(limits[draws, best], 0), rest


class Crossover(NamedTuple):
    """A constant that crosses over into an inverse proportion; made by `crossover`.

    Attributes:
        scale: where the mean has fallen to a half of the constant.
        plateau: the constant.
        fitted: the fit at the given scales.
    """

    scale: Uncertain
    plateau: float
    fitted: Scales


def crossover(scales: Scales, means: MeanDraws) -> Crossover:
    """Fit ``mean = plateau / (1 + scale / crossover)``, by weighted least squares of logarithms.

    It is what a constant makes over a sum of two terms, of which one grows in proportion to the
    scale. The crossover is looked for up to a factor of 64 beyond the scales. Where the means
    scatter about the law by more than their errors, these are stretched by as much.

    Args:
        scales: such as widths.
        means: at these.

    Returns:
        The `Crossover`; unknown with fewer than four scales, or where a mean is not positive.

    Example:
        >>> scales = 2.0 ** np.arange(8)
        >>> means = draws_of_log_means([np.full(2, 1 / (1 + scale / 20)) for scale in scales])
        >>> print(f"{crossover(scales, means).scale.value:.0f}")
        20
    """
    if len(scales) < 4 or not np.all(np.isfinite(means.rows)):
        return Crossover(UNKNOWN, np.nan, np.full(len(scales), np.nan))
    weights = np.maximum(means.errors, 1e-3) ** -2.0
    places, falls = _falls(scales)
    best, levels, rest = _best_fall(means.rows[:1], falls, weights)
    stretch = max(1.0, float(rest[0] / (len(scales) - 2)) ** 0.5)
    fitted = np.exp(levels[0] + falls[best[0]])
    means = means.stretched(stretch)
    chosen = places[_best_fall(means.rows, falls, weights)[0]]
    return Crossover(means.estimate(chosen), float(np.exp(levels[0])), fitted)


def _falls(scales: Scales) -> tuple[Float[np.ndarray, " places"], Float[np.ndarray, "places s"]]:
    """Where a crossover may be, and the logarithm of the law's fall for each."""
    low, high = np.log(scales[0] / FURTHEST), np.log(scales[-1] * FURTHEST)
    places = np.exp(np.arange(low, high, 0.01))
    return places, -np.log1p(scales / places[:, None])


def _best_fall(
    logarithms: Float[np.ndarray, "draws s"],
    falls: Float[np.ndarray, "places s"],
    weights: Float[np.ndarray, " s"],
) -> tuple[np.ndarray, Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """The best place of each draw, the logarithm of its plateau, and its sum of squares."""
    share = weights / weights.sum()
    y = logarithms - (logarithms @ share)[:, None]
    x = falls - (falls @ share)[:, None]
    squares = (x**2 @ weights) - 2 * (y * weights) @ x.T
    best = np.argmin(squares, axis=1)
    levels = logarithms @ share - (falls @ share)[best]
    return best, levels, squares[np.arange(len(y)), best] + y**2 @ weights


class BentPowerLaw(NamedTuple):
    """Two power laws that meet; made by `bent_power_law`.

    Attributes:
        bend: the scale where they meet.
        below: exponent below it.
        above: exponent above it.
        fitted: the fit at the given scales.
    """

    bend: Uncertain
    below: Uncertain
    above: Uncertain
    fitted: Scales


def bent_power_law(scales: Scales, means: MeanDraws, *, bend: float | None = None) -> BentPowerLaw:
    """Fit two power laws that meet, by least squares of logarithms over all places of the bend.

    The bend is looked for between the second scale and the last but one, so that two ensembles at
    least are on each side.

    Args:
        scales: such as widths, ascending.
        means: at these.
        bend: where it is known to be; two scales at least must lie on each side.

    Returns:
        The `BentPowerLaw`; unknown with fewer than four scales, or where a mean is not positive.

    Raises:
        ValueError: if the scales do not ascend.

    Example:
        >>> scales = 2.0 ** np.arange(8)
        >>> means = draws_of_log_means([np.full(2, min(scale, 8)) for scale in scales])
        >>> fit = bent_power_law(scales, means)
        >>> print(f"{fit.below.value:.3f} up to {fit.bend.value:.3f}")
        1.000 up to 8.000
    """
    require(
        bool(np.all(np.diff(scales) > 0)),
        "scales",
        expected="ascending scales",
        got=np.asarray(scales).tolist(),
    )
    if len(scales) < 4 or not np.all(np.isfinite(means.rows)):
        return BentPowerLaw(UNKNOWN, UNKNOWN, UNKNOWN, np.full(len(scales), np.nan))
    x, y = np.log(scales), means.rows
    # The scales themselves are among the candidates.
    bends = np.unique(np.concatenate([np.linspace(x[1], x[-2], NUM_BENDS), x[1:-1]]))
    if bend is not None:
        require(scales[1] <= bend <= scales[-2], "bend", expected="within the scales", got=bend)
        bends = np.log([bend])
    designs = _bent_designs(x, bends)
    best = np.argmax(_explained(designs, y), axis=1)
    chosen = np.einsum("dcs,ds->dc", np.linalg.pinv(designs)[best], y)
    return BentPowerLaw(
        means.estimate(np.exp(bends[best])),
        means.estimate(chosen[:, 1]),
        means.estimate(chosen[:, 2]),
        np.exp(designs[best[0]] @ chosen[0]),
    )


def moving_bend(
    scales: Scales, curves: Sequence[MeanDraws], sizes: Float[np.ndarray, " curves"]
) -> Uncertain:
    """Return the exponent of ``bend ~ size^exponent``, of curves that are bent power laws each.

    All curves are fitted at once, by least squares of logarithms: each has its own two exponents,
    and the bend of one determines those of the others. A curve without a bend says nothing, and
    where none has one the exponent may be anything.

    Args:
        scales: such as widths, ascending, the same for all curves.
        curves: means at these.
        sizes: of each curve, such as numbers of pixels; not all the same.

    Returns:
        The exponent, between -1 and 2: 0 where the bend stays, 1 where it moves with the size;
        unknown with fewer than four scales or two curves.

    Example:
        >>> scales, sizes = 2.0 ** np.arange(10), np.array([4.0, 16.0])
        >>> curves = [draws_of_log_means([np.full(2, min(scale, size)) for scale in scales])
        ...           for size in sizes]
        >>> print(f"{moving_bend(scales, curves, sizes).value:.1f}")
        1.0
    """
    known = all(np.all(np.isfinite(means.rows)) for means in curves)
    if len(scales) < 4 or len(curves) < 2 or not known:
        return UNKNOWN
    x, shifts = np.log(scales), np.log(sizes) - np.mean(np.log(sizes))
    bends = np.linspace(x[1], x[-2], NUM_BENDS)
    step = bends[1] - bends[0]
    profiles = [_explained(_bent_designs(x, bends), means.rows) for means in curves]
    # Beyond the scales there is no bend: what a straight line explains.
    straight = [_explained(_bent_designs(x, x[-1:]), means.rows) for means in curves]
    # Draws last, so that whole rows are picked.
    profiles = [np.hstack(pair).T.copy() for pair in zip(profiles, straight, strict=True)]
    totals = []
    for move in MOVES:
        total = np.zeros_like(profiles[0][:-1])
        for shift, profile in zip(shifts, profiles, strict=True):
            places = np.arange(NUM_BENDS) + round(float(move * shift / step))
            within = (places >= 0) & (places < NUM_BENDS)
            total += profile[np.where(within, places, NUM_BENDS)]
        totals.append(total.max(axis=0))
    return curves[0].estimate(MOVES[np.argmax(totals, axis=0)])


def _bent_designs(
    x: Float[np.ndarray, " scales"], bends: Float[np.ndarray, " bends"]
) -> Float[np.ndarray, "bends scales 3"]:
    shifted = x - bends[:, None]
    columns = [np.ones_like(shifted), np.minimum(shifted, 0), np.maximum(shifted, 0)]
    return np.stack(columns, axis=-1)


def _explained(
    designs: Float[np.ndarray, "bends scales 3"], y: Float[np.ndarray, "draws scales"]
) -> Float[np.ndarray, "draws bends"]:
    """The part of the sum of squares that each design explains of each draw."""
    bases, _ = np.linalg.qr(designs)
    # A bend at or beyond the last scale leaves a column of zeros.
    bases = bases * np.any(np.abs(designs) > 0, axis=1)[:, None, :]
    return np.sum(np.einsum("tsk,ds->dtk", bases, y, optimize=True) ** 2, axis=-1)
