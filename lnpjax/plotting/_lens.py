"""The figure of one run's spectra, in the style of *Spectral Lens*, figures 1a and 13 to 18."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lnpjax._base.checks import import_extra, require
from lnpjax._base.intervals import student_t
from lnpjax.plotting._style import COLOURS, COVERAGE, COVERAGE_TEXT, Panel, dress, new_figure, saved
from lnpjax.runs import Kind, MeasuredSpectra, Run, RunSummary, read_run
from lnpjax.runs._rows import SPECTRUM_NUMBERS, TOKENS
from lnpjax.status import describe_status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DRAWN: tuple[Kind, Kind] = ("activations", "gradients")
TIMES_SHOWN = 5
RANK = "rank of the mode"
SHARE = "share of the variance"
SHARE_OF_GRADIENTS = "share of the squared gradients"
_NUMBERS = {field.name: field for field in SPECTRUM_NUMBERS if field.symbol}  # those drawn
_RANK_ME = _NUMBERS["rank_me"]
_LEGEND: dict[str, Any] = {"fontsize": 7.5, "frameon": False}


def plot_lens(run: Run | RunSummary, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw a run's spectra of activations and gradients over training, in six panels.

    Spectra of the deepest layer's activations and of the last attention output's gradients at
    several times, with their fitted tails; RankMe and the exponents of head and tail over tokens,
    with bands of 95 % intervals; RankMe by layer. Undefined numbers leave gaps, and the figure
    says how many there are, and why.

    Args:
        run: a run with recorded spectra (`lnpjax train --spectra N`).
        path: where to save the figure, if anywhere; the suffix decides the format.

    Returns:
        The figure.

    Raises:
        ValueError: if the run has no spectra.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> summaries = {"activations": {"layers/0": {"rank_me": 5.0, "alpha_tail": 1.1}}}
        >>> spectra = (MeasuredSpectra(0, 64.0, 5.5, summaries, {}),)
        >>> none = np.zeros(0)
        >>> figure = plot_lens(RunSummary("small", {}, none, none, 64.0, 9e4, 9e4, spectra))
        >>> figure.axes[1].get_xlabel(), figure.axes[1].get_ylabel()
        ('training tokens', 'RankMe (modes)')
    """
    summary = read_run(run) if isinstance(run, Run) else run
    require(
        bool(summary.spectra),
        "run",
        expected="a run with spectra (lnpjax train --spectra N)",
        got=f"none in {summary.name}",
    )
    figure = new_figure(figsize=(15, 9))
    panels = figure.subplots(2, 3)
    shown = _times(summary.spectra)
    colours = shades(len(shown))
    for ax, kind in zip(panels[:, 0], DRAWN, strict=True):
        for spectra, colour in zip(shown, colours, strict=True):
            plot_spectrum(ax, spectra, kind, colour, f"{brief(spectra.tokens)} tokens")
        dress_spectra(ax, kind, f"{_probe(summary, kind)}; dashed: the fitted tail")
    _plot_rank(panels[0, 1], summary)
    _plot_exponents(panels[0, 2], summary, "activations")
    _plot_exponents(panels[1, 2], summary, "gradients")
    _plot_layers(panels[1, 1], summary)
    for ax in panels.flat:
        finish(ax)
    figure.suptitle(f"Spectral lens: {summary.name}", fontweight="bold")
    figure.supxlabel(_undefined(summary), fontsize=8, color="0.35")
    return saved(figure, path)


def plot_spectrum(
    ax: Axes,
    spectra: MeasuredSpectra,
    kind: Kind,
    colour: Any,
    label: str,
    *,
    linestyle: str = "-",
) -> None:
    """Draw the trace-normalised spectrum of `MeasuredSpectra.probe`, and its tail's power law.

    Args:
        ax: where to draw.
        spectra: what was measured.
        kind: of which spectra.
        colour: of the curves.
        label: of the curve; the tail exponent is added.
        linestyle: of the curve.
    """
    eigenvalues = spectra.eigenvalues(kind)
    if eigenvalues is None or not np.sum(eigenvalues) > 0:
        return
    exponent = spectra.number(kind, "alpha_tail")
    label += rf", $\alpha_\mathrm{{tail}}$ {exponent:.2f}" if math.isfinite(exponent) else ""
    window = spectra.arrays.get(f"tail_window/{kind}/{spectra.probe(kind)}")
    used = spectra.number(kind, "alpha_tail_points")
    draw_spectrum(ax, eigenvalues, colour, label, linestyle=linestyle)
    if window is not None:
        draw_tail(ax, eigenvalues, (int(window[0]), int(window[1])), exponent, used)


def draw_spectrum(
    ax: Axes, eigenvalues: np.ndarray, colour: Any, label: str | None, *, linestyle: str = "-"
) -> None:
    """Draw a trace-normalised spectrum by rank."""
    shares = _shares(eigenvalues)
    ranks = np.arange(1, len(shares) + 1)
    ax.plot(ranks, shares, linestyle, color=colour, linewidth=1.4, label=label)


