"""The figures of the noise experiment (NTK Lens, Figs. 4 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lnpjax.experiments._harness.estimates import standard_error
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import SET_NAMES
from lnpjax.experiments.ntk_lens.noise_scaling.results import NoiseRuns, noise_runs
from lnpjax.plotting._style import Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.ntk_lens.noise_scaling.config import NoiseConfig

RANKS = (("rank", "effective rank", r"effective rank $\Gamma(\Theta)$"),)
PERFORMANCE = (
    ("train_accuracy", "training accuracy", "training accuracy"),
    ("test_accuracy", "test accuracy", "test accuracy"),
    ("train_loss", "training loss", "training loss (nats)"),
)


def draw(config: NoiseConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `figure_4_SET.png` and `figure_7_SET.png` for every set.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    runs = noise_runs(config, sweep)
    for images in dict.fromkeys(run.images for run in runs):
        chosen = [run for run in runs if run.images == images]
        what = "Effective rank where classes have less to learn"
        _draw(chosen, RANKS, what, folder / f"figure_4_{images}.png")
        what = "Performance where classes have less to learn"
        _draw(chosen, PERFORMANCE, what, folder / f"figure_7_{images}.png")


def _draw(
    runs: Sequence[NoiseRuns], rows: Sequence[tuple[str, str, str]], what: str, path: Path
) -> None:
    """One row per quantity, one column per kind of network."""
    figure = new_figure((11, 1 + 3.5 * len(rows)))
    axes = figure.subplots(len(rows), len(runs), sharey="row", squeeze=False)
    for (column, title, label), row in zip(rows, axes, strict=True):
        for ax, run in zip(row, runs, strict=True):
            _draw_shares(ax, run, column)
            members = run.values[column].shape[1]
            caption = f"mean over {members} networks; shaded: standard error"
            panel = Panel(column, f"{run.network.capitalize()}: {title}", caption, label)
            yscale = "log" if column == "train_loss" else "linear"
            dress(ax, panel, xlabel="epoch", xscale="symlog", yscale=yscale)
            ax.set_xlim(left=0)
            ticks = [epoch for epoch in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
                     if epoch <= run.epochs[-1]]  # fmt: skip
            ax.set_xticks(ticks, [str(tick) for tick in ticks])
            if yscale == "log":
                plain_ticks(ax.yaxis)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{what}: {SET_NAMES[runs[0].images]}, 4 classes", fontweight="bold")
    write_picture(figure, path)


def _draw_shares(ax: Axes, run: NoiseRuns, column: str) -> None:
    """One curve for each share that is replaced."""
    for colour, kept, values in zip(
        palette(len(run.kept)), run.kept, run.values[column], strict=True
    ):
        mean, error = values.mean(0), standard_error(values)
        label = f"{100 * (1 - kept):g} % replaced"
        ax.plot(run.epochs, mean, color=colour, marker="o", markersize=3, label=label)
        band = (mean - error, mean + error)
        ax.fill_between(run.epochs, *band, color=colour, alpha=0.2, linewidth=0)
