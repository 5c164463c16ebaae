"""The figures of scaling laws, in the arrangement of Spectral Reach (Figs. 1, 6, 7, 10, 11)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import COVERAGE
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.figures import (
    COMPUTE,
    EMA_CAPTION,
    NAMES,
    PARAMETERS,
    SYMBOLS,
    TITLES,
    WINDOW_CAPTION,
    draw_component,
    draw_loss,
    size_ticks,
)
from lnpjax.experiments.spectral_reach.scaling_laws.results import (
    Family,
    explained,
    families,
    floor_exponent,
    floor_of,
    log_floors,
    loss_exponent,
)
from lnpjax.plotting._style import COLOURS, Panel, add_legend, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig

LOSS = "loss (nats per token)"
BURN_IN = 5
"""Steps whose smoothed losses are not shown: they are means of fewer."""


def draw(config: ScalingConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `scaling.png`, `test_losses.png`, `components_DATA.png`, `spread.png` and `floors.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    found = families(config, sweep)
    seeds = f"{config.recipe.num_seeds} seeds of each size"
    columns = {
        "scaling": (f"Scaling laws and spectral position: {seeds}", (_draw_train, _draw_position)),
        "test_losses": (f"Test losses: {seeds}", (_draw_test,)),
        "spread": (f"Spread over {seeds}", (_draw_spread,)),
        "floors": (f"Floors of spectral position: {seeds}", (_draw_floors,)),
    }
    for name, (title, panels) in columns.items():
        figure = new_figure((6.0 * len(found), 0.5 + 4.5 * len(panels)))
        axes = figure.subplots(len(panels), len(found), squeeze=False)
        for family, column in zip(found, axes.T, strict=True):
            for panel, ax in zip(panels, column, strict=True):
                panel(family, ax)
                ax.legend(fontsize=7.5, frameon=False)
        figure.suptitle(title, fontweight="bold")
        write_picture(figure, folder / f"{name}.png")
    for family in found:
        figure = new_figure((11.0, 9.0))
        for name, ax in zip(SYMBOLS, figure.subplots(2, 2).ravel(), strict=True):
            _draw_one_component(family, name, ax)
        figure.suptitle(f"All components, {NAMES[family.data]}: {seeds}", fontweight="bold")
        add_legend(figure, len(family.sizes))
        write_picture(figure, folder / f"components_{family.data}.png")


def _draw_train(family: Family, ax: Axes) -> None:
    for size, colour in zip(family.sizes, palette(len(family.sizes)), strict=True):
        losses = size.smoothed_loss
        steps = np.arange(1, losses.shape[1] + 1)
        draw_loss(ax, size, steps[BURN_IN:], losses[:, BURN_IN:], color=colour, linewidth=1.0)
    _draw_law(family, family.train_losses, ax)
    panel = Panel("loss", f"Training loss, {NAMES[family.data]}", EMA_CAPTION, LOSS)
    dress(ax, panel, xlabel=COMPUTE)
    plain_ticks(ax.yaxis)


def _draw_law(family: Family, losses: Float[np.ndarray, "seeds sizes"], ax: Axes) -> None:
    """Draw the power law through the ends of all runs, over as many tokens and so along N."""
    slope, share = loss_exponent(family, losses), explained(family, losses)
    ends = np.array([size.compute(size.train_loss.shape[1]) for size in family.sizes])
    logarithms = np.log(losses.mean(axis=0))
    x = np.log(family.parameters)
    fitted = np.exp(logarithms.mean() + slope.value * (x - x.mean()))
    ax.plot(ends, losses.mean(axis=0), "o", color="0.2", markersize=4)
    label = f"$N^{{{slope.value:.3f} \\pm {slope.error:.3f}}}$, $R^2 = {share.value:.3f}$"
    ax.plot(ends, fitted, "--", color="0.2", linewidth=1.2, label=label)


def _draw_position(family: Family, ax: Axes) -> None:
    draw_component(ax, family.sizes, "chi_pos")
    title = f"{TITLES['chi_pos']} {SYMBOLS['chi_pos']}, {NAMES[family.data]}"
    dress(ax, Panel("chi_pos", title, WINDOW_CAPTION, SYMBOLS["chi_pos"]), xlabel=COMPUTE)


def _draw_test(family: Family, ax: Axes) -> None:
    for size, colour in zip(family.sizes, palette(len(family.sizes)), strict=True):
        draw_loss(ax, size, size.test_steps[1:], size.test_loss[:, 1:], color=colour)
    _draw_law(family, family.test_losses, ax)
    panel = Panel("test", f"Test loss, {NAMES[family.data]}", "mean over seeds", LOSS)
    dress(ax, panel, xlabel=COMPUTE)
    plain_ticks(ax.yaxis)


def _draw_one_component(family: Family, name: str, ax: Axes) -> None:
    draw_component(ax, family.sizes, name)
    title = f"{TITLES[name]} {SYMBOLS[name]}"
    dress(ax, Panel(name, title, WINDOW_CAPTION, SYMBOLS[name]), xlabel=COMPUTE)


def _draw_spread(family: Family, ax: Axes) -> None:
    for size, colour in zip(family.sizes, palette(len(family.sizes)), strict=True):
        centers, values = size.by_window("chi_pos")
        spread = np.std(values, axis=0, ddof=1) / np.abs(values.mean(axis=0))
        x = size.compute(centers + 1)
        ax.plot(x, spread, color=colour, marker=".", label=f"{size.name} parameters")
    panel = Panel(
        "spread",
        f"Spread of {SYMBOLS['chi_pos']} over seeds, {NAMES[family.data]}",
        "standard deviation over seeds of means of windows, over their mean",
        "relative standard deviation",
    )
    dress(ax, panel, xlabel=COMPUTE)


def _draw_floors(family: Family, ax: Axes) -> None:
    estimates = [floor_of(size) for size in family.sizes]
    floors = np.array([estimate.value for estimate in estimates])
    bounds = np.array([estimate.interval(COVERAGE) for estimate in estimates])
    low = floors - np.maximum(bounds[:, 0], 0.05 * floors)  # an axis of logarithms shows no zero
    ends = [float(size.at_end("chi_pos").mean()) for size in family.sizes]
    ax.plot(family.parameters, ends, "s", color=COLOURS[1], label="in the last window")
    some = floors > 0
    errors = np.abs([low, bounds[:, 1] - floors])[:, some]
    x_shown, label = family.parameters[some], "fitted floor"
    ax.errorbar(
        x_shown, floors[some], yerr=errors, fmt="o", color=COLOURS[0], label=label, capsize=3
    )
    logarithms = log_floors(family)
    if np.all(np.isfinite(logarithms)):
        x = np.log(family.parameters)
        slope = float(log_slope(family.parameters, logarithms))
        error = floor_exponent(family).error
        label = f"$N^{{{slope:.2f} \\pm {error:.2f}}}$"
        fitted = np.exp(logarithms.mean() + slope * (x - x.mean()))
        ax.plot(family.parameters, fitted, "--", color="0.3", label=label)
    panel = Panel(
        "floor",
        f"Floor of {SYMBOLS['chi_pos']}, {NAMES[family.data]}",
        "limit of a power law of the step with a limit; bars: 95 % intervals over seeds",
        SYMBOLS["chi_pos"],
    )
    dress(ax, panel, xlabel=PARAMETERS)
    size_ticks(ax, family.sizes)
