"""The figure of curves at equal compute, in the arrangement of Spectral Reach (Fig. 8)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.figures import NAMES, PARAMETERS, SYMBOLS, size_ticks
from lnpjax.experiments.spectral_reach.isocompute.results import Plane, optimum, planes
from lnpjax.plotting._style import Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.isocompute.config import IsocomputeConfig


def draw(config: IsocomputeConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `isocompute.png`: test loss and chi_pos over the size at fixed budgets.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    found = planes(config, sweep)
    figure = new_figure((12.0, 0.5 + 4.5 * len(found)))
    rows = figure.subplots(len(found), 2, squeeze=False)
    for plane, (loss, position) in zip(found, rows, strict=True):
        title = f"Test loss at equal compute, {NAMES[plane.data]}"
        caption = "mean over seeds; dots: parabolas' lowest points, where they have one"
        _draw_curves(plane, "test_loss", loss)
        dress(loss, Panel("loss", title, caption, "loss (nats per token)"), xlabel=PARAMETERS)
        plain_ticks(loss.yaxis)
        symbol = SYMBOLS["chi_pos"]
        title = f"{symbol} at equal compute, {NAMES[plane.data]}"
        caption = "means over windows of steps and over seeds"
        _draw_curves(plane, "chi_pos", position)
        dress(position, Panel("chi_pos", title, caption, symbol), xlabel=PARAMETERS)
        for ax in (loss, position):
            size_ticks(ax, plane.sizes)
        loss.legend(fontsize=8, frameon=False, title="budget")
    count = config.runs.recipe.num_seeds
    figure.suptitle(f"Curves of equal compute: {count} seeds of each size", fontweight="bold")
    write_picture(figure, folder / "isocompute.png")


def _draw_curves(plane: Plane, name: str, ax: Axes) -> None:
    for curve, colour in zip(plane.curves, palette(len(plane.curves)), strict=True):
        means = getattr(curve, name).mean(axis=0)
        label = f"{curve.flops:.2g} FLOPs"
        ax.plot(curve.parameters, means, color=colour, marker="x", markersize=5, label=label)
        if name == "test_loss":
            place = np.exp(optimum(curve.parameters, means)[0])
            within = curve.parameters[0] <= place <= curve.parameters[-1]
            if within:
                at = np.exp(np.interp(np.log(place), np.log(curve.parameters), np.log(means)))
                ax.plot([place], [at], "o", color=colour, markersize=5)
