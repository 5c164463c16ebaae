"""The figures of shells of language models, in the arrangement of Spectral Shells (Figs. 1-3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.families.results import Family, families
from lnpjax.experiments.spectral_shells.figures import (
    COVERAGE_TEXT,
    means_with_bars,
    scale_ticks,
)
from lnpjax.plotting._shells import smoothed
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_shells.families.config import FamiliesConfig

XLABEL = r"eigenvalue $\lambda$ of $J J^\top / $tokens, by shell"
ENERGY = r"energy per token (nats$^2$)"
LEAST_SHOWN = 1e-4
"""What part of the largest energy the axes reach down to."""


def draw(config: FamiliesConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `profiles.png` and `fits.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    found = families(config, sweep)
    figure = new_figure((5.5 * (len(found) + 1), 5.0))
    *panels, peaks = figure.subplots(1, len(found) + 1)
    for family, ax in zip(found, panels, strict=True):
        _draw_checkpoints(family, ax)
    _draw_peaks(found, peaks)
    figure.suptitle(
        f"Spectral shells of language models in training: {config.num_runs} runs of each size",
        fontweight="bold",
    )
    write_picture(figure, folder / "profiles.png")
    figure = new_figure((11.5, 5.0))
    fits, sizes = figure.subplots(1, 2)
    _draw_fit(found[-1], fits)
    _draw_sizes(found, sizes)
    figure.suptitle("Both sides of the peak, and two sizes", fontweight="bold")
    write_picture(figure, folder / "fits.png")


def _smooth(family: Family, place: int) -> Float[np.ndarray, " shell"]:
    """The profile of a checkpoint, mean over runs, smoothed."""
    return smoothed(family.energies[:, place].mean(axis=0))


def _profile(ax: Axes, family: Family, values: Float[np.ndarray, " shell"], **style: Any) -> None:
    shown = values > LEAST_SHOWN * values.max()
    ax.plot(family.centers[shown], values[shown], **style)


def _draw_checkpoints(family: Family, ax: Axes) -> None:
    for place, (step, colour) in enumerate(
        zip(family.steps, palette(max(len(family.steps), 8))[: len(family.steps)], strict=True)
    ):
        _profile(ax, family, _smooth(family, place), color=colour, label=f"step {step:g}")
        peak = np.exp(family.log_peaks[:, place].mean())
        ax.axvline(peak, color=colour, linewidth=0.8, linestyle=":")
    panel = Panel(
        "profiles",
        f"Energy per shell, {family.name} parameters",
        "smoothed over three shells, means over runs. Dotted: the peaks",
        ENERGY,
    )
    dress(ax, panel, xlabel=XLABEL)
    ax.legend(fontsize=8, frameon=False)


def _draw_peaks(found: Sequence[Family], ax: Axes) -> None:
    for family, colour in zip(found, palette(len(found)), strict=True):
        means_with_bars(
            ax,
            list(family.steps),
            list(np.exp(family.log_peaks).T),
            color=colour,
            marker="o",
            markersize=4,
            label=f"{family.name} parameters",
        )
    panel = Panel(
        "peak",
        "Where the peak is",
        f"of smoothed profiles. Bands: {COVERAGE_TEXT.replace('seeds', 'runs')}",
        r"eigenvalue $\lambda$ of the peak",
    )
    dress(ax, panel, xlabel="step")
    scale_ticks(ax, list(found[0].steps))
    plain_ticks(ax.yaxis)
    ax.legend(fontsize=8, frameon=False)


def _draw_fit(family: Family, ax: Axes) -> None:
    last = jax.tree.map(lambda leaf: leaf[-1], family.frontiers)
    mean = family.energies[:, -1].mean(axis=0)
    _profile(ax, family, mean, color=COLOURS[0], marker="o", label="measured")
    fitted = np.asarray(last.profile(family.centers))
    reached = mean > LEAST_SHOWN * mean.max()
    ax.plot(
        family.centers[reached],
        fitted[reached],
        color=COLOURS[1],
        label=f"power law (slope {float(last.exponent):.2g}), then exponential",
    )
    panel = Panel(
        "fit",
        f"One profile and its fit, {family.name}, step {family.steps[-1]:g}",
        "as measured, not smoothed; mean over batches and runs",
        ENERGY,
    )
    dress(ax, panel, xlabel=XLABEL)
    ax.legend(fontsize=8, frameon=False)


def _draw_sizes(found: Sequence[Family], ax: Axes) -> None:
    for family, colour in zip(found, palette(len(found)), strict=True):
        for place, line in ((0, "--"), (-1, "-")):
            label = f"{family.name}, step {family.steps[place]:g}"
            _profile(ax, family, _smooth(family, place), color=colour, linestyle=line, label=label)
    panel = Panel(
        "sizes",
        "Sizes at the same checkpoint",
        "smoothed over three shells, means over runs",
        ENERGY,
    )
    dress(ax, panel, xlabel=XLABEL)
    ax.legend(fontsize=8, frameon=False)
