"""The figures of the Spectral Lens toy, in the arrangement of the paper's Figs. 4 and 11."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.config import STAGES
from lnpjax.experiments.spectral_lens_toy.results import (
    FRACTIONS,
    JUMP_FRACTIONS,
    best_run,
    early_prediction,
    final_by_band,
    matched_runs,
    over_training,
    peak_jumps,
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
            for tokens, losses in _by_seed(config, sweep, stage, batch_size):
                ax.plot(tokens, losses, color=colour, label=f"batch {batch_size}")
        ax.axhline(config.target_loss, color="0.4", linestyle=":", label="target")
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
    first, last = config.window
    for stage in STAGES[2:]:
        correlations = early_prediction(sweep, stage)
        prediction.plot(
            100 * np.array(FRACTIONS),
            [correlation.rho for correlation in correlations],
            color=STAGE_COLOURS[stage],
            marker="o",
            markersize=3,
            label=f"{STAGE_NAMES[stage]} ({correlations[0].num_runs} runs at target)",
        )
    prediction.axhline(0, color="0.7", linewidth=0.8)
    prediction.set(xlim=(0, 103), ylim=(-1.08, 1.08))
    panel = Panel(
        "rho",
        "(a) Does the early tail rank later cost?",
        rf"exponent over ranks {first} to {last} against tokens to target, over batch sizes",
        r"Spearman $\rho$",
    )
    dress(prediction, panel, xlabel="training progress (% of tokens to target)", **_linear())
    _legend(prediction)

    tokens = np.array(config.checkpoints) * config.tokens_per_block
    for stage in STAGES:
        curves = np.stack(list(over_training(config, sweep, stage, "H_S").values()))
        colour = STAGE_COLOURS[stage]
        concentration.plot(tokens, curves.mean(0), color=colour, label=STAGE_NAMES[stage])
        concentration.fill_between(
            tokens, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0
        )
    panel = Panel(
        "H_S",
        "(b) Concentration on the task's modes",
        "mean over batch sizes and bands; shaded: from the least to the greatest batch size",
        r"$H_S$ (share of Fourier energy)",
    )
    dress(concentration, panel, xlabel="tokens", **_linear())
    _legend(concentration)

    best = best_run(sweep, "untied")
    cycle, offset = config.tracked_bands[-1]
    shares = sweep.arrays(best["unit"])[f"profiles/{cycle}:{offset}"]
    modes = np.arange(1, shares.shape[1] + 1)
    profile.plot(modes, shares[0], color="0.6", marker="o", markersize=3, label="step 0")
    profile.plot(
        modes, shares[-1], color=STAGE_COLOURS["untied"], marker="o", markersize=3, label="end"
    )
    panel = Panel(
        "profile",
        "(c) Fourier profile, Untied",
        f"batch {best['batch_size']}, cycle of {cycle} tokens from {offset}",
        "share of energy",
    )
    dress(profile, panel, xlabel="Fourier mode r", **_linear())
    _legend(profile)
    figure.suptitle("Toy of Spectral Lens, as its Fig. 4", fontweight="bold")
    write_picture(figure, path)


def _draw_figure_11(config: ToyConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((14, 4.6))
    spectra, jumps, sweep_axis = figure.subplots(1, 3)
    colours = dict(zip(config.batch_sizes, palette(len(config.batch_sizes)), strict=True))
    matched = matched_runs(sweep, "untied")
    for run in matched:
        ranks = np.arange(1, len(run.spectrum) + 1)
        label = rf"batch {run.batch_size}, $\alpha$ = {run.exponent:.2f}"
        spectra.plot(ranks, run.spectrum, color=colours[run.batch_size], label=label)
    spectra.axvspan(*config.window, color="0.93", zorder=0)
    panel = Panel(
        "spectrum",
        "(a) Spectra at one loss, Untied",
        f"first evaluation with a loss of at most {config.target_loss:g}; shaded: fitted ranks",
        "eigenvalue (share of trace)",
    )
    dress(spectra, panel, xlabel="rank")
    if not matched:
        spectra.text(0.5, 0.5, "no run met the target", ha="center", transform=spectra.transAxes)
    _legend(spectra)

    found = peak_jumps(config, sweep)
    width = 0.8 / len(found)
    places = np.arange(len(JUMP_FRACTIONS))
    for index, ((first, second), values) in enumerate(found.items()):
        label = f"{STAGE_NAMES[first]} to {STAGE_NAMES[second]}"
        jumps.bar(
            places + (index - 1) * width,
            values.mean(0),
            width,
            color=STAGE_COLOURS[second],
            label=label,
        )
    jumps.axhline(0, color="0.4", linewidth=0.8)
    panel = Panel(
        "jump",
        "(b) Gain of each intervention",
        "mean over batch sizes and bands, at equal tokens",
        r"$\Delta H_{\mathrm{peak}}$",
    )
    dress(jumps, panel, xlabel="share of the run", **_linear())
    jumps.set_xticks(places, [f"{100 * fraction:g} %" for fraction in JUMP_FRACTIONS])
    _make_room_above(jumps)
    _legend(jumps)

    bands = np.arange(len(config.bands))
    for stage in STAGES:
        values = final_by_band(config, sweep, stage, "pc1_peak_mass").mean(0)
        sweep_axis.plot(
            bands, values, color=STAGE_COLOURS[stage], marker="o", label=STAGE_NAMES[stage]
        )
    panel = Panel(
        "pc1",
        "(c) First component, by band",
        "at the end of training, mean over batch sizes",
        "PC1 peak mass",
    )
    dress(sweep_axis, panel, xlabel="band (cycle:offset)", **_linear())
    names = [f"{cycle}:{offset}" for cycle, offset in config.bands]
    sweep_axis.set_xticks(bands, names, rotation=45)
    _make_room_above(sweep_axis)
    _legend(sweep_axis)
    figure.suptitle("Toy of Spectral Lens, as its Fig. 11", fontweight="bold")
    write_picture(figure, path)


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
