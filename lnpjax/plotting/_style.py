"""What all figures share: colours, panels, legends, and how they are made and saved.

Figures are made without pyplot, so they need no display and leave no global state.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lnpjax._base.checks import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette, which all colour vision can tell apart; its yellow is too faint.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COVERAGE = 0.95  # of the intervals that bands show
COVERAGE_TEXT = f"{COVERAGE:.0%} intervals".replace("%", " %")


class Panel(NamedTuple):
    """One quantity of a figure, in words; a caption may have several lines."""

    column: str
    title: str
    caption: str
    label: str


def dress(ax: Axes, panel: Panel, *, xlabel: str, xscale: str = "log", yscale: str = "log") -> None:
    """Give a panel its title, caption, axis labels, and a light grid."""
    if ax.has_data():  # a logarithm of nothing cannot be drawn: points that are NaN count for none
        xscale = xscale if math.isfinite(ax.dataLim.minposx) else "linear"
        yscale = yscale if math.isfinite(ax.dataLim.minposy) else "linear"
    ax.set(xscale=xscale, yscale=yscale, xlabel=xlabel, ylabel=panel.label)
    pad = 18 + 10 * panel.caption.count("\n")
    ax.set_title(panel.title, loc="left", fontweight="bold", fontsize=11, pad=pad)
    caption: dict[str, Any] = {
        "fontsize": 7.5,
        "color": "0.35",
        "va": "bottom",
        "transform": ax.transAxes,
    }
    ax.text(0, 1.015, panel.caption, **caption)
    ax.grid(which="major", color="0.9", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)


def new_figure(figsize: tuple[float, float]) -> Figure:
    """Make an empty figure that makes room for its labels."""
    module = import_extra("matplotlib.figure", extra="run", purpose="drawing figures")
    return module.Figure(figsize=figsize, layout="constrained")


def add_legend(figure: Figure, num_curves: int) -> None:
    """Add one legend below all panels, with each label once."""
    handles, labels = [], []
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    columns_shown = min(max(num_curves, 1), 4)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns_shown, frameon=False)


def saved(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """Return the figure, and write it to a file if there is a path."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def palette(count: int) -> list[Any]:
    """Return colours for that many curves: distinct ones, or a scale where there are many."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    module = import_extra("matplotlib", extra="run", purpose="drawing figures")
    return list(module.colormaps["cividis"](np.linspace(0, 0.95, count)))
