"""The figure of double descent: losses over time and width, and what makes their gap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.double_descent.results import (
    KERNELS,
    over_widths,
    path,
)
from lnpjax.experiments.spectral_shells.figures import (
    COVERAGE_TEXT,
    TIME,
    means_with_bars,
    scale_ticks,
)
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_shells.double_descent.config import DoubleDescentConfig

COLOUR_OF = dict(zip(KERNELS, COLOURS, strict=False))


def draw(config: DoubleDescentConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `double_descent.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure((16.5, 5.0))
    times, widths, parts = figure.subplots(1, 3)
    _draw_times(config, sweep, times)
    _draw_widths(config, sweep, widths)
    _draw_parts(config, sweep, parts)
    figure.suptitle(
        f"Noisy regression by tanh networks: {config.num_train} training points, noise "
        f"{config.noise:g}, {config.num_seeds} seeds",
        fontweight="bold",
    )
    write_picture(figure, folder / "double_descent.png")


def _times(config: DoubleDescentConfig) -> np.ndarray:
    return config.steps * config.step


def _draw_times(config: DoubleDescentConfig, sweep: Sweep, ax: Axes) -> None:
    width = config.widths[-1]
    time = _times(config)[1:]
    for kernel in KERNELS:
        for column, line in (("test_loss", "-"), ("train_loss", ":")):
            losses = path(config, sweep, width, kernel, column)[:, 1:]
            name = column.removesuffix("_loss")
            label = f"{kernel} kernel, {name}"
            ax.plot(time, losses.mean(axis=0), line, color=COLOUR_OF[kernel], label=label)
    level = config.noise**2 / 2
    ax.axhline(level, color="0.5", linewidth=0.8, linestyle="--", label="noise")
    panel = Panel(
        "time",
        f"Losses along training, width {width}",
        "means over seeds. A frozen kernel has no transport",
        "loss, half the mean square",
    )
    dress(ax, panel, xlabel=TIME)
    ax.set_ylim(bottom=level / 10)  # training losses go on to fall, and would flatten the test loss
    ax.legend(fontsize=8, frameon=False)


def _draw_widths(config: DoubleDescentConfig, sweep: Sweep, ax: Axes) -> None:
    for kernel in KERNELS:
        losses = over_widths(config, sweep, kernel, "test_loss")
        for values, what, style in (
            (losses[..., -1], "last", "o-"),
            (losses.min(axis=-1), "lowest", "s--"),
        ):
            means_with_bars(
                ax,
                config.widths,
                list(values),
                color=COLOUR_OF[kernel],
                marker=style[0],
                linestyle=style[1:],
                markersize=4,
                label=f"{kernel} kernel, {what}",
            )
    ax.axvline(config.threshold, color="0.5", linewidth=0.8, linestyle=":")
    panel = Panel(
        "width",
        "Test loss over the width",
        f"dotted: as many parameters as training points. Bands: {COVERAGE_TEXT}",
        "test loss, half the mean square",
    )
    dress(ax, panel, xlabel="width", yscale="linear")
    scale_ticks(ax, config.widths)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False)


def _draw_parts(config: DoubleDescentConfig, sweep: Sweep, ax: Axes) -> None:
    width = config.widths[-1]
    time = _times(config)[1:]
    labels = {
        "diagonal": r"diagonal, $\sum w E$",
        "off_diagonal": "pairs of different modes",
        "outside": "outside of all training modes",
    }
    gap = sum(path(config, sweep, width, "trained", name)[:, 1:] for name in labels)
    ax.plot(time, np.mean(gap, axis=0), color="0.2", linewidth=2.2, label="test less training loss")
    for (name, label), colour in zip(labels.items(), COLOURS[2:], strict=False):
        values = path(config, sweep, width, "trained", name)[:, 1:]
        ax.plot(time, values.mean(axis=0), color=colour, label=label)
    ax.axhline(0, color="0.5", linewidth=0.8)
    panel = Panel(
        "parts",
        f"What makes the gap, trained, width {width}",
        "means over seeds; the parts add up to it",
        "part of the loss",
    )
    dress(ax, panel, xlabel=TIME, yscale="linear")
    ax.legend(fontsize=8, frameon=False)
