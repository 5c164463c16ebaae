"""How figures of experiments are written, small enough to be kept, and their logarithmic axes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax._base.checks import import_extra

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DPI = 100


def write_picture(figure: Figure, path: Path) -> None:
    """Write a figure without loss: bands have many shades, which a palette of few would merge.

    Args:
        figure: finished.
        path: of the PNG.
    """
    figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})


def plain_ticks(*axes: Axis) -> None:
    """Label about six round numbers on logarithmic axes, which often span less than a decade."""
    ticker = import_extra("matplotlib.ticker", extra="run", purpose="drawing figures")
    for axis in axes:
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(ticker.FixedLocator(round_numbers(low, high)))
        axis.set_major_formatter(plain_number)
        axis.set_minor_locator(ticker.NullLocator())


def plain_number(value: float, _: object = None) -> str:
    """Return a number without an offset at the end of its axis.

    Example:
        >>> plain_number(0.35), plain_number(1.5e6)
        ('0.35', '1.5e6')
    """
    return f"{value:.4g}".replace("e+0", "e")


def round_numbers(low: float, high: float) -> list[float]:
    """Return round numbers from low to high, four at least, evenly spread on a logarithmic axis.

    Example:
        >>> round_numbers(0.7, 30.0)
        [1.0, 2.0, 5.0, 10.0, 20.0]
        >>> round_numbers(0.8, 1.3)
        [0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    """
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    steps = high - low
    for leading in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = np.multiply.outer(decades, leading).ravel()
        within = ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
        if len(within) >= 5:
            return within.tolist()
    step = 10.0 ** np.floor(np.log10(steps / 3))
    step *= max((factor for factor in (1, 2, 5) if steps / (factor * step) >= 4), default=1)
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [float(f"{step * (first + k):.10g}") for k in range(count)]
