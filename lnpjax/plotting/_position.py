"""Figures of how learning is spread over the spectrum while a network trains."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.plotting._style import Panel, add_legend, dress, new_figure, saved
from lnpjax.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PREFIX = "position-"
"""What the names of a run's saved distributions begin with."""
_BINS_PER_DECADE = 6


def positions_of(run: Run) -> list[dict[str, np.ndarray]]:
    """The distributions that a run has saved, in the order of their steps."""
    return [run.spectrum(name) for name in run.spectra() if name.startswith(PREFIX)]


def plot_positions(
    distributions: Sequence[Mapping[str, np.ndarray]],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Where in the eNTK spectrum the loss gradient lies, step by step, as a heat map.

    Between the nodes of a quadrature its cumulative distribution is interpolated over the logarithm
    of p, as `lnpjax.spectra._lanczos.quantiles` does.

    Args:
        distributions: one mapping for each measured step, with the arrays ``step``, ``p``,
            ``weights``, ``tenth``, ``median``, ``ninetieth`` and ``chi_pos``
            (`lnpjax.spectra.PositionDistribution`); at least two, in the order of their steps.
        path: where to save the figure, too; the suffix says in which format.
        title: what the network is.

    Returns:
        The figure.

    Raises:
        ValueError: if there are fewer than two distributions.
        ImportError: matplotlib is not installed (the extra "run").

    Example:
        >>> one = {"p": np.array([0.5, 0.1, 0.01]), "weights": np.array([0.2, 0.5, 0.3])}
        >>> one |= {"tenth": 0.01, "median": 0.1, "ninetieth": 0.4, "chi_pos": 0.153}
        >>> len(plot_positions([one | {"step": 0}, one | {"step": 9}]).axes)
        2
    """
    require(
        len(distributions) >= 2,
        "distributions",
        expected="at least two measured steps",
        got=len(distributions),
    )
    steps = np.array([float(found["step"]) + 1 for found in distributions])
    positive = np.concatenate([found["p"][found["p"] > 0] for found in distributions])
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    edges = np.linspace(low, high, int((high - low) * _BINS_PER_DECADE) + 1)
    shares = np.stack([_shares(found["p"], found["weights"], edges) for found in distributions])

    figure = new_figure(figsize=(10, 5.4))
    ax = figure.subplots()
    borders = np.concatenate([[steps[0]], np.sqrt(steps[1:] * steps[:-1]), [steps[-1] * 1.2]])
    mesh = ax.pcolormesh(borders, 10**edges, shares.T, cmap="Greys", vmin=0)
    figure.colorbar(
        mesh, ax=ax, label=f"share of the loss gradient, per 1/{_BINS_PER_DECADE} decade"
    )
    for name, label, style, colour in (
        ("ninetieth", "90 % below", ":", "#0072B2"),
        ("median", "median", "-", "#0072B2"),
        ("tenth", "10 % below", "--", "#0072B2"),
        ("chi_pos", r"mean: the spectral position $\chi_\mathrm{pos}$", "-", "#D55E00"),
    ):
        values = [float(found[name]) for found in distributions]
        ax.plot(steps, values, style, color=colour, label=label, marker=".", linewidth=1.6)
    caption = (
        "dark: much of the (squared) loss gradient lies along modes of that strength; "
        "the lowest dark field stands for all modes from there down"
    )
    dress(
        ax,
        Panel(
            "p",
            "Which eigenmodes learning draws on",
            caption,
            r"normalised eigenvalue $p$ (share of the trace)",
        ),
        xlabel="training step + 1",
    )
    figure.suptitle(
        f"Distribution of learning over the eNTK spectrum{f': {title}' if title else ''}",
        fontweight="bold",
    )
    add_legend(figure, 4)
    return saved(figure, path)


def _shares(
    p: Float[np.ndarray, " node"], weights: Float[np.ndarray, " node"], edges: np.ndarray
) -> Float[np.ndarray, " bin"]:
    """The mass between edges of log10 p, with half of the extreme nodes' weights at these nodes."""
    kept = weights > 0
    order = np.argsort(p[kept])
    logarithms = np.log10(np.maximum(p[kept][order], 10 ** edges[0]))
    share = weights[kept][order] / weights[kept].sum()
    middle = np.cumsum(share) - share / 2
    return np.diff(np.interp(edges, logarithms, middle, left=0.0, right=1.0))
