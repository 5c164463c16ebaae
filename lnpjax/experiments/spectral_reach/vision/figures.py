"""The figures of vision transformers: Fig. 9 of Spectral Reach, and what features do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.figures import (
    EMA_CAPTION,
    SYMBOLS,
    WINDOW_CAPTION,
    draw_component,
    draw_loss,
)
from lnpjax.experiments.spectral_reach.parametrisations import NAMES
from lnpjax.experiments.spectral_reach.vision.results import Vision, arms
from lnpjax.plotting._style import Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.vision.config import VisionConfig

COMPUTE = r"$6ND$ (FLOPs), with D the patches that were seen"
BURN_IN = 5


def draw(config: VisionConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `vision.png` and `features.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    found = arms(config, sweep)
    seeds = f"{config.recipe.num_seeds} seeds of each size"
    for name, title, panels in (
        ("vision", "Vision transformers in two parametrisations", (_draw_loss, _draw_position)),
        ("features", "How far features go from the start", (_draw_features,)),
    ):
        figure = new_figure((6.5 * len(found), 0.5 + 4.5 * len(panels)))
        axes = figure.subplots(len(panels), len(found), squeeze=False, sharey="row")
        for vision, column in zip(found, axes.T, strict=True):
            for panel, ax in zip(panels, column, strict=True):
                panel(vision, ax)
                ax.legend(fontsize=7.5, frameon=False)
        figure.suptitle(f"{title}: {seeds}", fontweight="bold")
        write_picture(figure, folder / f"{name}.png")


def _draw_loss(vision: Vision, ax: Axes) -> None:
    sizes = vision.family.sizes
    for size, colour in zip(sizes, palette(len(sizes)), strict=True):
        losses = size.smoothed_loss
        steps = np.arange(1, losses.shape[1] + 1)
        draw_loss(ax, size, steps[BURN_IN:], losses[:, BURN_IN:], color=colour, linewidth=1.0)
    title = f"Training loss, {NAMES[vision.arm]}"
    dress(ax, Panel("loss", title, EMA_CAPTION, "loss (nats)"), xlabel=COMPUTE)
    plain_ticks(ax.yaxis)


def _draw_position(vision: Vision, ax: Axes) -> None:
    draw_component(ax, vision.family.sizes, "chi_pos")
    title = f"Spectral position {SYMBOLS['chi_pos']}, {NAMES[vision.arm]}"
    dress(ax, Panel("chi_pos", title, WINDOW_CAPTION, SYMBOLS["chi_pos"]), xlabel=COMPUTE)


def _draw_features(vision: Vision, ax: Axes) -> None:
    sizes = vision.family.sizes
    for size, changes, colour in zip(
        sizes, vision.feature_changes, palette(len(sizes)), strict=True
    ):
        ax.plot(size.test_steps[1:], changes.mean(axis=0), color=colour, label=size.name)
    slope = vision.intensity()
    panel = Panel(
        "features",
        f"Change of the last hidden layer, {NAMES[vision.arm]}",
        f"on test images; at the end as width to the power {slope.value:.2f} +- {slope.error:.2f}",
        "change / size at the start",
    )
    dress(ax, panel, xlabel="step")
    plain_ticks(ax.xaxis, ax.yaxis)
