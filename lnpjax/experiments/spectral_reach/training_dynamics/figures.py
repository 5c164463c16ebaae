"""The figures of spectral position along a run: runs, and models whose kernel is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.estimates import mean_of
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.figures import NAMES, SYMBOLS
from lnpjax.experiments.spectral_reach.runs import Runs, runs_of
from lnpjax.experiments.spectral_reach.training_dynamics import results
from lnpjax.plotting._style import (
    COLOURS,
    COVERAGE,
    COVERAGE_TEXT,
    Panel,
    add_legend,
    dress,
    new_figure,
    palette,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.training_dynamics.config import DynamicsConfig


def draw(config: DynamicsConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `along_runs.png` and `known_kernels.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    draw_runs(config, sweep, folder)
    draw_known(config, sweep, folder)


def draw_runs(config: DynamicsConfig, sweep: Sweep, folder: Path) -> None:
    """Draw slopes between windows, courses with drops and stops, and what stopping gives up."""
    families = runs_of(config.runs.recipe, sweep)
    figure = new_figure((15.5, 0.8 + 4.6 * len(families)))
    rows = figure.subplots(len(families), 3, squeeze=False)
    for (data, sizes), (slopes, courses, stopping) in zip(families.items(), rows, strict=True):
        name = NAMES[data]
        for size, colour in zip(sizes, palette(len(sizes)), strict=True):
            _draw_slopes(slopes, size, colour)
            _draw_courses(courses, size, colour)
        caption = "from one window to the next, after the warm-up; one dot for each seed"
        panel = Panel("slopes", f"Slopes, {name}", caption, "slope of ln loss in ln step")
        label = f"slope of ln {SYMBOLS['chi_pos']} in ln step"
        dress(slopes, panel, xlabel=label, xscale="linear", yscale="linear")
        caption = "means over windows, one line for each seed; rings: sudden drops; bars: stops"
        panel = Panel("courses", f"Drops and stops, {name}", caption, SYMBOLS["chi_pos"])
        dress(courses, panel, xlabel="step")
        plain_ticks(courses.yaxis)
        _draw_stopping(stopping, sizes)
        caption = "dots: stopped when chi_pos has flattened; lines: all after the same share"
        panel = Panel("stopping", f"Stopping, {name}", caption, "test loss given up, %")
        dress(stopping, panel, xlabel="share of the steps", xscale="linear", yscale="linear")
    count = config.runs.recipe.num_seeds
    add_legend(figure, 4)
    title = f"Spectral position along runs: {count} seeds of each size"
    figure.suptitle(title, fontweight="bold")
    write_picture(figure, folder / "along_runs.png")


def _draw_slopes(ax: Axes, size: Runs, colour: object) -> None:
    loss, position = (results.slopes(size, name) for name in ("loss", "chi_pos"))
    label = f"{size.name} parameters"
    ax.plot(position.ravel(), loss.ravel(), "o", color=colour, markersize=3, label=label)


def _draw_courses(ax: Axes, size: Runs, colour: object) -> None:
    path = results.path_of(size, size.component("chi_pos"))
    stops = results.stops(size) * size.train_loss.shape[1]
    for values, drops, stop in zip(path.values, results.sudden_drops(path), stops, strict=True):
        ax.plot(path.steps, np.exp(values), color=colour, linewidth=0.9)
        after = np.flatnonzero(drops) + 2
        ring = ax.plot(path.steps[after], np.exp(values[after]), "o", color=colour, markersize=9)
        ring[0].set_markerfacecolor("none")
        if stop < size.train_loss.shape[1]:
            at = np.interp(np.log(stop), np.log(path.steps), values)
            ax.plot([stop], [np.exp(at)], "|", color=colour, markersize=14, markeredgewidth=2)


def _draw_stopping(ax: Axes, sizes: list[Runs]) -> None:
    found = results.stopped(sizes)
    shares = np.linspace(0.1, 1.0, 60)
    parts = zip(sizes, palette(len(sizes)), found.shares, found.lost, strict=True)
    for size, colour, own, lost in parts:
        curve = [results.given_up(size, np.full(size.num_seeds, share)).mean() for share in shares]
        ax.plot(shares, 100 * np.array(curve), color=colour, linewidth=1)
        ax.plot(own, 100 * lost, "o", color=colour, markersize=5)


def draw_known(config: DynamicsConfig, sweep: Sweep, folder: Path) -> None:
    """Draw read-outs against closed forms, kernels against their limit, and signs of pairs."""
    figure = new_figure((15.5, 5.2))
    positions, widths, pairs = figure.subplots(1, 3)
    for beta, colour in zip(config.features.betas, COLOURS, strict=False):
        x = np.array(config.moments) + 1.0
        label = rf"$\beta$ = {beta:g}"
        exact, measured = (
            np.exp(np.log(results.of_moments(config, sweep, beta, name)).mean(axis=0))
            for name in ("exact_chi_pos", "chi_pos")
        )
        positions.plot(x, exact, color=colour, label=label)
        positions.plot(x, measured, "o", color=colour, markersize=4)
        means = np.exp(np.log(results.distances(config, sweep, beta)).mean(axis=0))
        widths.plot(config.widths, means, "o-", color=colour, markersize=4, label=label)
    guide = np.array([config.widths[0], config.widths[-1]], float)
    lowest = float(np.min(widths.dataLim.intervaly))
    style = {"color": "0.6", "linestyle": "--", "label": r"$m^{-1/2}$"}
    widths.plot(guide, 1.6 * lowest * (guide[-1] / guide) ** 0.5, **style)
    caption = f"lines: closed form; dots: measured; geometric means over {config.num_seeds} seeds"
    panel = Panel("chi_pos", "Trained read-outs", caption, SYMBOLS["chi_pos"])
    dress(positions, panel, xlabel="step + 1")
    panel = Panel("width", "Kernel and its limit (eq. 38)", "means over seeds", "relative distance")
    dress(widths, panel, xlabel="number of features m")
    for (name, label), colour in zip(
        {"share": "pairs", "weighted": "pairs by size"}.items(), COLOURS[3:], strict=False
    ):
        _draw_pairs(pairs, config, results.pair_column(config, sweep, name), label, colour)
    pairs.axhline(0.5, color="0.6", linewidth=0.8)
    caption = f"a small network on digits; {COVERAGE_TEXT} over {config.num_seeds} seeds"
    panel = Panel("pairs", "Mode pairs that are positive (eq. 25)", caption, "share")
    dress(pairs, panel, xlabel="step + 1", yscale="linear")
    plain_ticks(positions.yaxis, widths.yaxis)
    add_legend(figure, 6)
    figure.suptitle("Where the kernel is known", fontweight="bold")
    write_picture(figure, folder / "known_kernels.png")


def _draw_pairs(
    ax: Axes, config: DynamicsConfig, shares: np.ndarray, label: str, colour: str
) -> None:
    x = np.array(config.pair_moments) + 1.0
    means = [mean_of(column) for column in shares.T]
    low, high = np.array([mean.interval(COVERAGE) for mean in means]).T
    ax.plot(x, [mean.value for mean in means], color=colour, label=label)
    ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
