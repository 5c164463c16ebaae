"""The figure of several runs: matching spectra, speed, and what the early tail predicted."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lnpjax.comparison import (
    Comparison,
    EarlyPrediction,
    RankCorrelation,
    family_name,
    min_max_normalize,
)
from lnpjax.plotting._lens import (
    DRAWN,
    brief,
    dress_spectra,
    finish,
    plot_spectrum,
    window_text,
)
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette, saved
from lnpjax.runs import Kind
from lnpjax.runs._rows import TOKENS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LABEL_COLOURS = {
    "activation-led": COLOURS[0],
    "gradient-led": COLOURS[2],
    "throughput": COLOURS[4],
    "mixed": COLOURS[3],
    "undecided": "0.6",
}
_MARKERS = "osD^vP*X"
_WINDOW_STYLES = (":", "--", "-")
_FAMILY_STYLES = ("-", "-.", ":")
_COLUMNS = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 7: 4}  # by the number of panels


def plot_comparison(comparison: Comparison, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw several runs in one figure, in as many panels as there are data for.

    Validation losses and the target; spectra of activations and gradients at the matched steps
    (*Spectral Lens*, figure 1a); token and throughput gains with their labels (1c); efficiency
    against the normalised early tail exponent (2); the rank correlation over training (8) and over
    layers (10).

    Args:
        comparison: the runs, compared (`lnpjax.comparison.compare`).
        path: where to save the figure, if anywhere; the suffix decides the format.

    Returns:
        The figure.

    Raises:
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> from lnpjax.comparison import compare
        >>> from lnpjax.runs import RunSummary
        >>> tokens = np.array([100.0, 10_000.0])
        >>> runs = [
        ...     RunSummary(name, {"model": name}, tokens, np.array([3.0, last]), 1e4, 9e4, 9e4, ())
        ...     for name, last in (("slow", 2.0), ("fast", 1.0))
        ... ]
        >>> losses, gains = plot_comparison(compare(runs)).axes
        >>> losses.get_ylabel(), [text.get_text() for text in losses.get_legend().get_texts()]
        ('loss (nats per token)', ['A slow', 'B fast'])
    """
    draws: list[Callable[[Axes, Comparison], None]] = [_plot_losses]
    spectra = [matched.spectra for matched in comparison.matches if matched is not None]
    for kind in DRAWN:
        if any(one.eigenvalues(kind) is not None for one in spectra):
            draws.append(functools.partial(_plot_matched, kind=kind))
    gains = [step.gains.token + step.gains.throughput for step in comparison.transitions]
    if any(map(math.isfinite, gains)):
        draws.append(_plot_gains)
    if comparison.correlations is not None:
        draws += [_plot_efficiency, _plot_over_fraction]
        if any(early and len(early.over_layers.layers) > 1 for early in comparison.early):
            draws.append(_plot_over_layers)
    columns = _COLUMNS[len(draws)]
    rows = math.ceil(len(draws) / columns)
    figure = new_figure(figsize=(5.2 * columns + 0.6, 4.6 * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax, draw in zip(panels.flat, draws, strict=False):
        draw(ax, comparison)
        finish(ax)
    for ax in panels.flat[len(draws) :]:
        ax.remove()
    figure.suptitle(f"{len(comparison.runs)} runs compared", fontweight="bold")
    figure.supxlabel(_remarks(comparison), fontsize=8, color="0.35")
    return saved(figure, path)


def run_label(comparison: Comparison, run: int) -> str:
    """Name a run: its family, if there are several, and its name."""
    name = comparison.runs[run].name
    return f"{comparison.family_of(run)} {name}" if len(comparison.families) > 1 else name


def seeds_label(comparison: Comparison, runs: Sequence[int]) -> str:
    """Name runs that differ in their seeds only: the first, and how many more there are."""
    more = f" (and {len(runs) - 1} more)" if len(runs) > 1 else ""
    return run_label(comparison, runs[0]) + more


def correlation_text(correlation: RankCorrelation) -> str:
    """Write a correlation with what is needed to judge it."""
    if math.isnan(correlation.rho):
        return f"undefined ({correlation.num_runs} runs)"
    sign = "" if correlation.exact else "~"
    return (
        f"{correlation.rho:.2f} (n = {correlation.num_runs}, p = {sign}{correlation.p_value:.2g})"
    )


def matched_text(comparison: Comparison) -> str:
    """Say where spectra are compared."""
    value = comparison.value
    return {
        "loss": f"at a validation loss of {value:.4g}",
        "tokens": f"after {brief(value)} tokens",
        "fraction": f"{value:.0%} of the way through each run",
    }[comparison.options.at]


def _plot_losses(ax: Axes, comparison: Comparison) -> None:
    for i, (run, (colour, style)) in enumerate(
        zip(comparison.runs, _run_styles(comparison), strict=True)
    ):
        seen = run.validation_tokens > 0
        tokens, losses = run.validation_tokens[seen], run.validation_losses[seen]
        ax.plot(tokens, losses, style, color=colour, linewidth=1.4, label=run_label(comparison, i))
        ax.plot(comparison.tokens[i], comparison.target, "o", color=colour, markersize=5)
    ax.axhline(comparison.target, color="0.4", linestyle=":", linewidth=1)
    caption = f"dots: where a run first meets the target, {comparison.target:.4g}"
    panel = Panel("loss", "Validation loss", caption, "loss (nats per token)")
    dress(ax, panel, xlabel=TOKENS.label, yscale="linear")


def _plot_matched(ax: Axes, comparison: Comparison, kind: Kind) -> None:
    styles = _run_styles(comparison)
    for i, (matched, (colour, style)) in enumerate(zip(comparison.matches, styles, strict=True)):
        if matched is not None:
            label = run_label(comparison, i)
            plot_spectrum(ax, matched.spectra, kind, colour, label, linestyle=style)
    dress_spectra(ax, kind, "measured nearest to where they match; dashed: the fitted tail")


def _run_styles(comparison: Comparison) -> list[tuple[Any, str]]:
    """Choose colours by place within the family, line styles by family."""
    colours = palette(max(map(len, comparison.families)))
    styles = {
        run: (colours[place], _FAMILY_STYLES[number % len(_FAMILY_STYLES)])
        for number, members in enumerate(comparison.families)
        for place, run in enumerate(members)
    }
    return [styles[run] for run in range(len(comparison.runs))]


def _plot_gains(ax: Axes, comparison: Comparison) -> None:
    size = 0.05
    for number, step in enumerate(comparison.transitions, 1):
        x, y = step.gains.log_token, step.gains.log_throughput
        if not math.isfinite(x + y):
            continue
        size = max(size, 1.25 * abs(x), 1.25 * abs(y))
        before, after = (seeds_label(comparison, side) for side in (step.before, step.after))
        label = f"{number}: {before} → {after}, {step.verdict.label}"
        ax.plot(x, y, "o", color=LABEL_COLOURS[step.verdict.label], markersize=8, label=label)
        ax.annotate(str(number), (x, y), (6, 4), textcoords="offset points", fontsize=8)
    ax.plot([-size, size], [size, -size], ":", color="0.4", linewidth=1)
    ax.axhline(0, color="0.8", linewidth=1)
    ax.axvline(0, color="0.8", linewidth=1)
    ax.set(xlim=(-size, size), ylim=(-size, size))
    caption = "up and right is better; dotted: the same time to the target as before"
    label = r"throughput gain $g_\mathrm{thr}$ = ln Q(b)/Q(a)"
    dress(
        ax,
        Panel("gains", "What each change brought", caption, label),
        xlabel=r"token gain $g_\mathrm{tok}$ = ln T(a)/T(b)",
        xscale="linear",
        yscale="linear",
    )


def _plot_efficiency(ax: Axes, comparison: Comparison) -> None:
    assert comparison.correlations is not None
    degenerate = []
    for number, family, early, colour in _predicted(comparison):
        normalized = min_max_normalize(early.exponents)
        if normalized.degenerate:
            degenerate.append(family_name(number))
        x, y = normalized.values, comparison.efficiencies[list(family)]
        marker = _MARKERS[number % len(_MARKERS)]
        label = f"family {family_name(number)}"
        ax.plot(x, y, marker, color=colour, markersize=7, label=label)
        for run, x_run, y_run in zip(family, x, y, strict=True):
            if math.isfinite(x_run + y_run):
                size = comparison.runs[run].batch_size
                text = comparison.runs[run].name if size is None else f"b{size}"
                ax.annotate(text, (x_run, y_run), (6, 4), textcoords="offset points", fontsize=7)
    correlations = comparison.correlations
    caption = f"mean rho within families {correlation_text(correlations.mean)}"
    if correlations.num_families > 1:
        caption += f"\npooled {correlation_text(correlations.pooled)}"
    if degenerate:
        caption += f"\nwithout a scale: {', '.join(degenerate)}"
    dress(
        ax,
        Panel("efficiency", "Early tail and token efficiency", caption,
              r"tokens to target / best, $\epsilon_\mathrm{tok}$"),
        xlabel=r"early $\alpha_\mathrm{tail}$, from smallest to largest in the family",
        xscale="linear",
        yscale="linear",
    )  # fmt: skip


def _plot_over_fraction(ax: Axes, comparison: Comparison) -> None:
    for number, _, early, colour in _predicted(comparison):
        curves = early.over_fraction
        for window, correlations, style in zip(
            curves.windows, curves.correlations, _WINDOW_STYLES, strict=False
        ):
            rho = [correlation.rho for correlation in correlations]
            label = f"{family_name(number)}, {window_text(window)}"
            ax.plot(100 * curves.fractions, rho, style, color=colour, linewidth=1.6, label=label)
    dress(
        ax,
        Panel("rho", "When the tail predicts efficiency",
              "rank correlation of the exponent with tokens to target, at equal tokens",
              r"Spearman $\rho$"),
        xlabel="tokens, in % of the fastest run's to the target",
        xscale="linear",
        yscale="linear",
    )  # fmt: skip
    _rho_axis(ax)


def _plot_over_layers(ax: Axes, comparison: Comparison) -> None:
    advantages: list[str] = []
    names: list[str] = []
    for number, _, early, colour in _predicted(comparison):
        layers = early.over_layers
        rho = [correlation.rho for correlation in layers.correlations]
        label = f"family {family_name(number)}"
        if math.isfinite(layers.late_advantage):
            advantages.append(f"{family_name(number)} {layers.late_advantage:+.2f}")
        ax.plot(range(len(rho)), rho, "o-", color=colour, markersize=5, label=label)
        names = max(names, list(layers.layers), key=len)
    caption = "early tail exponent with tokens to target"
    if advantages:
        caption += f"; last minus mean of first two: {', '.join(advantages)}"
    dress(
        ax,
        Panel("rho", "Which layer predicts efficiency", caption, r"Spearman $\rho$"),
        xlabel="layer",
        xscale="linear",
        yscale="linear",
    )
    shown = range(0, len(names), max(1, math.ceil(len(names) / 8)))
    ax.set_xticks(list(shown), [names[i] for i in shown], fontsize=7)
    _rho_axis(ax)


def _rho_axis(ax: Axes) -> None:
    ax.set_ylim(-1.08, 1.08)
    ax.axhline(0, color="0.8", linewidth=1)


def _predicted(comparison: Comparison) -> list[tuple[int, tuple[int, ...], EarlyPrediction, Any]]:
    """Return number, runs, early prediction and colour of the families that have a prediction."""
    colours = palette(len(comparison.families))
    return [
        (number, family, early, colours[number])
        for number, (family, early) in enumerate(
            zip(comparison.families, comparison.early, strict=True)
        )
        if early is not None
    ]


def _remarks(comparison: Comparison) -> str:
    remarks = []
    unmet = [run_label(comparison, i) for i in np.flatnonzero(np.isnan(comparison.tokens)).tolist()]
    if unmet:
        remarks.append(f"the target is never reached by {', '.join(unmet)}")
    without = [run_label(comparison, i) for i, m in enumerate(comparison.matches) if m is None]
    if without:
        remarks.append(f"no spectra {matched_text(comparison)}: {', '.join(without)}")
    return "\n".join(remarks)