def draw_tail(
    ax: Axes, eigenvalues: np.ndarray, window: tuple[int, int], exponent: float, used: float
) -> None:
    """Draw the power law that was fitted to a spectrum's tail; nothing where there is none.

    Args:
        ax: where to draw.
        eigenvalues: descending.
        window: first and last rank of the fit.
        exponent: of the power law.
        used: how many eigenvalues the fit used.
    """
    if not math.isfinite(exponent):
        return
    shares = _shares(eigenvalues)
    # What the fit left out (lost in rounding) comes last, and is not of the line.
    first, last = window
    last = first + int(used) - 1 if math.isfinite(used) else last
    inside = np.arange(first, last + 1)
    # A least-squares line passes through the means of both logarithms.
    middle = np.mean(np.log(shares[inside - 1])) + exponent * np.mean(np.log(inside))
    wider = np.geomspace(max(inside[0] / 1.6, 1), min(inside[-1] * 1.6, len(shares)), 20)
    ax.plot(wider, np.exp(middle) * wider**-exponent, "--", color="0.15", linewidth=1)


def _shares(eigenvalues: np.ndarray) -> np.ndarray:
    return np.where(eigenvalues > 0, eigenvalues, math.nan) / np.sum(np.maximum(eigenvalues, 0))


def dress_spectra(ax: Axes, kind: Kind, caption: str) -> None:
    """Give a panel of spectra its title, caption and labels."""
    title = "Activation spectrum" if kind == "activations" else "Spectrum of per-sample gradients"
    label = SHARE if kind == "activations" else SHARE_OF_GRADIENTS
    dress(ax, Panel(kind, title, caption, label), xlabel=RANK)


def finish(ax: Axes) -> None:
    """Add a legend where there are labels; else say that there is nothing."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**_LEGEND)
    elif not ax.has_data():
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="0.5")


def shades(count: int) -> list[Any]:
    """Return colours for things that have an order: dark to light."""
    module = import_extra("matplotlib", extra="run", purpose="drawing figures")
    return list(module.colormaps["viridis"](np.linspace(0, 0.85, count)))


def brief(number: float) -> str:
    """Return a number with three digits and a suffix: 1.23M."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def _times(spectra: Sequence[MeasuredSpectra]) -> list[MeasuredSpectra]:
    """Choose a few measured steps that have arrays, about even in the logarithm of tokens."""
    stored = [one for one in spectra if one.arrays and one.tokens > 0]
    if not stored:
        return [one for one in spectra if one.arrays]
    logarithms = np.log([one.tokens for one in stored])
    wanted = np.linspace(logarithms[0], logarithms[-1], TIMES_SHOWN)
    return [stored[i] for i in sorted({int(np.argmin(abs(logarithms - w))) for w in wanted})]


def _probe(summary: RunSummary, kind: Kind) -> str:
    return summary.spectra[-1].probe(kind) or "not recorded"


def _plot_rank(ax: Axes, summary: RunSummary) -> None:
    tokens = summary.spectra_tokens()
    for kind, colour in zip(DRAWN, COLOURS, strict=False):
        rank = summary.series(kind, "rank_me")
        if np.any(np.isfinite(rank)):
            ax.plot(tokens, rank, "o-", color=colour, markersize=3, label=kind)
    caption = f"{_RANK_ME.symbol}: {_RANK_ME.definition}"
    panel = Panel("rank_me", "Modes that matter", caption, _RANK_ME.label)
    dress(ax, panel, xlabel=TOKENS.label, yscale="linear")


def _plot_exponents(ax: Axes, summary: RunSummary, kind: Kind) -> None:
    tokens = summary.spectra_tokens()
    for end, colour in (("head", COLOURS[1]), ("tail", COLOURS[0])):
        names = (f"alpha_{end}{of}" for of in ("", "_sem", "_points"))
        exponent, sem, points = (summary.series(kind, name) for name in names)
        if not np.any(np.isfinite(exponent)):
            continue
        ax.plot(tokens, exponent, "o-", color=colour, markersize=3, label=end)
        half = np.asarray(student_t(COVERAGE, np.maximum(points - 2, 1))) * sem
        ax.fill_between(
            tokens, exponent - half, exponent + half, color=colour, alpha=0.2, linewidth=0
        )
    caption = f"slope of log eigenvalue on log rank; bands: {COVERAGE_TEXT} of the fit"
    title = f"How fast the {kind}' spectrum falls"
    label = _NUMBERS["alpha_tail"].label
    dress(ax, Panel(kind, title, caption, label), xlabel=TOKENS.label, yscale="linear")


def _plot_layers(ax: Axes, summary: RunSummary) -> None:
    tokens, layers = summary.spectra_tokens(), summary.spectra[-1].names("activations")
    for layer, colour in zip(layers, shades(len(layers)), strict=True):
        rank = summary.series("activations", "rank_me", layer)
        ax.plot(tokens, rank, "o-", color=colour, markersize=3, label=layer)
    caption = "RankMe of the activations; dark: early layers, light: late"
    panel = Panel("layers", "Modes by layer", caption, _RANK_ME.label)
    dress(ax, panel, xlabel=TOKENS.label, yscale="linear")


def _undefined(summary: RunSummary) -> str:
    """Say what the gaps in the figure are."""
    missing, reasons = 0, dict[str, None]()
    for spectra in summary.spectra:
        for kind in spectra.summaries.values():
            for numbers in kind.values():
                missing += any(math.isnan(n) for name, n in numbers.items() if name in _NUMBERS)
                if status := numbers.get("status", 0):
                    reasons |= dict.fromkeys(describe_status(status).split("; "))
    if not missing and not reasons:
        return "no number is undefined"
    said = f"{missing} of the summaries have undefined numbers (gaps)"
    return "\n".join([said, *reasons])


def window_text(window: tuple[int, int]) -> str:
    """Return a window of ranks in words."""
    return f"ranks {window[0]} to {window[1]}"
