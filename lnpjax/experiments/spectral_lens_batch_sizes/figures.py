"""The figures of batch sizes, in the arrangement of Figs. 1, 2, 6 to 10 and 18 of Spectral Lens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.comparison import correlation_over_fraction, min_max_normalize
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_batch_sizes.results import (
    EARLY,
    MATRICES,
    family_of,
    inefficiency,
    layers_of,
    runs_of,
    spectrum_at,
    target_of,
    tokens_of,
)
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lnpjax.experiments.spectral_lens_batch_sizes.config import BatchSizeConfig
    from lnpjax.runs import RunSummary

RESOLVED = 1e-9
RHO = r"Spearman's $\rho$"
LINEAR = {"xscale": "linear", "yscale": "linear"}


def draw(config: BatchSizeConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `losses.png`, `spectra.png` (Figs. 1a, 7), and `figure_2`, `_6`, `_8` to `_10`, `_18`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    runs = {name: runs_of(config, sweep, name, config.seeds[0]) for name in config.variants}
    targets = {name: target_of(config, sweep, [name]) for name in config.variants}
    met = {name: target for name, target in targets.items() if target is not None}
    _draw_losses(config, runs, met, folder / "losses.png")
    _draw_matrices(config, runs, folder / "figure_6.png")
    _draw_phases(config, runs, folder / "figure_18.png")
    if not met:
        return
    _draw_spectra(config, runs, met, folder / "spectra.png")
    _draw_prediction(config, sweep, met, folder / "figure_2.png")
    _draw_over_training(runs, met, folder / "figure_8.png")
    _draw_seeds(config, sweep, met, folder / "figure_9.png")
    _draw_layers(config, sweep, met, folder / "figure_10.png")


def _row_of(names: Sequence[str], height: float = 4.4) -> tuple[Figure, Sequence[Axes]]:
    figure = new_figure((max(5.2 * len(names), 7.0), height))
    return figure, figure.subplots(1, len(names), squeeze=False)[0]


def _draw_losses(
    config: BatchSizeConfig,
    runs: dict[str, list[RunSummary]],
    targets: dict[str, float],
    path: Path,
) -> None:
    figure, panels = _row_of(list(runs))
    for ax, (name, of_variant) in zip(panels, runs.items(), strict=True):
        for colour, size, run in _coloured(config, of_variant):
            ax.plot(run.validation_tokens[1:], run.validation_losses[1:], color=colour,
                    linewidth=1.2, label=f"B = {size}")  # fmt: skip
        if name in targets:
            ax.axhline(targets[name], color="0.4", linestyle=":", label="common target")
        panel = Panel("loss", name, f"seed {config.seeds[0]}", "validation loss (nats per byte)")
        dress(ax, panel, xlabel="tokens", yscale="linear")
        plain_ticks(ax.xaxis)
    panels[-1].legend(frameon=False, fontsize=8)
    figure.suptitle("Losses at several batch sizes, as Fig. 12", fontweight="bold")
    write_picture(figure, path)


def _draw_spectra(
    config: BatchSizeConfig,
    runs: dict[str, list[RunSummary]],
    targets: dict[str, float],
    path: Path,
) -> None:
    figure = new_figure((max(5.2 * len(targets), 7.0), 8.4))
    panels = figure.subplots(2, len(targets), squeeze=False)
    for column, (name, target) in zip(panels.T, targets.items(), strict=True):
        views = (("activations", "last layer"), ("gradients", "last attention output"))
        for ax, (kind, where) in zip(column, views, strict=True):
            for colour, size, run in _coloured(config, runs[name]):
                values = spectrum_at(run, target, kind)
                shown = values > RESOLVED
                ax.plot(np.arange(1, len(values) + 1)[shown], values[shown], color=colour,
                        linewidth=1.2, label=f"B = {size}")  # fmt: skip
            caption = f"{where}, at a loss of {target:g}; seed {config.seeds[0]}"
            dress(ax, Panel(kind, f"{name}: {kind}", caption, "share of trace"), xlabel="rank")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle("Spectra at equal loss, as Figs. 1a and 7", fontweight="bold")
    write_picture(figure, path)


def _draw_prediction(
    config: BatchSizeConfig, sweep: Sweep, targets: dict[str, float], path: Path
) -> None:
    figure, (ax,) = _row_of(["all"], 5.0)
    for colour, (name, target) in zip(palette(len(targets)), targets.items(), strict=True):
        family = family_of(config, sweep, name, target)
        for seed, (early, costs) in enumerate(
            zip(family.early.T, inefficiency(family).T, strict=True)
        ):
            marker = "os^Dv"[seed % 5]
            ax.plot(min_max_normalize(early).values, costs, marker, color=colour, markersize=5,
                    label=name if seed == 0 else None)  # fmt: skip
    caption = f"exponents after {EARLY:.0%} of the fewest tokens; one marker per seed"
    panel = Panel("early", "Early tails and later cost, as Fig. 2", caption.replace("%", " %"),
                  "tokens to the target / fewest")  # fmt: skip
    dress(ax, panel, xlabel=r"early $\alpha_\mathrm{tail}$, normalised by family", **LINEAR)
    ax.legend(frameon=False, fontsize=8)
    write_picture(figure, path)


def _draw_matrices(config: BatchSizeConfig, runs: dict[str, list[RunSummary]], path: Path) -> None:
    figure, panels = _row_of(list(runs))
    place = config.batch_sizes.index(config.reference_batch_size)
    for ax, (name, of_variant) in zip(panels, runs.items(), strict=True):
        run = of_variant[place]
        for colour, (label, part) in zip(COLOURS, MATRICES.items(), strict=False):
            ranks = run.series("gradients", "rank_me", config.deepest + part)
            tokens = run.spectra_tokens()
            ax.plot(tokens[tokens > 0], ranks[tokens > 0], "o-", color=colour, markersize=3,
                    linewidth=1.2, label=label)  # fmt: skip
        caption = f"last layer; batch size {config.reference_batch_size}, seed {config.seeds[0]}"
        dress(ax, Panel("rank", f"{name}: gradients", caption, "RankMe"), xlabel="tokens",
              yscale="linear")  # fmt: skip
        plain_ticks(ax.xaxis)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Gradients of four matrices, as Fig. 6", fontweight="bold")
    write_picture(figure, path)


def _draw_phases(config: BatchSizeConfig, runs: dict[str, list[RunSummary]], path: Path) -> None:
    figure, panels = _row_of(list(runs))
    for ax, (name, of_variant) in zip(panels, runs.items(), strict=True):
        for colour, size, run in _coloured(config, of_variant):
            tokens, ranks = run.spectra_tokens(), run.series("activations", "rank_me")
            ax.plot(tokens[tokens > 0], ranks[tokens > 0], "o-", color=colour, markersize=3,
                    linewidth=1.2, label=f"B = {size}")  # fmt: skip
        caption = f"activations of the last layer; seed {config.seeds[0]}"
        dress(ax, Panel("rank", name, caption, "RankMe"), xlabel="tokens", yscale="linear")
        plain_ticks(ax.xaxis)
    panels[-1].legend(frameon=False, fontsize=8)
    figure.suptitle("RankMe over training, as Fig. 18", fontweight="bold")
    write_picture(figure, path)


def _draw_over_training(
    runs: dict[str, list[RunSummary]], targets: dict[str, float], path: Path
) -> None:
    figure, panels = _row_of(list(targets))
    for ax, (name, target) in zip(panels, targets.items(), strict=True):
        curves = correlation_over_fraction(runs[name], tokens_of(runs[name], target))
        for colour, window, found in zip(
            COLOURS, curves.windows, curves.correlations, strict=False
        ):
            label = f"ranks {window[0]} to {window[1]}"
            rho = [correlation.rho for correlation in found]
            ax.plot(curves.fractions, rho, color=colour, linewidth=1.2, label=label)
        ax.axvline(EARLY, color="0.5", linestyle=":")
        ax.set_ylim(-1.05, 1.05)
        caption = "exponents at equal tokens of all batch sizes"
        dress(ax, Panel("rho", name, caption, RHO),
              xlabel="share of the fewest tokens to the target", **LINEAR)  # fmt: skip
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Prediction over training, as Fig. 8", fontweight="bold")
    write_picture(figure, path)


def _draw_seeds(
    config: BatchSizeConfig, sweep: Sweep, targets: dict[str, float], path: Path
) -> None:
    name, target = list(targets.items())[-1]
    place = config.batch_sizes.index(config.reference_batch_size)
    figure, (loss, *views) = _row_of(["loss", "activations", "gradients"])
    for colour, seed in zip(palette(len(config.seeds)), config.seeds, strict=True):
        run = runs_of(config, sweep, name, seed)[place]
        style = {"color": colour, "linewidth": 1.2, "label": f"seed {seed}"}
        loss.plot(run.validation_tokens[1:], run.validation_losses[1:], **style)
        for ax, kind in zip(views, ("activations", "gradients"), strict=True):
            values = spectrum_at(run, target, kind)
            shown = values > RESOLVED
            ax.plot(np.arange(1, len(values) + 1)[shown], values[shown], **style)
            panel = Panel(kind, kind.capitalize(), f"at a loss of {target:g}", "share of trace")
            dress(ax, panel, xlabel="rank")
    dress(loss, Panel("loss", "Losses", "", "validation loss (nats per byte)"), xlabel="tokens",
          yscale="linear")  # fmt: skip
    plain_ticks(loss.xaxis)
    loss.legend(frameon=False, fontsize=8)
    title = f"Seeds of {name} at batch size {config.reference_batch_size}, as Fig. 9"
    figure.suptitle(title, fontweight="bold")
    write_picture(figure, path)


def _draw_layers(
    config: BatchSizeConfig, sweep: Sweep, targets: dict[str, float], path: Path
) -> None:
    figure, (ax,) = _row_of(["all"], 5.0)
    for colour, (name, target) in zip(palette(len(targets)), targets.items(), strict=True):
        rho = np.mean(
            [
                [correlation.rho for correlation in layers_of(runs, target).correlations]
                for runs in (runs_of(config, sweep, name, seed) for seed in config.seeds)
            ],
            axis=0,
        )
        ax.plot(np.arange(len(rho)), rho, "o-", color=colour, markersize=4, label=name)
    ax.set_ylim(-1.05, 1.05)
    caption = f"tail exponents after {EARLY:.0%} of the fewest tokens; mean over seeds"
    panel = Panel("rho", "Prediction by layer, as Fig. 10", caption.replace("%", " %"), RHO)
    dress(ax, panel, xlabel="layer", **LINEAR)
    ax.set_xticks(range(config.size.num_layers))
    ax.legend(frameon=False, fontsize=8)
    write_picture(figure, path)


def _coloured(
    config: BatchSizeConfig, runs: list[RunSummary]
) -> list[tuple[object, int, RunSummary]]:
    colours = palette(len(config.batch_sizes))
    return list(zip(colours, config.batch_sizes, runs, strict=True))
