"""The figures of linear probes, in the arrangement of Spectral Reach (Figs. 4, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import COVERAGE
from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.figures import (
    COMPUTE,
    NAMES,
    PARAMETERS,
    SYMBOLS,
    TITLES,
    WINDOW_CAPTION,
    draw_component,
    size_ticks,
)
from lnpjax.experiments.spectral_reach.linear_probes.claims import FORMS, form
from lnpjax.experiments.spectral_reach.linear_probes.measure import PROBES
from lnpjax.experiments.spectral_reach.linear_probes.results import Probed, probed, ratio
from lnpjax.plotting._runs import STEPS_SHOWN_SINGLY, window_average
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.linear_probes.config import ProbesConfig

TICKS = (-30, -10, -3, -1, -0.5, 0, 0.5, 1, 2, 3, 5, 10, 30)
MOST_SHOWN = 30.0
"""Ratios whose bars reach further are cut there."""


def draw(config: ProbesConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `ratios.png` (Fig. 4) and `network.png` (Fig. 5).

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    found = probed(config, sweep)
    seeds = f"{config.runs.recipe.num_seeds} seeds of each size"
    panels = {
        "ratios": ("Probes, random over pre-trained", _draw_ratios),
        "network": ("Whole networks and probes", _draw_network),
    }
    for name, (title, panel) in panels.items():
        figure = new_figure((6.5 * len(found), 5.0))
        axes = figure.subplots(1, len(found), squeeze=False)[0]
        for (data, sizes), ax in zip(found.items(), axes, strict=True):
            panel(data, sizes, ax)
            ax.legend(fontsize=7.5, frameon=False)
        figure.suptitle(f"{title}: {seeds}", fontweight="bold")
        write_picture(figure, folder / f"{name}.png")


def _draw_ratios(data: str, sizes: Sequence[Probed], ax: Axes) -> None:
    parameters = np.array([size.runs.num_parameters for size in sizes], float)
    markers = zip(FORMS, COLOURS, "osD^", (0.94, 0.98, 1.02, 1.06), strict=False)
    for (readout, selected), colour, marker, shift in markers:
        ratios = [ratio(size, readout, selected=selected) for size in sizes]
        values = np.array([estimate.value for estimate in ratios])
        low, high = np.array([estimate.interval(COVERAGE) for estimate in ratios]).T
        low, high = np.maximum(low, -MOST_SHOWN), np.minimum(high, MOST_SHOWN)
        errors = np.maximum([values - low, high - values], 0)
        x, label = shift * parameters, form(readout, selected=selected)
        ax.errorbar(x, values, yerr=errors, fmt=marker, color=colour, label=label, capsize=2)
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    panel = Panel(
        "ratio",
        f"Ratio of equation 55, {NAMES[data]}",
        "bars: 95 % intervals over seeds; dotted: no difference; axis linear up to 1",
        SYMBOLS["chi_pos"] + "(random) / " + SYMBOLS["chi_pos"] + "(pre-trained)",
    )
    dress(ax, panel, xlabel=PARAMETERS, yscale="linear")
    ax.set_yscale("symlog", linthresh=1.0, linscale=0.7)
    low, high = ax.get_ylim()
    ticks = [tick for tick in TICKS if min(low, -0.5) <= tick <= max(high, 3)]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    size_ticks(ax, [size.runs for size in sizes])


def _draw_network(data: str, sizes: Sequence[Probed], ax: Axes) -> None:
    draw_component(ax, [size.runs for size in sizes], "chi_net")
    for size, colour in zip(sizes, palette(len(sizes)), strict=True):
        means = size.chi_net[PROBES.index(("random", "own"))].mean(axis=0)
        steps, shown = window_average(size.steps, size.windows, means, singly=STEPS_SHOWN_SINGLY)
        ax.plot(size.runs.compute(steps + 1), shown, "--", color=colour, linewidth=1.0)
    symbol = SYMBOLS["chi_net"]
    title = f"{TITLES['chi_net']} {symbol}, {NAMES[data]}"
    caption = "solid: all layers trained; dashed: the read-out, on a random backbone\n"
    dress(ax, Panel("chi_net", title, caption + WINDOW_CAPTION, symbol), xlabel=COMPUTE)
