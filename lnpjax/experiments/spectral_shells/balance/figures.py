"""The figure of the balance of shells: what moves between them, and when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.balance.results import (
    by_width,
    flux_share,
    upper_edges,
)
from lnpjax.experiments.spectral_shells.figures import (
    COLOUR_OF_REGIME,
    COVERAGE_TEXT,
    TIME,
    log_mean,
    means_with_bars,
    scale_ticks,
)
from lnpjax.experiments.spectral_shells.flows import REGIME_NAMES, REGIMES
from lnpjax.plotting._style import Panel, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_shells.balance.config import BalanceConfig


def draw(config: BalanceConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `balance.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure((16.5, 5.0))
    widths, times, shells = figure.subplots(1, 3)
    _draw_widths(config, sweep, widths)
    _draw_times(config, sweep, times)
    _draw_shells(config, sweep, shells)
    figure.suptitle(
        "Energy that moves between spectral shells of tanh networks under gradient flow: "
        f"{config.num_samples} points, {config.num_seeds} seeds",
        fontweight="bold",
    )
    write_picture(figure, folder / "balance.png")


def _draw_widths(config: BalanceConfig, sweep: Sweep, ax: Axes) -> None:
    for regime in REGIMES:
        dissipated = by_width(config, sweep, regime, "dissipated")
        crossings = by_width(config, sweep, regime, "moved_by_crossings")
        fluxes = flux_share(config, sweep, regime)
        name, colour = REGIME_NAMES[regime], COLOUR_OF_REGIME[regime]
        shares = (
            ("fluxes", "o-", fluxes),
            ("crossings", "s--", {w: crossings[w] / dissipated[w] for w in config.widths}),
        )
        for what, style, by in shares:
            marker, line = style[0], style[1:]
            means_with_bars(
                ax,
                config.widths,
                list(by.values()),
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=4,
                label=f"{name}, {what}",
            )
    panel = Panel(
        "moved",
        "Energy that changed its shell in training",
        f"by rotating modes (fluxes), and with modes that cross an edge. Bands: {COVERAGE_TEXT}",
        "part of the dissipated energy",
    )
    dress(ax, panel, xlabel="width")
    scale_ticks(ax, config.widths)
    ax.set_ylim(bottom=1e-4)
    ax.legend(fontsize=8, frameon=False, loc="lower left")


def _draw_times(config: BalanceConfig, sweep: Sweep, ax: Axes) -> None:
    narrow, wide = config.widths[0], config.widths[-1]
    for regime in REGIMES:
        for width, line in ((narrow, ":"), (wide, "-")):
            arrays = sweep.arrays(f"{regime}-width{width}")
            shown = slice(1, None)
            ratio = arrays["exchange"][:, shown] / arrays["dissipation"][:, shown]
            label = f"{REGIME_NAMES[regime]}, width {width}"
            time = log_mean(arrays["times"][:, shown])
            ax.plot(time, log_mean(ratio), line, color=COLOUR_OF_REGIME[regime], label=label)
    panel = Panel(
        "rate",
        "Flux over dissipation, along training",
        "of all shells; geometric means over seeds",
        "flux between shells / dissipation",
    )
    dress(ax, panel, xlabel=TIME)
    ax.legend(fontsize=8, frameon=False)


def _draw_shells(config: BalanceConfig, sweep: Sweep, ax: Axes) -> None:
    edges = upper_edges(config)
    width = config.widths[-1]
    for regime in REGIMES:
        arrays = sweep.arrays(f"{regime}-width{width}")
        for name, what, line in (
            ("flux_over_dissipation", "flux through its upper edge", "o-"),
            ("crossing_over_dissipation", "crossings, either way", "s--"),
        ):
            ax.plot(
                edges[1:] / config.ratio**0.5,
                log_mean(arrays[name])[1:],
                line,
                color=COLOUR_OF_REGIME[regime],
                markersize=4,
                label=f"{REGIME_NAMES[regime]}: {what}",
            )
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
    panel = Panel(
        "definition",
        f"Definition 4.1, at width {width}",
        "each shell's exchange over its own dissipation, summed over training. Dotted: 1",
        "exchange / dissipation of the shell",
    )
    dress(ax, panel, xlabel=r"eigenvalue $\lambda$ of $J J^\top / n$, by shell")
    ax.set_ylim(bottom=1e-4)
    ax.legend(fontsize=8, frameon=False)
