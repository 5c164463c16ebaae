"""What the figures of all experiments on spectral shells share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import import_extra
from lnpjax.experiments._harness.claims import COVERAGE
from lnpjax.experiments._harness.estimates import mean_of
from lnpjax.experiments.spectral_shells.flows import REGIMES
from lnpjax.plotting._style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_OF_REGIME = dict(zip(REGIMES, COLOURS, strict=False))
TIME = r"time $\times$ largest eigenvalue at the start"
"""The label of an axis of times of gradient flow."""
COVERAGE_TEXT = f"{COVERAGE:.0%} intervals over seeds".replace("%", " %")


def means_with_bars(
    ax: Axes, x: Sequence[float], groups: Sequence[Float[np.ndarray, " seeds"]], **style: Any
) -> None:
    """Draw means of groups over seeds with their intervals.

    Args:
        ax: where.
        x: one position for each group.
        groups: values.
        style: of the line.
    """
    means = [mean_of(group) for group in groups]
    low, high = np.array([mean.interval(COVERAGE) for mean in means]).T
    ax.plot(x, [mean.value for mean in means], **style)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def scale_ticks(ax: Axes, scales: Sequence[float]) -> None:
    """Put ticks at the scales that were measured, as plain numbers."""
    ticker = import_extra("matplotlib.ticker", extra="run", purpose="drawing figures")
    ax.set_xticks(list(scales), [f"{scale:g}" for scale in scales])
    ax.xaxis.set_minor_locator(ticker.NullLocator())  # those of the other axis stay


def log_mean(values: Float[np.ndarray, "seeds n"]) -> Float[np.ndarray, " n"]:
    """Return the geometric mean over seeds of what is positive; NaN where nothing is.

    Example:
        >>> log_mean(np.array([[1.0, 0.0], [4.0, 0.0]]))
        array([ 2., nan])
    """
    some = np.isfinite(values) & (values > 0)
    logarithms = np.log(np.where(some, values, 1))
    counts = some.sum(axis=0)
    means = np.exp(logarithms.sum(axis=0) / np.maximum(counts, 1))
    return np.where(counts > 0, means, np.nan)
