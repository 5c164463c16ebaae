"""The figures of the chain, in the arrangement of the paper's Figs. 3, 13 to 15 and 17."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens.reading import curve_of
from lnpjax.experiments.spectral_lens.run_config import MLP_OUTPUT, OUTPUT
from lnpjax.experiments.spectral_lens_chain.claims import (
    ACTIVATION_LED,
    GRADIENT_LED,
    THROUGHPUT,
    chain_of,
)
from lnpjax.experiments.spectral_lens_chain.config import CHAIN, ChainConfig
from lnpjax.experiments.spectral_lens_chain.results import (
    before,
    common_target,
    log_throughput,
    spectra_of,
)
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ATLASES = {"figure_13": CHAIN[:4], "figure_14": CHAIN[4:10], "figure_15": CHAIN[10:]}
GROUPS = {
    "led by activations (paper)": (ACTIVATION_LED, COLOURS[0]),
    "led by gradients (paper)": (GRADIENT_LED, COLOURS[1]),
    "execution (paper)": (THROUGHPUT, COLOURS[2]),
    "other": (
        tuple(name for name in CHAIN if name not in (*ACTIVATION_LED, *GRADIENT_LED, *THROUGHPUT)),
        "0.6",
    ),
}


def draw(config: ChainConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `losses.png`, `figure_3.png`, the atlases and `figure_17.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    _draw_losses(config, sweep, folder / "losses.png")
    target = common_target(config, sweep)
    if target is not None:
        _draw_taxonomy(config, sweep, target, folder / "figure_3.png")
        _draw_weights(config, sweep, target, folder / "figure_17.png")
    for name, variants in ATLASES.items():
        shown = [variant for variant in variants if variant in config.variants]
        if shown:
            _draw_atlas(config, sweep, shown, folder / f"{name}.png")


def _draw_losses(config: ChainConfig, sweep: Sweep, path: Path) -> None:
    figure = new_figure((8.5, 5.2))
    ax = figure.subplots()
    for colour, variant in zip(palette(len(config.variants)), config.variants, strict=True):
        for seed in config.seeds_of(variant):
            tokens, losses = curve_of(sweep, variant=variant, seed=seed)
            ax.plot(tokens[1:], losses[1:], color=colour, linewidth=1, label=variant)
    target = common_target(config, sweep)
    if target is not None:
        ax.axhline(
            target,
            color="0.4",
            linestyle=":",
            label=f"common target {target:g} (not of {config.variants[0]})",
        )
    panel = Panel(
        "loss", "Losses of the chain", "one line per seed", "validation loss (nats per byte)"
    )
    dress(ax, panel, xlabel="tokens", yscale="linear")
    _legend(ax, outside=True)
    write_picture(figure, path)


def _draw_taxonomy(config: ChainConfig, sweep: Sweep, target: float, path: Path) -> None:
    figure = new_figure((16, 5.4))
    gains, spectra, exponents = figure.subplots(1, 3)
    chain, speeds = chain_of(config, sweep), log_throughput(config, sweep)
    numbers, names = chain.common, list(chain.targets)
    places = np.arange(len(names))
    token = [chain.change("tokens", {name: -1.0}).value for name in names]
    speed = [speeds[name].mean() - speeds[before(name)].mean() for name in names]
    gains.barh(places - 0.2, token, 0.4, color=COLOURS[0], label="tokens")
    gains.barh(places + 0.2, speed, 0.4, color=COLOURS[1], label="throughput (this machine)")
    gains.axvline(0, color="0.4", linewidth=0.8)
    panel = Panel("gains", "(a) What each change brought", "at the lowest loss of both sides; "
                  "positive is better", "")  # fmt: skip
    dress(gains, panel, xlabel="log gain over the variant before", **_linear())
    gains.set_yticks(places, [f"{name}, {chain.targets[name]:g}" for name in names], fontsize=8)
    gains.invert_yaxis()
    _legend(gains)
    for colour, variant in zip(palette(len(config.variants)), config.variants, strict=True):
        at = _at(config, sweep, variant, target, of="gradients", part=OUTPUT)
        if at is not None:
            spectra.plot(np.arange(1, len(at) + 1), at, color=colour, linewidth=1, label=variant)
    caption = f"per-sample gradients of the last attention output, at a loss of {target:g}"
    dress(spectra, Panel("g", "(b) Gradient spectra", caption, "share of trace"), xlabel="rank")
    _legend(spectra)
    for label, (members, colour) in GROUPS.items():
        shown = [name for name in members if name in numbers.activations]
        x, y = ([group[name].mean() for name in shown]
                for group in (numbers.activations, numbers.gradients))  # fmt: skip
        exponents.scatter(x, y, color=colour, s=28, label=label)
        for name, *place in zip(shown, x, y, strict=True):
            exponents.annotate(
                name, place, (4, 3), textcoords="offset points", fontsize=7, color="0.3"
            )
    panel = Panel("alpha", "(c) Head exponents", f"at a loss of {target:g}, mean over seeds",
                  r"gradients' $\alpha_\mathrm{head}$")  # fmt: skip
    dress(exponents, panel, xlabel=r"activations' $\alpha_\mathrm{head}$", **_linear())
    _legend(exponents)
    figure.suptitle("Chain of variants, as Fig. 3 of Spectral Lens", fontweight="bold")
    write_picture(figure, path)


def _draw_atlas(config: ChainConfig, sweep: Sweep, variants: list[str], path: Path) -> None:
    figure = new_figure((13.5, 3.3 * len(variants) + 0.6))
    panels = figure.subplots(len(variants), 3, squeeze=False)
    views = (("activations", ""), ("gradients", OUTPUT))
    for variant, row in zip(variants, panels, strict=True):
        for ax, (of, part) in zip(row, views, strict=False):
            measured = [pair for pair in spectra_of(config, sweep, variant, of=of, part=part)
                        if np.isnan(pair[0]["target"])]  # fmt: skip
            for colour, (place, values) in zip(palette(len(measured)), measured, strict=True):
                shown = values > 1e-9
                ranks = np.arange(1, len(values) + 1)[shown]
                label = f"{place['tokens']:.2g} tokens"
                ax.plot(ranks, values[shown], color=colour, linewidth=1, label=label)
            title = f"{variant}: {of}"
            dress(ax, Panel(of, title, "of the last layer", "share of trace"), xlabel="rank")
        _legend(row[0])
        _plot_summary(row[2], spectra_of(config, sweep, variant, of="activations"), variant)
    write_picture(figure, path)


def _plot_summary(
    ax: Axes, measured: list[tuple[dict[str, Any], np.ndarray]], variant: str
) -> None:
    places = [place for place, _ in measured if place["tokens"] > 0]
    tokens = [place["tokens"] for place in places]
    ax.plot(tokens, [place["rank_me"] for place in places], "o-", color=COLOURS[0], markersize=3)
    panel = Panel("rank", f"{variant}: over training", "activations of the last layer", "RankMe")
    dress(ax, panel, xlabel="tokens", yscale="linear")
    ax.yaxis.label.set_color(COLOURS[0])
    other = ax.twinx()
    other.plot(tokens, [place["alpha_tail"] for place in places], "s-", color=COLOURS[1],
               markersize=3)  # fmt: skip
    other.set_ylabel(r"$\alpha_\mathrm{tail}$", color=COLOURS[1])
    other.spines["top"].set_visible(False)


def _draw_weights(config: ChainConfig, sweep: Sweep, target: float, path: Path) -> None:
    figure = new_figure((13, 5))
    parts = {"attention output": OUTPUT, "feed-forward output": MLP_OUTPUT}
    for ax, (title, part) in zip(figure.subplots(1, 2), parts.items(), strict=True):
        for colour, variant in zip(palette(len(config.variants)), config.variants, strict=True):
            at = _at(config, sweep, variant, target, of="weights", part=part)
            if at is not None:
                ax.plot(np.arange(1, len(at) + 1), at, color=colour, linewidth=1, label=variant)
        caption = f"squared singular values at a loss of {target:g}"
        dress(ax, Panel(part, f"Last {title}", caption, "share of trace"), xlabel="rank")
    _legend(ax, outside=True)
    figure.suptitle("Weights, as Fig. 17 of Spectral Lens", fontweight="bold")
    write_picture(figure, path)


def _at(
    config: ChainConfig, sweep: Sweep, variant: str, target: float, *, of: str, part: str
) -> np.ndarray | None:
    """Return the spectrum at the target, as far as it is above rounding."""
    for place, values in spectra_of(config, sweep, variant, of=of, part=part):
        if place["target"] == target:
            return values[values > 1e-9]
    return None


def _linear() -> dict[str, str]:
    return {"xscale": "linear", "yscale": "linear"}


def _legend(ax: Axes, *, outside: bool = False) -> None:
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if outside else {}
    if once:
        ax.legend(once.values(), once.keys(), frameon=False, fontsize=7, **place)
