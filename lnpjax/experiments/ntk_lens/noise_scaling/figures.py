"""The figures of the noise experiment (NTK Lens, Figs. 4 and 7)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import SET_NAMES
from lnpjax.experiments.ntk_lens.noise_scaling.results import curves, networks_by_set
from lnpjax.plotting._style import Panel, dress, new_figure, palette, saved

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.noise_scaling.config import NoiseConfig


def draw(config: NoiseConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `figure_4_SET.png` and `figure_7_SET.png` for every set.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    colours = palette(len(config.replaced))
    for images, networks in networks_by_set(sweep).items():
        figure = new_figure((11, 4.4))
        for ax, network in zip(figure.subplots(1, len(networks)), networks, strict=True):
            for colour, share in zip(colours, config.replaced, strict=True):
                where = {"set": images, "network": network, "replaced": share}
                epochs, ranks = curves(sweep, "rank", **where)
                label = f"{100 * share:g} % replaced"
                ax.plot(epochs, ranks.mean(0), color=colour, marker="o", markersize=3, label=label)
                spread = ranks.std(0) / len(ranks) ** 0.5
                ax.fill_between(
                    epochs, ranks.mean(0) - spread, ranks.mean(0) + spread, color=colour,
                    alpha=0.15, linewidth=0,
                )  # fmt: skip
            panel = Panel(
                "rank",
                network.capitalize(),
                "kernel of normalised gradients on test images; shaded: standard error",
                r"effective rank $\Gamma(\Theta)$",
            )
            dress(ax, panel, xlabel="epoch", xscale="symlog", yscale="linear")
            ax.set_xlim(left=0)
        figure.axes[0].legend(frameon=False, fontsize=8)
        figure.suptitle(
            f"Effective rank where classes have less to learn: {SET_NAMES[images]}, 4 classes",
            fontweight="bold",
        )
        saved(figure, folder / f"figure_4_{images}.png")
        _draw_accuracies(config, sweep, images, networks, folder / f"figure_7_{images}.png")


def _draw_accuracies(
    config: NoiseConfig, sweep: Sweep, images: str, networks: list[str], path: Path
) -> None:
    figure = new_figure((11, 7.5))
    axes = figure.subplots(2, len(networks), sharex=True, sharey="row")
    for row, (column, what) in zip(
        axes, (("train_accuracy", "training"), ("test_accuracy", "test")), strict=True
    ):
        for ax, network in zip(row, networks, strict=True):
            for colour, share in zip(palette(len(config.replaced)), config.replaced, strict=True):
                where = {"set": images, "network": network, "replaced": share}
                epochs, values = curves(sweep, column, **where)
                label = f"{100 * share:g} % replaced"
                ax.plot(epochs, values.mean(0), color=colour, label=label)
            caption = f"mean over {len(values)} networks"
            panel = Panel(column, f"{network.capitalize()}: {what}", caption, f"{what} accuracy")
            dress(ax, panel, xlabel="epoch", xscale="symlog", yscale="linear")
            ax.set_xlim(left=0)
    axes[0, 0].legend(frameon=False, fontsize=8)
    title = f"Accuracy where classes have less to learn: {SET_NAMES[images]}, 4 classes"
    figure.suptitle(title, fontweight="bold")
    saved(figure, path)
