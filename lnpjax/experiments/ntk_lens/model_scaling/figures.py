"""The figures of scaling the width, in the arrangement of NTK Lens (Figs. 1-3, 5, 6, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import COVERAGE
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import Family
from lnpjax.experiments.ntk_lens.figures import SCALE_LABELS, draw_all, scale_ticks
from lnpjax.experiments.ntk_lens.model_scaling.results import TURNS, by_width
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.ntk_lens.model_scaling.config import ModelScalingConfig


def draw(config: ModelScalingConfig, sweep: Sweep, folder: Path) -> None:
    """Draw the dynamics, alignments and scaling of the shallowest networks, and the transition.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go: `dynamics.png` (Figs. 1, 5, 6), `alignment.png` (Fig. 8),
            `scaling.png` (Fig. 2), `transition.png` (Fig. 3).

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    families = by_width(config, sweep)
    draw_all(families, config.depths[0], "Scaling the width", folder)
    _draw_transition(families, folder / "transition.png")


def _draw_transition(families: Sequence[Family], path: Path) -> None:
    depths = sorted({family.depth for family in families})
    sets = list(dict.fromkeys(family.images for family in families))
    figure = new_figure((3 + 5.2 * len(sets), 4.4 * len(depths)))
    axes = figure.subplots(len(depths), len(sets), squeeze=False)
    for family in families:
        _transition_panel(axes[depths.index(family.depth), sets.index(family.images)], family)
    figure.suptitle(
        "From features to the kernel: means over members; bars: standard error; dashed: bent power "
        "laws",
        fontweight="bold",
    )
    write_picture(figure, path)


def _transition_panel(ax: Axes, family: Family) -> None:
    bend = family.bent("rank_at_minimum").bend
    low, high = bend.interval(COVERAGE)
    panel = Panel(
        "rank",
        family.name,
        f"grey: the bend of the effective rank, {bend.value:.3g}, with its 95 % interval "
        f"({low:.3g} to {high:.3g}); dotted: the paper's turn",
        r"effective rank $\Gamma(\Theta_\mathrm{min})$",
    )
    dress(ax, panel, xlabel=SCALE_LABELS[family.scaled])
    other = ax.twinx()
    other.set(yscale="log", ylabel=r"trace ratio $\beta$")
    other.spines["top"].set_visible(False)
    handles = []
    for axis, column, fill, colour in (
        (ax, "rank_at_minimum", COLOURS[0], COLOURS[0]),
        (other, "trace_ratio", "none", COLOURS[1]),
    ):
        fit = family.bent(column)
        alphas = rf"exponents {fit.below.value:.2f}, {fit.above.value:.2f}"
        symbol = r"$\Gamma$" if axis is ax else r"$\beta$"
        handles.append(
            axis.errorbar(
                family.scales,
                family.means(column),
                family.errors(column),
                fmt="o",
                color=colour,
                markerfacecolor=fill,
                markersize=5,
                label=f"{symbol}: {alphas}",
            )
        )
        axis.plot(family.scales, fit.fitted, color=colour, linestyle="--", linewidth=1)
    if np.isfinite(low):
        ax.axvspan(low, high, color="0.9", zorder=0)
        ax.axvline(bend.value, color="0.5", linewidth=1.2)
    ax.axvline(TURNS[family.images], color="0.3", linewidth=1, linestyle=":")
    for axis in (ax, other):
        axis.margins(y=0.2)  # room for the legend
        plain_ticks(axis.yaxis)
        scale_ticks(axis, family.scales)
    ax.legend(handles=handles, frameon=False, fontsize=8, loc="upper center", ncols=2)
