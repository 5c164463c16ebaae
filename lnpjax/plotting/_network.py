"""Figures of a network at one point of its training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from lnpjax._base.checks import require
from lnpjax._base.intervals import student_t
from lnpjax.decomposition import LNP
from lnpjax.plotting._lens import (
    RANK,
    SHARE,
    SHARE_OF_GRADIENTS,
    draw_spectrum,
    draw_tail,
    shades,
)
from lnpjax.plotting._position import shares_between
from lnpjax.plotting._style import (
    COLOURS,
    COVERAGE,
    COVERAGE_TEXT,
    Panel,
    add_legend,
    dress,
    new_figure,
    palette,
    saved,
)
from lnpjax.runs import Kind
from lnpjax.runs._rows import POSITION_ARRAYS, ROWS, SPECTRUM_NUMBERS
from lnpjax.spectra import PositionDistribution, SpectralDensity, SpectrumSummary, tail_window

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESOLVED = 1e-6
"""Eigenvalues below this part of the largest are rounding in single precision."""
FEWEST = 0.3
"""A number of eigenvalues below which bars are not drawn."""
LEAST_SHARE = 1e-7
"""A share of a spectrum below which eigenvalues are not drawn: they are rounding."""
_BINS_PER_DECADE = 4
_MARKERS = ("o", "s", "D", "^")
_SHARE_LABELS: dict[Kind, str] = {
    "activations": SHARE,
    "gradients": SHARE_OF_GRADIENTS,
    "weights": "share of the squared singular values",
}
_RANK_ME = next(field for field in SPECTRUM_NUMBERS if field.name == "rank_me")
_POSITION = next(field for field in POSITION_ARRAYS if field.name == "p")


def plot_lnp_groups(
    results: Mapping[str, LNP],
    path: str | os.PathLike[str] | None = None,
    *,
    groups: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw chi_pos of every parameter group, and its shares in chi_net and in the fall of the loss.

    Args:
        results: measurements with the same groups, by what they are of: of a batch against itself,
            of one against another.
        path: where to save the figure, if anywhere; the suffix decides the format.
        groups: their names, from top to bottom; None for the order in which they were measured.
        title: what the network is.

    Returns:
        The figure, with three panels.

    Raises:
        ValueError: if there is no result.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import jax, lnpjax
        >>> def apply_fn(params, x):
        ...     return x @ params["in"] @ params["out"]
        >>> measure = lnpjax.lnp(apply_fn, lambda f, y: jnp.mean((f - y) ** 2))
        >>> params, batch = {"in": jnp.eye(2), "out": jnp.eye(2)}, (jnp.eye(2), jnp.ones((2, 2)))
        >>> figure = plot_lnp_groups({"itself": measure(params, batch, key=jax.random.key(0))})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['in', 'out']
    """
    require(bool(results), "results", expected="at least one measurement", got="none")
    names = list(next(iter(results.values())).groups) if groups is None else list(groups)
    figure = new_figure(figsize=(13, 2.4 + 0.3 * len(names)))
    position, network, fall = figure.subplots(1, 3, sharey=True)
    for number, (label, lnp) in enumerate(results.items()):
        colour, marker = COLOURS[number], _MARKERS[number]
        places = np.arange(len(names)) + 0.22 * (number - (len(results) - 1) / 2)
        chosen = [lnp.groups[name] for name in names]
        _plot_positions(position, places, chosen, colour, marker, label)
        for ax, share in (
            (network, [float(group.chi_net / lnp.chi_net) for group in chosen]),
            (fall, [float(group.delta_loss / lnp.delta_loss) for group in chosen]),
        ):
            ax.plot(share, places, marker, color=colour, markersize=5, label=label)
    chi_pos, chi_net = (ROWS["lnp"].field(name) for name in ("chi_pos", "chi_net"))
    captions = (
        (position, f"Spectral position {chi_pos.symbol}",
         f"of each group, in its own kernel; bars: {COVERAGE_TEXT}\n"
         "further left is deeper in the tail; hollow: negative", chi_pos.label),
        (network, f"Share of {chi_net.symbol}",
         "how much of the response\nto parameters is this group's", "share of the whole"),
        (fall, "Share of the fall of the loss",
         "of a small gradient step on A;\nbelow zero: the group raises it", "share of the whole"),
    )  # fmt: skip
    for ax, heading, caption, label in captions:
        scale = "log" if ax is position else "linear"
        dress(ax, Panel("", heading, caption, ""), xlabel=label, xscale=scale, yscale="linear")
    for ax in (network, fall):
        ax.axvline(0, color="0.6", linewidth=0.8)
    position.set_yticks(np.arange(len(names)), names)
    position.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"LNP components by parameter group{_named(title)}", fontweight="bold")
    add_legend(figure, len(results))
    return saved(figure, path)


