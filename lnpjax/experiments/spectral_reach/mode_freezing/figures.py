"""The figures of frozen modes: where every size ends, and how it gets there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.estimates import mean_of
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.mode_freezing.arms import ARMS
from lnpjax.experiments.spectral_reach.mode_freezing.measure import kept_rounds
from lnpjax.experiments.spectral_reach.mode_freezing.results import (
    KIND_NAMES,
    Kind,
    curves,
    losses_of,
)
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

    from lnpjax.experiments.spectral_reach.mode_freezing.config import FreezingConfig

ARM_NAMES = {
    "free": "all modes",
    "own": "frozen below the own position",
    "common": "frozen below the smallest one's position",
    "top": "as many frozen from the top",
    "random": "as many frozen at random",
    "tail_only": "all frozen but below the smallest one's position",
}
MARKERS = "osD^vx"


def draw(config: FreezingConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `mode_freezing.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure((15.5, 9.6))
    for row, (kind, name) in zip(figure.subplots(2, 3), KIND_NAMES.items(), strict=True):
        _draw_ends(config, sweep, kind, row[0], name)
        _draw_runs(config, sweep, kind, row[1], name)
        _draw_positions(config, sweep, kind, row[2], name)
    add_legend(figure, 3)
    figure.suptitle(
        "Does size help without the tail? Networks that learn with a part of the kernel's modes",
        fontweight="bold",
    )
    write_picture(figure, folder / "mode_freezing.png")


def _draw_ends(config: FreezingConfig, sweep: Sweep, kind: Kind, ax: Axes, name: str) -> None:
    losses = losses_of(config, sweep, kind)
    for arm, colour, marker in zip(ARMS, COLOURS, MARKERS, strict=False):
        means = [mean_of(np.log(seeds)) for seeds in losses.by_arm[arm]]
        low, high = np.exp([mean.interval(COVERAGE) for mean in means]).T
        values = np.exp([mean.value for mean in means])
        style = {"color": colour, "marker": marker, "markersize": 4.5}
        ax.plot(losses.sizes, values, label=ARM_NAMES[arm], **style)  # type: ignore[arg-type]
        ax.fill_between(losses.sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    caption = f"{name}; geometric means and {COVERAGE_TEXT} over {losses.own.shape[1]} seeds"
    panel = Panel("last_loss", "Where every size ends", caption, "last training loss")
    dress(ax, panel, xlabel="width")
    _width_ticks(ax, losses.sizes)
    plain_ticks(ax.yaxis)


def _draw_runs(config: FreezingConfig, sweep: Sweep, kind: Kind, ax: Axes, name: str) -> None:
    sizes = losses_of(config, sweep, kind).sizes
    steps = 1 + kept_rounds(_rounds(config, kind)) * _steps_per_round(config, kind)
    for arm, colour in zip(ARMS, COLOURS, strict=False):
        for size, line in ((sizes[0], ":"), (sizes[-1], "-")):
            runs = curves(sweep, kind, arm, "loss")[size]
            ax.plot(steps, np.exp(np.log(runs).mean(axis=0)), line, color=colour, linewidth=1.4)
    caption = f"{name}; width {sizes[-1]} solid, width {sizes[0]} dotted"
    dress(ax, Panel("loss", "How it gets there", caption, "training loss"), xlabel="step, from 1")
    plain_ticks(ax.xaxis, ax.yaxis)


def _draw_positions(config: FreezingConfig, sweep: Sweep, kind: Kind, ax: Axes, name: str) -> None:
    losses = losses_of(config, sweep, kind)
    for seeds in losses.own.T:
        ax.plot(losses.sizes, seeds, "o-", color="0.75", markersize=3, linewidth=0.8)
    means = np.exp(np.log(losses.own).mean(axis=1))
    ax.plot(losses.sizes, means, "o-", color=COLOURS[0], linewidth=2)
    caption = f"{name}; where nine tenths of the fall of the loss are done; gray: single seeds"
    panel = Panel("own_position", "The position that is reached", caption, r"$\chi_{pos}$")
    dress(ax, panel, xlabel="width")
    _width_ticks(ax, losses.sizes)
    plain_ticks(ax.yaxis)


def _width_ticks(ax: Axes, sizes: tuple[int, ...]) -> None:
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()


def _rounds(config: FreezingConfig, kind: Kind) -> int:
    return config.num_rounds if kind == "dense" else config.ritz_rounds


def _steps_per_round(config: FreezingConfig, kind: Kind) -> int:
    return config.steps_per_round if kind == "dense" else config.ritz_steps_per_round
