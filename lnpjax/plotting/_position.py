"""Figures of how learning is distributed over the spectrum while a network trains."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.plotting._style import Panel, add_legend, dress, new_figure, saved
from lnpjax.runs import Run
from lnpjax.runs._rows import POSITION_ARRAYS, POSITION_FILE, STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BINS_PER_DECADE = 6
_LABELS = {field.name: field.label for field in POSITION_ARRAYS}
_CURVES = (
    ("ninetieth", "90 % below", ":", "#0072B2"),
    ("median", "median", "-", "#0072B2"),
    ("tenth", "10 % below", "--", "#0072B2"),
    ("chi_pos", r"mean: the spectral position $\chi_\mathrm{pos}$", "-", "#D55E00"),
)


def positions_of(run: Run) -> list[dict[str, np.ndarray]]:
    """Read the distributions that a run has saved, in the order of their steps."""
    return [run.spectrum(name) for name in POSITION_FILE.among(run.spectra())]


def plot_positions(
    distributions: Sequence[Mapping[str, np.ndarray]],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw where in the eNTK spectrum the loss gradient lies, step by step, as a heat map.

    Between the nodes of a quadrature, its cumulative distribution is interpolated over the
    logarithm of p, like the quantiles of `lnpjax.spectra.PositionDistribution`.

    Args:
        distributions: one mapping for each measured step, with the arrays ``step``, ``p``,
            ``weights``, ``tenth``, ``median``, ``ninetieth`` and ``chi_pos``
            (`lnpjax.spectra.PositionDistribution`); at least two, in the order of their steps.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure.

    Raises:
        ValueError: if there are fewer than two distributions.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> one = {"p": np.array([0.5, 0.1, 0.01]), "weights": np.array([0.2, 0.5, 0.3])}
        >>> one |= {"tenth": 0.01, "median": 0.1, "ninetieth": 0.4, "chi_pos": 0.153}
        >>> figure = plot_positions([one | {"step": 0}, one | {"step": 9}])
        >>> figure.axes[0].get_ylabel()
        'normalised eigenvalue $p$ (share of the trace)'
    """
    require(
        len(distributions) >= 2,
        "distributions",
        expected="at least two measured steps",
        got=len(distributions),
    )
    steps = np.array([float(one["step"]) + 1 for one in distributions])
    figure = new_figure(figsize=(10, 5.4))
    ax = figure.subplots()
    _draw_shares(figure, ax, steps, distributions)
    for name, label, style, colour in _CURVES:
        values = [float(one[name]) for one in distributions]
        ax.plot(steps, values, style, color=colour, label=label, marker=".", linewidth=1.6)
    caption = (
        "dark: much of the (squared) loss gradient lies along modes of that strength; "
        "the lowest dark field stands for all modes from there down"
    )
    dress(
        ax,
        Panel("p", "Which eigenmodes learning draws on", caption, _LABELS["p"]),
        xlabel=f"{STEP.label} + 1",
    )
    figure.suptitle(
        f"Distribution of learning over the eNTK spectrum{f': {title}' if title else ''}",
        fontweight="bold",
    )
    add_legend(figure, len(_CURVES))
    return saved(figure, path)


def _draw_shares(
    figure: Figure,
    ax: Axes,
    steps: Float[np.ndarray, " step"],
    distributions: Sequence[Mapping[str, np.ndarray]],
) -> None:
    """Draw the share of the loss gradient in each bin of p, as shades of grey."""
    positive = np.concatenate([one["p"][one["p"] > 0] for one in distributions])
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    edges = np.linspace(low, high, int((high - low) * _BINS_PER_DECADE) + 1)
    shares = np.stack([shares_between(one["p"], one["weights"], edges) for one in distributions])
    borders = np.concatenate([[steps[0]], np.sqrt(steps[1:] * steps[:-1]), [steps[-1] * 1.2]])
    mesh = ax.pcolormesh(borders, 10**edges, shares.T, cmap="Greys", vmin=0)
    label = f"share of the loss gradient, per 1/{_BINS_PER_DECADE} decade"
    figure.colorbar(mesh, ax=ax, label=label)


def shares_between(
    p: Float[np.ndarray, " node"], weights: Float[np.ndarray, " node"], edges: np.ndarray
) -> Float[np.ndarray, " bin"]:
    """Return the mass between edges of log10 p, half of an extreme node's weight at the node."""
    kept = weights > 0
    order = np.argsort(p[kept])
    logarithms = np.log10(np.maximum(p[kept][order], 10 ** edges[0]))
    share = weights[kept][order] / weights[kept].sum()
    middle = np.cumsum(share) - share / 2
    return np.diff(np.interp(edges, logarithms, middle, left=0.0, right=1.0))
