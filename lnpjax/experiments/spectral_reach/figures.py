"""What the figures of the experiments of Spectral Reach share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import import_extra
from lnpjax.experiments.spectral_reach.runs import Runs
from lnpjax.plotting._runs import STEPS_SHOWN_SINGLY
from lnpjax.plotting._style import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPUTE = r"compute $6ND$ (FLOPs)"
PARAMETERS = r"number of parameters $N$"
NAMES = {
    "stories": "TinyStories, next token",
    "bytes": "TinyStories, next byte",
    "fashion": "Fashion-MNIST, next pixel",
    "digits": "digits, next pixel",
    "simplestories": "SimpleStories, next token",
    "cifar5m": "CIFAR-5M, next pixel",
}
SYMBOLS = {
    "chi_loss": r"$\chi_{\mathrm{loss}}$",
    "chi_net": r"$\chi_{\mathrm{net}}$",
    "chi_pos": r"$\chi_{\mathrm{pos}}$",
    "product": r"$\chi_{\mathrm{net}} \cdot \chi_{\mathrm{pos}}$",
}
TITLES = {
    "chi_loss": "Loss magnitude",
    "chi_net": "Network magnitude",
    "chi_pos": "Spectral position",
    "product": "Network magnitude times position",
}
EMA_CAPTION = "exponential moving average (factor 0.1), mean over seeds"
WINDOW_CAPTION = "the first 40 measured steps one by one, then means of windows; mean over seeds"


def draw_component(ax: Axes, sizes: Sequence[Runs], name: str) -> None:
    """Draw a component of all sizes over compute, as in C.1; what is not positive is left out.

    Args:
        ax: where.
        sizes: of one data set.
        name: as for `Runs.component`.
    """
    for size, colour in zip(sizes, palette(len(sizes)), strict=True):
        steps, values = size.by_window(name, singly=STEPS_SHOWN_SINGLY)
        means = values.mean(axis=0)
        shown = means > 0
        x = size.compute(steps + 1)
        ax.plot(x[shown], means[shown], color=colour, label=f"{size.name} parameters")


def draw_loss(
    ax: Axes, size: Runs, steps: Any, losses: Float[np.ndarray, "seeds n"], **style: Any
) -> None:
    """Draw the mean loss of a size over compute."""
    ax.plot(size.compute(steps), losses.mean(axis=0), label=f"{size.name} parameters", **style)


def size_ticks(ax: Axes, sizes: Sequence[Runs]) -> None:
    """Put ticks at the numbers of parameters of the sizes, by their names."""
    ticker = import_extra("matplotlib.ticker", extra="run", purpose="drawing figures")
    ax.set_xticks([size.num_parameters for size in sizes], [size.name for size in sizes])
    ax.xaxis.set_minor_locator(ticker.NullLocator())
