"""The figures of the random feature experiment: Fig. 3 of Spectral Reach, and what is behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.random_features.results import (
    Averages,
    averages,
    component,
    constant_over,
    of_spectra,
    population_law,
    tail_exponents,
)
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette
from lnpjax.spectra import normalized_spectrum, spectral_resolution
from lnpjax.theory.random_features import power_law_variances

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.random_features.config import RandomFeatureConfig


BLUE, RED, GREEN, PINK, ORANGE, *_ = COLOURS
BETA = r"spectral exponent $\beta$"


def draw(config: RandomFeatureConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `figure_3.png` and `predictions.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure((12.5, 4.8))
    spectra, components = figure.subplots(1, 2)
    _draw_spectra(config, sweep, spectra)
    _draw_components(config, sweep, components)
    figure.suptitle(
        f"Random features on power-law data: n = {config.num_samples:,}, d = {config.dimension}, "
        f"m = {config.num_features:,}, {config.num_seeds} seeds",
        fontweight="bold",
    )
    write_picture(figure, folder / "figure_3.png")

    tails = {beta: by_d for beta, by_d in tail_exponents(config, sweep).items() if len(by_d) > 1}
    figure = new_figure((18.5 if tails else 12.5, 4.8))
    predictions, exponents, *in_dimension = figure.subplots(1, 3 if tails else 2)
    _draw_predictions(config, sweep, predictions)
    _draw_exponents(config, sweep, exponents)
    for ax in in_dimension:
        _draw_tails(tails, ax)
    figure.suptitle("Behind Fig. 3: which prediction holds, and how closely", fontweight="bold")
    write_picture(figure, folder / "predictions.png")


def _draw_spectra(config: RandomFeatureConfig, sweep: Sweep, ax: Axes) -> None:
    ranks = np.arange(1, config.dimension + 1)
    for colour, beta in zip(palette(len(config.betas)), config.betas, strict=True):
        inputs = np.asarray(
            normalized_spectrum(jnp.asarray(power_law_variances(config.dimension, beta)))
        )
        ax.plot(ranks, inputs, color=colour, linestyle=(0, (2, 2)), linewidth=1)
        eigenvalues = sweep.arrays(f"spectra-beta{beta:g}")["eigenvalues"][0]
        shares = np.asarray(normalized_spectrum(jnp.asarray(eigenvalues)))
        resolved = shares > spectral_resolution(len(shares), shares.dtype) * shares[0]
        ax.plot(
            1 + np.flatnonzero(resolved),
            shares[resolved],
            color=colour,
            label=rf"$\beta = {beta:g}$",
        )
    panel = Panel(
        "spectra",
        "Spectra of data and kernel",
        "dashed: covariance of the data. Solid: kernel of centred features, as far as resolved",
        "share of the trace",
    )
    dress(ax, panel, xlabel="rank $k$")
    ax.legend(fontsize=8, frameon=False, loc="lower left", ncols=2)


def _draw_components(config: RandomFeatureConfig, sweep: Sweep, ax: Axes) -> None:
    names = (
        ("chi_net", r"$\chi_{net}$", BLUE, "s"),
        ("chi_loss", r"$\chi_{loss}$", GREEN, "x"),
        ("chi_pos", r"$\chi_{pos}$", RED, "o"),
    )
    for name, label, colour, marker in names:
        measured = component(config, sweep, name)
        _points(config, ax, measured, color=colour, marker=marker, label=label)
    ax.axhline(1, color="0.2", linewidth=1, linestyle="--", zorder=1, label="prediction: 1")
    law = population_law(config)
    constant = constant_over(component(config, sweep, "chi_pos").mean, law)
    label = rf"prediction: {constant:.2f} $\sum k^{{-2\beta}}/(\sum k^{{-\beta}})^2$"
    ax.plot(config.betas, constant * law, color="0.2", linewidth=1.2, zorder=1, label=label)
    panel = Panel(
        "components",
        "Components at the start of training",
        "full batch; means over seeds, grey bars of two standard errors",
        "LNP components",
    )
    dress(ax, panel, xlabel=BETA, xscale="linear")
    ax.legend(fontsize=8, frameon=False, loc="lower right")


def _draw_predictions(config: RandomFeatureConfig, sweep: Sweep, ax: Axes) -> None:
    measured = component(config, sweep, "chi_pos")
    law = population_law(config)
    ratios = measured.mean / (constant_over(measured.mean, law) * law)
    ax.axhspan(0.95, 1.05, color="0.93", zorder=0)
    ax.axhline(1, color="0.4", linewidth=0.8, zorder=1)
    lines = (
        (ratios, measured.sem / measured.mean, "(11), one constant fitted", "0.2", "o"),
        (*_against(config, sweep, "predicted_printed"), "(46), all of $K$", PINK, "^"),
        (*_against(config, sweep, "predicted_centred"), "(46), $PKP$", ORANGE, "s"),
        (*_against(config, sweep, "expected_centred"), "mean over teachers, $PKP$", RED, "D"),
    )
    offsets = np.linspace(-0.02, 0.02, len(lines))
    for offset, (ratios, errors, label, colour, marker) in zip(offsets, lines, strict=True):
        ax.plot(np.array(config.betas) + offset, ratios, color=colour, linewidth=0.8, alpha=0.5)
        _points(
            config,
            ax,
            Averages(ratios, ratios * errors),
            offset=offset,
            color=colour,
            marker=marker,
            label=label,
        )
    panel = Panel(
        "predictions",
        r"Measured $\chi_{pos}$ over its predictions",
        "bars: two standard errors; band: within 5 %. $P$ takes the mean off, as the targets do",
        "measured / predicted",
    )
    dress(ax, panel, xlabel=BETA, xscale="linear", yscale="linear")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8, frameon=False, loc="lower right")


def _against(config: RandomFeatureConfig, sweep: Sweep, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Measured chi_pos over a prediction, and the relative error of that."""
    ratio = component(config, sweep, "chi_pos").over(of_spectra(config, sweep, name))
    return ratio.mean, ratio.sem / ratio.mean


