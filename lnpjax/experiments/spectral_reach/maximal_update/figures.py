"""The figures of the check of muP: coordinates over widths, and losses over learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax._base.checks import import_extra
from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.maximal_update.config import MODELS, NAMES, Model
from lnpjax.experiments.spectral_reach.maximal_update.results import changes, end_losses
from lnpjax.experiments.spectral_reach.parametrisations import ARMS, Arm
from lnpjax.plotting._style import COLOURS, Panel, add_legend, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.maximal_update.config import MaximalUpdateConfig

LINES = {"hidden": ":", "outputs": "-"}


def draw(config: MaximalUpdateConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `coordinates.png` and `learning_rates.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    for name, panel, title in (
        ("coordinates", _draw_coordinates, "How much a few steps of Adam change, over widths"),
        ("learning_rates", _draw_rates, "Loss at the end over learning rates, by width"),
    ):
        figure = new_figure((15.0, 8.0))
        grid = figure.subplots(len(ARMS), len(MODELS), sharey="col")
        for row, arm in zip(grid, ARMS, strict=True):
            for ax, model in zip(row, MODELS, strict=True):
                panel(config, sweep, ax, model, arm)
        about = f"{config.num_seeds} seeds, base width {config.base_width}"
        figure.suptitle(f"{title}: {about}", fontweight="bold")
        add_legend(figure, 4)
        write_picture(figure, folder / f"{name}.png")


def _draw_coordinates(
    config: MaximalUpdateConfig, sweep: Sweep, ax: Axes, model: Model, arm: Arm
) -> None:
    ticker = import_extra("matplotlib.ticker", extra="run", purpose="drawing figures")
    for layer, line in LINES.items():
        sizes = changes(config, sweep, model, arm, layer).mean(axis=1)
        for index, count in enumerate(config.checked):
            label = f"{layer}, {count} step{'s' if count > 1 else ''}"
            colour = COLOURS[index]
            ax.plot(config.widths, sizes[:, index], f"o{line}", color=colour, label=label)
    panel = Panel(
        "coordinates",
        f"{NAMES[model]}, {NAMES[arm]}",
        f"learning rate {config.check_rate:.3g}; flat: features are learned alike",
        "root mean square of the change",
    )
    dress(ax, panel, xlabel="width")
    ax.set_xticks(list(config.widths), [str(width) for width in config.widths])
    ax.xaxis.set_minor_locator(ticker.NullLocator())


def _draw_rates(
    config: MaximalUpdateConfig, sweep: Sweep, ax: Axes, model: Model, arm: Arm
) -> None:
    losses = end_losses(config, sweep, model, arm).mean(axis=1)
    shown = np.where(np.isfinite(losses), losses, np.nan)
    for index, (width, curve) in enumerate(zip(config.widths, shown, strict=True)):
        best = int(np.argmin(losses[index]))
        colour = COLOURS[index % len(COLOURS)]
        ax.plot(config.rates, curve, "-", color=colour, label=f"width {width}")
        ax.plot(config.rates[best], curve[best], "o", color=colour)
    panel = Panel(
        "rates",
        f"{NAMES[model]}, {NAMES[arm]}",
        f"over the last steps of {config.steps}. Dots: the lowest of each width",
        "training loss [nats]",
    )
    dress(ax, panel, xlabel="learning rate of Adam")
