"""Power laws of ensemble means in a scale: straight ones, and ones that bend where a regime ends.

Uncertainties are bootstraps over the members of the ensembles: every ensemble is drawn again from
its own members, with replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lnpjax._base.checks import require

NUM_BOOTSTRAPS = 1000
NUM_BENDS = 121
LEVELS = (0.025, 0.975)


class Interval(NamedTuple):
    """A fitted number with the central 95 % of its bootstrap."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As in "0.71 (0.65 to 0.78)"."""
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


UNKNOWN = Interval(np.nan, np.nan, np.nan)


class BentPowerLaw(NamedTuple):
    """Two power laws that meet; made by `bent_power_law`.

    Attributes:
        bend: the scale where they meet.
        below: exponent below it.
        above: exponent above it.
        gain: by which factor the bend reduces the squared residuals of a single power law.
        fitted: the fit at the given scales.
    """

    bend: Interval
    below: Interval
    above: Interval
    gain: float
    fitted: Float[np.ndarray, " scales"]


def straight_power_law(
    scales: Float[np.ndarray, " scales"],
    values: Sequence[Float[np.ndarray, " members"]],
    *,
    seed: int = 0,
) -> Interval:
    """The exponent of ``mean(values) ~ scale^exponent``, by least squares of the logarithms.

    Args:
        scales: such as widths.
        values: of every member at every scale; scales whose mean is not positive are left out.
        seed: of the bootstrap.

    Returns:
        The exponent; NaN where fewer than two scales are left.

    Example:
        >>> scales = np.array([1.0, 2.0, 4.0])
        >>> str(straight_power_law(scales, list(scales[:, None] ** -2)))
        '-2 (-2 to -2)'
    """
    usable, y = _log_means(values, seed)
    x = np.log(scales)[usable]
    if len(x) < 2:
        return UNKNOWN
    slope = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    return _interval(y @ slope)


def bent_power_law(
    scales: Float[np.ndarray, " scales"],
    values: Sequence[Float[np.ndarray, " members"]],
    *,
    seed: int = 0,
) -> BentPowerLaw:
    """Fit two power laws that meet, by least squares of logarithms over all places of the bend.

    The bend is looked for between the second scale and the last but one, so that two ensembles at
    least are on each side.

    Args:
        scales: such as widths, ascending.
        values: of every member at every scale; scales whose mean is not positive are left out.
        seed: of the bootstrap.

    Returns:
        The `BentPowerLaw`; NaN where fewer than four scales are left.

    Raises:
        ValueError: if the scales do not ascend.

    Example:
        >>> scales = 2.0 ** np.arange(8)
        >>> fit = bent_power_law(scales, list(np.minimum(scales, 8.0)[:, None]))
        >>> print(f"{fit.below.value:.3f} up to {fit.bend.value:.3f}")
        1.000 up to 8.000
    """
    require(
        bool(np.all(np.diff(scales) > 0)),
        "scales",
        expected="ascending scales",
        got=np.asarray(scales).tolist(),
    )
    fitted = np.full(len(scales), np.nan)
    usable, y = _log_means(values, seed)
    x = np.log(scales)[usable]
    if len(x) < 4:
        return BentPowerLaw(UNKNOWN, UNKNOWN, UNKNOWN, np.nan, fitted)
    # The scales themselves are among the candidates.
    bends = np.unique(np.concatenate([np.linspace(x[1], x[-2], NUM_BENDS), x[1:-1]]))
    designs = np.stack(
        [
            np.stack([np.ones_like(x), np.minimum(x - bend, 0), np.maximum(x - bend, 0)], axis=1)
            for bend in bends
        ]
    )
    coefficients = np.einsum("tcs,bs->tbc", np.linalg.pinv(designs), y)
    residuals = y - np.einsum("tsc,tbc->tbs", designs, coefficients)
    squares = np.sum(residuals**2, axis=-1)
    best = np.argmin(squares, axis=0)
    chosen = coefficients[best, np.arange(len(y))]
    line = np.stack([np.ones_like(x), x], axis=1)
    straight = np.sum((y[0] - line @ np.linalg.lstsq(line, y[0], rcond=None)[0]) ** 2)
    floor = np.finfo(float).eps
    fitted[usable] = np.exp(designs[best[0]] @ chosen[0])
    return BentPowerLaw(
        _interval(np.exp(bends[best])),
        _interval(chosen[:, 1]),
        _interval(chosen[:, 2]),
        float(straight / max(squares[best[0], 0], floor)),
        fitted,
    )


def _log_means(
    values: Sequence[Float[np.ndarray, " members"]], seed: int
) -> tuple[Bool[np.ndarray, " scales"], Float[np.ndarray, "draws usable"]]:
    """Which scales have a positive mean; its logarithms: as measured, then drawn that often."""
    rng = np.random.default_rng(seed)
    means = []
    for members in values:
        draws = rng.integers(0, len(members), (NUM_BOOTSTRAPS, len(members)))
        members = np.asarray(members, float)
        means.append(np.append(members.mean(), members[draws].mean(axis=1)))
    columns = np.stack(means, axis=1)
    usable = columns[0] > 0
    columns = columns[:, usable]
    # A redrawn mean without a logarithm is one draw less.
    return usable, np.log(columns[np.all(columns > 0, axis=1)])


def _interval(draws: Float[np.ndarray, " draws"]) -> Interval:
    return Interval(float(draws[0]), *(float(level) for level in np.quantile(draws, LEVELS)))
