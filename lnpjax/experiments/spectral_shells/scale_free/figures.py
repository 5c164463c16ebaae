"""The figure of scale-free transport: profiles, the loss, and the measured drift."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.figures import COLOUR_OF_REGIME, TIME
from lnpjax.experiments.spectral_shells.flows import REGIME_NAMES, REGIMES
from lnpjax.experiments.spectral_shells.scale_free.results import (
    fit_in,
    mean_energies,
    transport_of,
)
from lnpjax.plotting._style import Panel, dress, new_figure, palette
from lnpjax.theory.shells import ScaleFree, log_shell_energies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_shells.scale_free.config import ScaleFreeConfig

NUM_SHOWN = 4


def draw(config: ScaleFreeConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `scale_free.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure((16.5, 5.0))
    profiles, losses, drifts = figure.subplots(1, 3)
    _draw_profiles(config, sweep, profiles)
    _draw_losses(config, sweep, losses)
    _draw_drifts(config, sweep, drifts)
    figure.suptitle(
        f"Power-law regression by tanh networks of width {config.width}: {config.num_samples} "
        f"points, {config.num_seeds} seeds",
        fontweight="bold",
    )
    write_picture(figure, folder / "scale_free.png")


def _edges(config: ScaleFreeConfig, num_shells: int) -> np.ndarray:
    return config.lowest * config.ratio ** np.arange(num_shells + 1.0)


def _draw_profiles(config: ScaleFreeConfig, sweep: Sweep, ax: Axes) -> None:
    energies = mean_energies(sweep, "feature")
    edges = _edges(config, energies.shape[1])
    times = config.steps * config.step
    found = fit_in(sweep, "feature", "conservative")
    model = ScaleFree(
        c0=found.c0[0],
        p=found.p[0],
        amplitude=found.amplitude[0],
        cutoff=found.cutoff[0],
        t0=times[0],
    )
    fit = np.exp(np.asarray(log_shell_energies(model, jnp.asarray(edges), jnp.asarray(times))))
    places = np.linspace(0, len(times) - 1, NUM_SHOWN).round().astype(int)
    for place, colour in zip(places, palette(8)[::2], strict=False):
        shown = energies[place] > config.floor * energies[place].max()
        centers = edges[1:][shown] / config.ratio**0.5
        label = f"time {times[place]:.3g}"
        ax.plot(centers, energies[place][shown], "o", color=colour, markersize=4, label=label)
        ax.plot(centers, fit[place][shown], color=colour, linewidth=1)
    panel = Panel(
        "profiles",
        "Energy per shell, feature learning",
        "points: means over seeds; lines: the solution of (7) fitted to all times",
        "energy over the first loss",
    )
    dress(ax, panel, xlabel=r"eigenvalue over the largest at the start")
    ax.legend(fontsize=8, frameon=False)


def _draw_losses(config: ScaleFreeConfig, sweep: Sweep, ax: Axes) -> None:
    for regime in REGIMES:
        transport = transport_of(config, sweep, regime)
        mean = transport.losses.mean(axis=0)
        ax.plot(transport.times, mean, "o-", color=COLOUR_OF_REGIME[regime], markersize=3,
                label=REGIME_NAMES[regime])  # fmt: skip
    panel = Panel(
        "loss",
        "Loss in the window",
        "means over seeds; a power law would be a straight line",
        "loss over the first loss",
    )
    dress(ax, panel, xlabel=TIME)
    plain_ticks(ax.xaxis, ax.yaxis)
    ax.legend(fontsize=8, frameon=False)


def _draw_drifts(config: ScaleFreeConfig, sweep: Sweep, ax: Axes) -> None:
    for regime in REGIMES:
        transport = transport_of(config, sweep, regime)
        times = np.sqrt(transport.times[1:] * transport.times[:-1])
        supposed = transport.supposed.sum(axis=(0, 2))
        for name, what, line in (("total", "all", "-"), ("flux", "fluxes", "--")):
            moved = getattr(transport, name).sum(axis=(0, 2))
            label = f"{REGIME_NAMES[regime]}, {what}"
            ax.plot(times, moved / supposed, line, color=COLOUR_OF_REGIME[regime], label=label)
    ax.axhline(0, color="0.5", linewidth=0.8)
    panel = Panel(
        "drift",
        r"Drift $c_0 = J t / (\lambda\varepsilon)$ at the edges of shells",
        "by fluxes alone, and by all energy that crosses edges; of all edges and seeds",
        "$c_0$",
    )
    dress(ax, panel, xlabel=TIME, yscale="linear")
    plain_ticks(ax.xaxis)
    ax.legend(fontsize=8, frameon=False)