def _plot_positions(
    ax: Axes, places: np.ndarray, groups: Sequence[Any], colour: str, marker: str, label: str
) -> None:
    for place, group in zip(places, groups, strict=True):
        value, ends = float(group.chi_pos), group.chi_pos_interval(COVERAGE)
        size = abs(value)
        low, high = sorted((abs(float(ends[0])), abs(float(ends[1]))))
        style: dict[str, Any] = {"fillstyle": "full" if value >= 0 else "none", "label": label}
        ax.plot(size if size > 0 else math.nan, place, marker, color=colour, markersize=5, **style)
        if math.isfinite(low + high) and low > 0:
            ax.plot([low, high], [place, place], "-", color=colour, linewidth=1.2)


def plot_position(
    distributions: Mapping[str, PositionDistribution],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw where in the eNTK spectrum the loss gradient lies, at one point of training.

    Args:
        distributions: what `lnpjax.spectra.position_distribution` returned, by batch.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with two panels: the share in each part of the spectrum, and the share below.

    Raises:
        ValueError: if there is no distribution.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import jax
        >>> from lnpjax.spectra import position_distribution
        >>> measure = position_distribution(
        ...     lambda w, x: x @ w, lambda f, y: jnp.mean((f - y) ** 2), num_matvecs=2
        ... )
        >>> batch = (jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 1)))
        >>> out = measure(jnp.zeros((2, 1)), batch, key=jax.random.key(0))
        >>> plot_position({"batch A": out}).axes[1].get_ylabel()
        'share of the loss gradient'
    """
    require(bool(distributions), "distributions", expected="at least one", got="none")
    figure = new_figure(figsize=(11, 4.6))
    density, below = figure.subplots(1, 2)
    colours = palette(len(distributions))
    for (label, one), colour in zip(distributions.items(), colours, strict=True):
        p, weights = np.asarray(one.p, float), np.asarray(one.weights, float)
        if not np.any((p > 0) & (weights > 0)):
            continue
        edges = _edges(p[(p > 0) & (weights > 0)])
        shares = shares_between(p, weights, np.log10(edges))
        density.stairs(shares, edges, color=colour, linewidth=1.6, label=label)
        below.plot(
            p[::-1], np.cumsum(weights[::-1]) - weights[::-1] / 2, ".-", color=colour, label=label
        )
        for ax in (density, below):
            _mark(ax, one, colour)
    captions = (
        (density, "Which eigenmodes learning draws on",
         "share of the squared loss gradient along modes of that strength",
         f"share, per 1/{_BINS_PER_DECADE} decade"),
        (below, "The same, added up", "share along modes of that strength or weaker",
         "share of the loss gradient"),
    )  # fmt: skip
    lines = "solid: the mean, chi_pos; dotted: the median"
    for ax, heading, caption, label in captions:
        panel = Panel("", heading, f"{caption}\n{lines}", label)
        dress(ax, panel, xlabel=_POSITION.label, yscale="linear")
    below.set_ylim(0, 1.02)
    figure.suptitle(f"Distribution of learning over the eNTK spectrum{_named(title)}",
                    fontweight="bold")  # fmt: skip
    add_legend(figure, len(distributions))
    return saved(figure, path)


def _mark(ax: Axes, one: PositionDistribution, colour: str) -> None:
    for value, style in ((one.chi_pos, "-"), (one.median, ":")):
        if float(value) > 0:
            ax.axvline(float(value), color=colour, linestyle=style, linewidth=1, alpha=0.7)


def plot_density(
    density: SpectralDensity, path: str | os.PathLike[str] | None = None, *, title: str = ""
) -> Figure:
    """Draw how many eigenvalues of the eNTK there are of each size, and where its trace lies.

    Args:
        density: what `lnpjax.spectra.spectral_density` returned.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with two panels.

    Raises:
        ValueError: if no eigenvalue is positive.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import jax
        >>> from lnpjax.spectra import spectral_density
        >>> inputs, key = jnp.arange(1.0, 9.0)[None], jax.random.key(0)
        >>> density = spectral_density(
        ...     lambda w, x: w * x, jnp.ones(8), inputs, num_matvecs=8, key=key
        ... )
        >>> plot_density(density).axes[0].get_ylabel()
        'eigenvalues near the dot'
    """
    nodes = np.asarray(density.nodes, float)
    resolved = nodes[nodes > RESOLVED * np.max(nodes)]
    require(bool(resolved.size), "density", expected="positive eigenvalues", got=f"{np.max(nodes)}")
    edges = _edges(resolved)
    figure = new_figure(figsize=(11, 4.6))
    number, trace = figure.subplots(1, 2)
    counts, sems = (np.asarray(values) for values in density.counts(jnp.asarray(edges)))
    centres = np.sqrt(edges[1:] * edges[:-1])
    half = np.asarray(student_t(COVERAGE, jnp.array(len(nodes) - 1.0))) * sems
    shown = counts > 0
    for ax, factor in (
        (number, np.ones_like(centres)),
        (trace, centres / np.sum(counts * centres)),
    ):
        heights, errors = (counts * factor)[shown], (half * factor)[shown]
        low = np.minimum(errors, heights * (1 - 1e-3))  # a logarithm of nothing cannot be drawn
        ax.errorbar(centres[shown], heights, (low, errors), fmt="o-", color=COLOURS[0],
                    markersize=4, linewidth=1.2, capsize=2)  # fmt: skip
    caption = f"bars: {COVERAGE_TEXT} over {len(nodes)} random vectors"
    whole = f"of {int(density.dimension):,}; the weakest dot stands for all from there down"
    xlabel = r"eigenvalue $\lambda$ of $J J^\top$"
    panel = Panel("", "How many eigenvalues", f"{whole}\n{caption}", "eigenvalues near the dot")
    dress(number, panel, xlabel=xlabel)
    panel = Panel(
        "", "Where the trace lies", f"their sum, by size\n{caption}", "share of the trace"
    )
    dress(trace, panel, xlabel=xlabel, yscale="linear")
    number.set_ylim(bottom=FEWEST)
    trace.set_ylim(bottom=0)
    figure.suptitle(f"Spectral density of the eNTK{_named(title)}", fontweight="bold")
    return saved(figure, path)


def plot_spectra(
    summaries: Mapping[str, SpectrumSummary],
    kind: Kind,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    r"""Draw spectra of activations, gradients or weights, and what is read off each.

    Args:
        summaries: by layer or weight, from top to bottom; as `lnpjax.lens.activation_spectra` and
            its siblings return them.
        kind: what they are of.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with three panels: the spectra, RankMe, and the exponents.

    Raises:
        ValueError: if there is no spectrum.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> from lnpjax.spectra import summarize_spectrum
        >>> summary = summarize_spectrum(jnp.arange(1.0, 33.0) ** -1.5)
        >>> figure = plot_spectra({"layers/0": summary}, "activations")
        >>> [ax.get_xlabel() for ax in figure.axes]
        ['rank of the mode', 'RankMe (modes)', 'exponent $\\alpha$']
    """
    require(bool(summaries), "summaries", expected="at least one spectrum", got="none")
    figure = new_figure(figsize=(13, max(4.6, 2.0 + 0.24 * len(summaries))))
    spectra, rank, exponents = figure.subplots(1, 3)
    for place, (summary, colour) in enumerate(
        zip(summaries.values(), shades(len(summaries)), strict=True)
    ):
        eigenvalues = np.asarray(summary.eigenvalues)
        if np.sum(eigenvalues) > 0:  # neither zero nor NaN
            draw_spectrum(spectra, eigenvalues, colour, None)
            tail, window = summary.tail, tail_window(len(eigenvalues))
            draw_tail(spectra, eigenvalues, window, float(tail.exponent), float(tail.num_points))
        rank.plot(float(summary.rank_me), place, "o", color=colour, markersize=5)
        _plot_exponents(exponents, summary, place)
    spectra.set_ylim(bottom=max(spectra.dataLim.y0, LEAST_SHARE))
    heading = "Spectra of per-sample gradients" if kind == "gradients" else f"Spectra of {kind}"
    order = "dark: first in the list, light: last; dashed: the fitted tails"
    dress(spectra, Panel("", heading, order, _SHARE_LABELS[kind]), xlabel=RANK)
    caption = f"{_RANK_ME.symbol}: {_RANK_ME.definition}"
    dress(rank, Panel("", "Modes that matter", caption, ""), xlabel=_RANK_ME.label,
          xscale="linear", yscale="linear")  # fmt: skip
    alpha = next(field for field in SPECTRUM_NUMBERS if field.name == "alpha_tail")
    caption = f"slope of log eigenvalue on log rank; bars: {COVERAGE_TEXT}"
    dress(exponents, Panel("", "How fast they fall", caption, ""), xlabel=alpha.label,
          xscale="linear", yscale="linear")  # fmt: skip
    for ax in (rank, exponents):
        names = list(summaries) if ax is rank else []
        ax.set_yticks(np.arange(len(summaries)), names or [""] * len(summaries), fontsize=8)
        ax.set_ylim(len(summaries) - 0.5, -0.5)
    rank.margins(x=0.08)
    rank.set_xlim(left=0)
    figure.suptitle(f"{heading}{_named(title)}", fontweight="bold")
    add_legend(figure, 2)
    return saved(figure, path)


def _plot_exponents(ax: Axes, summary: SpectrumSummary, place: int) -> None:
    for end, fit, colour, marker, lift in (
        ("head", summary.head, COLOURS[1], "s", -0.15),
        ("tail", summary.tail, COLOURS[0], "o", 0.15),
    ):
        exponent, sem = float(fit.exponent), float(fit.exponent_sem)
        freedom = max(float(fit.num_points) - 2, 1.0)
        half = float(student_t(COVERAGE, jnp.array(freedom))) * sem
        error = half if math.isfinite(half) else 0.0
        ax.errorbar(exponent, place + lift, xerr=error, fmt=marker, color=colour, markersize=4,
                    linewidth=1.2, label=end)  # fmt: skip


def _edges(values: np.ndarray) -> np.ndarray:
    """Return edges of bins of equal width in logarithms, with all values between them."""
    low = math.floor(_BINS_PER_DECADE * math.log10(values.min()))
    high = math.floor(_BINS_PER_DECADE * math.log10(values.max())) + 1
    return 10.0 ** (np.arange(low, high + 1) / _BINS_PER_DECADE)


def _named(title: str) -> str:
    return f": {title}" if title else ""