def _draw_exponents(config: RandomFeatureConfig, sweep: Sweep, ax: Axes) -> None:
    betas = np.array(config.betas)
    ax.fill_between(betas, 0.9 * betas, 1.1 * betas, color="0.93", zorder=0)
    ax.plot(betas, betas, color="0.2", linewidth=1, linestyle="--", label="that of the data")
    fitted = of_spectra(config, sweep, "exponent")
    _points(config, ax, fitted, color=BLUE, marker="o", label="kernel of centred features")
    first, last = config.window
    panel = Panel(
        "exponent",
        "Does the kernel inherit the data's power law?",
        f"exponents over ranks {first} to {last}, as far as resolved; band: within 10 %",
        "exponent of the spectrum",
    )
    dress(ax, panel, xlabel=BETA, xscale="linear", yscale="linear")
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _draw_tails(tails: dict[float, dict[int, np.ndarray]], ax: Axes) -> None:
    dimensions = sorted({d for by_d in tails.values() for d in by_d})
    ax.axhspan(0.9, 1.1, color="0.93", zorder=0)
    ax.axhline(1, color="0.2", linewidth=1, linestyle="--", label="that of the data")
    for colour, (beta, by_d) in zip(palette(len(tails)), tails.items(), strict=True):
        found = averages([by_d[d] / beta for d in sorted(by_d)])
        style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 5, "capsize": 2.5}
        ax.errorbar(sorted(by_d), found.mean, 2 * found.sem, label=rf"$\beta = {beta:g}$", **style)
    panel = Panel(
        "tails",
        "Does it in the limit of many dimensions?",
        r"exponents over the ranks $d/8$ to $d/2$; bars: two standard errors; band: within 10 %",
        r"exponent of the spectrum, over $\beta$",
    )
    dress(ax, panel, xlabel="dimension $d$ of the inputs", yscale="linear")
    ax.set_xticks(dimensions, [str(d) for d in dimensions])
    ax.minorticks_off()
    ax.legend(fontsize=8, frameon=False, loc="lower left")


def _points(
    config: RandomFeatureConfig, ax: Axes, values: Averages, *, offset: float = 0, **style: Any
) -> None:
    """Means by exponent, with grey bars of two standard errors."""
    ax.errorbar(
        np.array(config.betas) + offset,
        values.mean,
        2 * values.sem,
        linestyle="none",
        markersize=5,
        ecolor="0.55",
        elinewidth=1,
        capsize=2.5,
        **style,
    )
