"""The figure of optimizers that move into the tail: loss and chi_pos by cost, and the tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import mean_of
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.spectral_descent.claims import ARM_NAMES
from lnpjax.experiments.spectral_reach.spectral_descent.results import Tuned, all_tuned
from lnpjax.plotting._style import (
    COLOURS,
    COVERAGE,
    COVERAGE_TEXT,
    Panel,
    add_legend,
    dress,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.spectral_descent.config import DescentConfig


def draw(config: DescentConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `spectral_descent.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    runs = all_tuned(config, sweep)
    figure = new_figure((15.5, 5.2))
    losses, positions, rates = figure.subplots(1, 3)
    for (arm, run), colour in zip(runs.items(), COLOURS, strict=False):
        costs = np.linspace(0, config.budget, run.loss.shape[1])
        _draw_seeds(losses, costs, run.loss, colour, ARM_NAMES[arm])
        _draw_seeds(positions, costs, run.chi_pos, colour, ARM_NAMES[arm])
        style = {"color": colour, "label": ARM_NAMES[arm], "markersize": 4.5}
        rates.plot(config.rates, run.by_rate, "o-", **style)
    cost = "cost in gradients of a batch"
    caption = f"each at its best rate; {COVERAGE_TEXT} over {config.num_seeds} seeds"
    dress(
        losses, Panel("loss", "Test loss", caption, "nats per token"), xlabel=cost, xscale="linear"
    )
    panel = Panel("chi_pos", "Spectral position", caption, r"$\chi_{pos}$")
    dress(positions, panel, xlabel=cost, xscale="linear")
    caption = f"means over the {config.num_tuning} seeds that choose the rate, and nothing else"
    panel = Panel("rate", "Tuning", caption, "last test loss, nats per token")
    dress(rates, panel, xlabel="learning rate")
    _limit_losses(rates, runs)
    plain_ticks(losses.yaxis, positions.yaxis, rates.yaxis)
    add_legend(figure, len(runs))
    figure.suptitle(
        f"Does moving faster into the tail help? A Llama of {config.model} parameters, "
        f"{config.budget} gradients",
        fontweight="bold",
    )
    write_picture(figure, folder / "spectral_descent.png")


def _draw_seeds(
    ax: Axes,
    costs: Float[np.ndarray, " time"],
    values: Float[np.ndarray, "seed time"],
    colour: str,
    label: str,
) -> None:
    """Draw geometric means with their intervals, of what is not void."""
    valid = np.isfinite(values) & (values > 0)
    columns = zip(values.T, valid.T, strict=True)
    means = [mean_of(np.log(column[kept])) for column, kept in columns]
    low, high = np.exp([mean.interval(COVERAGE) for mean in means]).T
    ax.plot(costs, np.exp([mean.value for mean in means]), color=colour, label=label)
    ax.fill_between(costs, low, high, color=colour, alpha=0.18, linewidth=0)


def _limit_losses(ax: Axes, runs: dict[str, Tuned]) -> None:
    """Leave out runs that diverged: where they went is of no interest."""
    lowest = min(float(np.nanmin(run.by_rate)) for run in runs.values())
    start = max(float(np.mean(run.loss[:, 0])) for run in runs.values())
    ax.set_ylim(0.98 * lowest, 1.05 * start)
