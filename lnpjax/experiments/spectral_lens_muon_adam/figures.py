"""The figures of Muon against Adam: spectra of signal and noise, and numbers over batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.estimates import mean_of
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_muon_adam.config import TRAINED_BY
from lnpjax.experiments.spectral_lens_muon_adam.results import Updates, all_updates
from lnpjax.experiments.spectral_lens_muon_adam.updates import RULES
from lnpjax.plotting._style import (
    COLOURS,
    COVERAGE,
    COVERAGE_TEXT,
    Panel,
    dress,
    new_figure,
    palette,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_lens_muon_adam.config import MuonAdamConfig

BATCH = "batch size (sequences)"
STYLES = dict(zip(RULES, (("0.3", "o"), (COLOURS[1], "s"), (COLOURS[4], "^"), (COLOURS[0], "D")),
                  strict=True))  # fmt: skip


def draw(config: MuonAdamConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `spectra.png` and `batch_sizes.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    _draw_spectra(config, sweep, folder / "spectra.png")
    _draw_numbers(config, sweep, folder / "batch_sizes.png")


def _draw_spectra(config: MuonAdamConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((16, 8))
    panels = figure.subplots(len(TRAINED_BY), len(RULES), squeeze=False)
    for name, row in zip(TRAINED_BY, panels, strict=True):
        stored = sweep.arrays(f"updates-{name}-s{config.seeds[0]}")
        for rule, ax in zip(RULES, row, strict=True):
            colours = palette(len(config.batch_sizes))
            values = stored[f"values/{rule}"]
            for colour, size, (signal, noise) in zip(
                colours, config.batch_sizes, values, strict=True
            ):
                ranks = np.arange(1, len(noise) + 1)
                ax.plot(ranks, noise, color=colour, linewidth=1.3, label=f"B = {size}")
                ax.plot(ranks, signal, color=colour, linewidth=1.3, linestyle=(0, (3, 2)))
            caption = f"seed {config.seeds[0]}, after {config.states[-1]} steps"
            panel = Panel(rule, f"{rule}; trained by {name}", caption, "singular value")
            dress(ax, panel, xlabel="rank")
            if np.max(values) > 0:
                ax.set_ylim(bottom=1e-3 * np.max(values))
    panels[0, 0].legend(frameon=False, fontsize=8, title="solid: noise\ndashed: mean update",
                        title_fontsize=8)  # fmt: skip
    figure.suptitle(
        "Noise and signal in updates of the last attention output "
        f"(mean over {config.num_draws} batches, which keeps some of the noise)",
        fontweight="bold",
    )
    write_picture(figure, path)


def _draw_numbers(config: MuonAdamConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((17, 8.4))
    panels = figure.subplots(len(TRAINED_BY), 4, squeeze=False)
    for name, row in zip(TRAINED_BY, panels, strict=True):
        rules = all_updates(config, sweep, name)
        caption = f"after training by {name}; {COVERAGE_TEXT} over seeds"
        share, alignment, distance, rank = row
        _plot(config, share, rules, lambda updates: updates.noise_share)
        panel = Panel("share", "Share of noise", caption, "share of the squared norm")
        dress(share, panel, xlabel=BATCH, yscale="linear")
        _plot(config, alignment, rules, lambda updates: updates.alignment)
        panel = Panel("cos", "An update and the population's", caption, "cosine")
        dress(alignment, panel, xlabel=BATCH, yscale="linear")
        shown = {rule: rules[rule] for rule in ("Muon", "polar factor")}
        _plot(config, distance, shown, lambda updates: updates.distance)
        panel = Panel("d", "Distance from the population's polar factor", caption,
                      "relative distance")  # fmt: skip
        dress(distance, panel, xlabel=BATCH, yscale="linear")
        distance.axhline(2**0.5, color="0.5", linestyle=":", label="unrelated")
        distance.set_ylim(bottom=0)
        _plot(config, rank, rules, lambda updates: updates.rank)
        panel = Panel("rank", "Effective rank of an update", caption, "effective rank")
        dress(rank, panel, xlabel=BATCH, yscale="linear")
        rank.set_ylim(bottom=0)
        for ax in row:
            plain_ticks(ax.xaxis)
    for ax in panels[0, [0, 2]]:
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle("Updates of Muon and of Adam over the batch size", fontweight="bold")
    write_picture(figure, path)


def _plot(
    config: MuonAdamConfig,
    ax: Axes,
    rules: dict[str, Updates],
    number: Callable[[Updates], np.ndarray],
) -> None:
    """Plot means over seeds, each the mean over matrices, with their intervals."""
    for rule, updates in rules.items():
        colour, marker = STYLES[rule]
        means = [mean_of(of_size) for of_size in number(updates).mean(axis=2).T]
        values = np.array([mean.value for mean in means])
        ends = np.array([mean.interval(COVERAGE) for mean in means]).T
        ax.errorbar(
            config.batch_sizes,
            values,
            np.abs(ends - values),
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=rule,
        )
