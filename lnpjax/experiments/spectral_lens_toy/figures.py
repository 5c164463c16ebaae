"""The figures of the Spectral Lens toy, in the arrangement of the paper's Figs. 4 and 11."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.bands import (
    band_name,
    chance_of_first_component,
    chance_of_task_modes,
    deciding_bands,
    task_modes,
    training_counts,
)
from lnpjax.experiments.spectral_lens_toy.config import STAGES, SWEPT_STAGES
from lnpjax.experiments.spectral_lens_toy.results import (
    FRACTIONS,
    JUMP_FRACTIONS,
    TRANSITIONS,
    Curves,
    all_met,
    best_run,
    early_prediction,
    matched_runs,
)
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_lens_toy.config import ToyConfig


STAGE_NAMES = {"baseline": "Baseline", "rope": "RoPE", "muon": "Muon", "untied": "Untied"}
STAGE_COLOURS = dict(zip(STAGES, COLOURS, strict=False))


def draw(config: ToyConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `losses.png`, `figure_4.png` and `figure_11.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    _draw_losses(config, sweep, folder / "losses.png")
    _draw_figure_4(config, sweep, folder / "figure_4.png")
    _draw_figure_11(config, sweep, folder / "figure_11.png")


def _draw_losses(config: ToyConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((13, 4.2))
    axes = figure.subplots(1, len(STAGES), sharey=True)
    colours = palette(len(config.batch_sizes))
    for ax, stage in zip(axes, STAGES, strict=True):
        for colour, batch_size in zip(colours, config.batch_sizes, strict=True):
            if batch_size not in config.batch_sizes_of(stage):
                continue
            for tokens, losses in _by_seed(config, sweep, stage, batch_size):
                ax.plot(tokens, losses, color=colour, label=f"batch {batch_size}")
        common = all_met(config, sweep, stage)
        if common is not None:
            ax.axhline(common, color="0.4", linestyle=":", label="lowest loss that all met")
        panel = Panel("loss", STAGE_NAMES[stage], "validation", "loss (nats per token)")
        dress(ax, panel, xlabel="tokens", xscale="linear", yscale="log")
    _legend(axes[-1])
    figure.suptitle("Toy of Spectral Lens: training", fontweight="bold")
    write_picture(figure, path)


def _by_seed(
    config: ToyConfig, sweep: Sweep, stage: str, batch_size: int
) -> list[tuple[list[float], list[float]]]:
    curves = []
    for seed in config.seeds:
        rows = sweep.rows(kind="loss", stage=stage, batch_size=batch_size, seed=seed, control=False)
        curves.append(([row["tokens"] for row in rows], [row["loss"] for row in rows]))
    return curves


def _draw_figure_4(config: ToyConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((14, 4.6))
    prediction, concentration, profile = figure.subplots(1, 3)
    _draw_prediction(prediction, config, sweep)
    _draw_concentration(concentration, config, sweep)
    _draw_profile(profile, config, sweep)
    figure.suptitle("Toy of Spectral Lens, as its Fig. 4", fontweight="bold")
    write_picture(figure, path)


def _draw_prediction(ax: Axes, config: ToyConfig, sweep: Sweep) -> None:
    first, last = config.window
    for stage in SWEPT_STAGES:
        common = all_met(config, sweep, stage)
        if common is None:
            continue
        correlations = early_prediction(config, sweep, stage)
        runs = f"{correlations[0].num_runs} runs, to a loss of {common:g}"
        ax.plot(
            100 * np.array(FRACTIONS),
            [correlation.rho for correlation in correlations],
            color=STAGE_COLOURS[stage],
            marker="o",
            markersize=3,
            label=f"{STAGE_NAMES[stage]} ({runs})",
        )
    ax.axhline(0, color="0.7", linewidth=0.8)
    ax.set(xlim=(0, 103), ylim=(-1.08, 1.08))
    panel = Panel(
        "rho",
        "(a) Does the early tail rank later cost?",
        rf"exponent over ranks {first} to {last} against tokens to target, over all runs",
        r"Spearman $\rho$",
    )
    dress(ax, panel, xlabel="training progress (% of tokens to target)", **_linear())
    _legend(ax)


def _draw_concentration(ax: Axes, config: ToyConfig, sweep: Sweep) -> None:
    bands = deciding_bands(config.task, config.tracked_bands)
    curves = Curves(config, sweep, "H_S")
    shares = np.array(config.checkpoints) / config.num_blocks
    tokens = shares * config.num_blocks * config.tokens_per_block
    groups = [curves.groups(bands, share) for share in shares]
    for stage in STAGES:
        values = np.array(
            [
                [group[stage, size].mean() for size in config.compared_batch_sizes]
                for group in groups
            ]
        )
        colour = STAGE_COLOURS[stage]
        ax.plot(tokens, values.mean(1), color=colour, label=STAGE_NAMES[stage])
        ax.fill_between(tokens, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
    chances = [chance_of_task_modes(task_modes(config.task, cycle), cycle) for cycle, _ in bands]
    if chances:
        ax.axhline(
            float(np.mean(chances)), color="0.4", linestyle=":", label="chance: random states"
        )
    panel = Panel(
        "H_S",
        "(b) Concentration on the task's modes",
        f"mean over runs, on {', '.join(map(band_name, bands))}; shaded: range over batch sizes",
        r"$H_S$ (share of Fourier energy)",
    )
    dress(ax, panel, xlabel="tokens", **_linear())
    _make_room_above(ax)
    _legend(ax)


def _draw_profile(ax: Axes, config: ToyConfig, sweep: Sweep) -> None:
    best = best_run(sweep, "untied")
    band = config.tracked_bands[-1]
    shares = sweep.arrays(best["unit"])[f"profiles/{band_name(band)}"]
    modes = np.arange(1, shares.shape[1] + 1)
    colour = STAGE_COLOURS["untied"]
    ax.plot(modes, shares[0], color="0.6", marker="o", markersize=3, label="step 0")
    ax.plot(modes, shares[-1], color=colour, marker="o", markersize=3, label="end")
    ax.axhline(1 / len(modes), color="0.4", linestyle=":", label="chance: random states")
    for mode in modes[task_modes(config.task, band[0])]:
        ax.axvspan(mode - 0.5, mode + 0.5, color="0.93", linewidth=0, zorder=0)
    panel = Panel(
        "profile",
        "(c) Fourier profile, Untied",
        f"batch {best['batch_size']}, cycle of {band[0]} tokens from {band[1]}; "
        "shaded: the task's modes",
        "share of energy",
    )
    dress(ax, panel, xlabel="Fourier mode r", **_linear())
    _legend(ax)


def _draw_figure_11(config: ToyConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((14, 4.9))
    spectra, jumps, by_band = figure.subplots(1, 3)
    _draw_spectra(spectra, config, sweep)
    _draw_jumps(jumps, config, sweep)
    _draw_by_band(by_band, config, sweep)
    figure.suptitle("Toy of Spectral Lens, as its Fig. 11", fontweight="bold")
    write_picture(figure, path)


def _draw_spectra(ax: Axes, config: ToyConfig, sweep: Sweep) -> None:
    colours = dict(zip(config.batch_sizes, palette(len(config.batch_sizes)), strict=True))
    matched = matched_runs(config, sweep, "untied")
    for size, colour in colours.items():
        runs = [run for run in matched if run.batch_size == size]
        for run in runs:
            ranks = np.arange(1, len(run.spectrum) + 1)
            mean = np.mean([one.exponent for one in runs])
            label = rf"batch {size}, $\alpha$ = {mean:.2f}"
            ax.plot(ranks, run.spectrum, color=colour, label=label)
    ax.axvspan(*config.window, color="0.93", zorder=0)
    target = f"a loss of {matched[0].target:g}" if matched else "a target loss"
    panel = Panel(
        "spectrum",
        "(a) Spectra at one loss, Untied",
        f"first evaluation at {target} or less, every seed; shaded: fitted ranks",
        "eigenvalue (share of trace)",
    )
    dress(ax, panel, xlabel="rank")
    if not matched:
        ax.text(0.5, 0.5, "not met by all runs", ha="center", transform=ax.transAxes)
    _legend(ax)


def _draw_jumps(ax: Axes, config: ToyConfig, sweep: Sweep) -> None:
    curves = Curves(config, sweep, "H_peak")
    groups = [curves.groups(config.tracked_bands, share) for share in JUMP_FRACTIONS]
    heights = {
        stage: [
            np.mean([group[stage, size] for size in config.compared_batch_sizes])
            for group in groups
        ]
        for stage in STAGES
    }
    width = 0.8 / len(TRANSITIONS)
    places = np.arange(len(JUMP_FRACTIONS))
    for index, (first, second) in enumerate(TRANSITIONS):
        ax.bar(
            places + (index - 1) * width,
            np.subtract(heights[second], heights[first]),
            width,
            color=STAGE_COLOURS[second],
            label=f"{STAGE_NAMES[first]} to {STAGE_NAMES[second]}",
        )
    ax.axhline(0, color="0.4", linewidth=0.8)
    panel = Panel(
        "jump",
        "(b) Gain of each intervention",
        "mean over seeds, batch sizes and bands, at equal tokens",
        r"$\Delta H_{\mathrm{peak}}$",
    )
    dress(ax, panel, xlabel="share of the run", **_linear())
    ax.set_xticks(places, [f"{100 * fraction:g} %" for fraction in JUMP_FRACTIONS])
    _make_room_above(ax)
    _legend(ax)


def _draw_by_band(ax: Axes, config: ToyConfig, sweep: Sweep) -> None:
    curves = Curves(config, sweep, "pc1_peak_mass")
    by_band = [curves.groups([band], 1.0) for band in config.bands]
    places = np.arange(len(config.bands))
    for stage in STAGES:
        values = [
            np.mean([groups[stage, size] for size in config.compared_batch_sizes])
            for groups in by_band
        ]
        ax.plot(places, values, color=STAGE_COLOURS[stage], marker="o", label=STAGE_NAMES[stage])
    chance = [chance_of_first_component(cycle, config.hidden_size) for cycle, _ in config.bands]
    ax.plot(places, chance, color="0.4", linestyle=":", marker="_", label="chance: random states")
    panel = Panel(
        "pc1",
        "(c) First component, by band",
        "at the end of training, mean over seeds and batch sizes",
        "PC1 peak mass",
    )
    dress(ax, panel, xlabel="band (cycle:offset), and its training sequences", **_linear())
    counts = training_counts(config)
    names = [f"{band_name(band)}\n{counts[band]}" for band in config.bands]
    ax.set_xticks(places, names, fontsize=8)
    _make_room_above(ax)
    _legend(ax)


def _linear() -> dict[str, str]:
    return {"xscale": "linear", "yscale": "linear"}


def _make_room_above(ax: Axes) -> None:
    """Leave the top of the panel to the legend."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.35 * (top - bottom))


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        ax.legend(once.values(), once.keys(), frameon=False, fontsize=8)
