"""Figures of spectral shells, in the arrangement of the shells paper's figures 1 to 3."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.plotting._style import (
    COVERAGE,
    COVERAGE_TEXT,
    Panel,
    add_legend,
    dress,
    new_figure,
    palette,
    saved,
)
from lnpjax.shells import BatchAverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lnpjax.shells import Profile


_XLABEL = r"eigenvalue $\lambda$ of $J J^\top$, by shell"
_ENERGY = r"$E_\alpha$ (nats$^2$)"


def plot_shell_profile(
    profile: Profile, path: str | os.PathLike[str] | None = None, *, title: str = ""
) -> Figure:
    """One state's shells: the least energy in each, the fit of both sides, and the profile.

    As in the shells paper, figure 1.

    Args:
        profile: the state.
        path: where to save the figure, too; the suffix says in which format.
        title: what the network is.

    Returns:
        The figure, with three panels.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure(figsize=(13, 4.6))
    least, fitted, whole = figure.subplots(1, 3)
    colour, second = palette(2)
    _points(least, profile, profile.minima, colour, "smallest weight")
    _points(fitted, profile, profile.energies, colour, "energy")
    _points(whole, profile, profile.energies, colour, "energy")
    frontier = profile.frontier
    if np.isfinite(frontier.residual):
        centers = np.asarray(profile.centers)
        shown = np.asarray(profile.energies.mean) > 0
        dense = np.geomspace(centers[shown][0], centers[shown][-1], 200)
        fitted.plot(
            dense,
            frontier.profile(jnp.asarray(dense)),
            color=second,
            label="power law, exponential",
        )
    for ax in (fitted, whole):
        for value, name, style in (
            (frontier.peak, "peak", "--"),
            (frontier.cutoff, "cut-off", ":"),
        ):
            if np.isfinite(value):
                label = f"{name} {float(value):.2g}"
                ax.axvline(float(value), color="0.4", linestyle=style, linewidth=1, label=label)
    captions = (
        ("(a) Least energy per shell", "it collapses beyond the cut-off"),
        ("(b) Both sides of the peak", f"power law below (slope {float(frontier.exponent):.2g}), "
         "exponential above, blended"),
        ("(c) Energy per shell", "half the squared error that lies along eigenmodes of that size"),
    )  # fmt: skip
    for ax, (name, caption) in zip((least, fitted, whole), captions, strict=True):
        dress(ax, Panel("energy", name, caption, _ENERGY), xlabel=_XLABEL)
    figure.suptitle(f"Spectral shells, {profile.label}{_named(title)}", fontweight="bold")
    add_legend(figure, 4)
    return saved(figure, path)


def plot_shell_profiles(
    profiles: Sequence[Profile],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Figure:
    """The shells of several states or networks, raw and smoothed (the paper's figures 2 and 3).

    Args:
        profiles: the states, in order.
        path: where to save the figure, too.
        title: what the network is.

    Returns:
        The figure, with two panels.

    Raises:
        ValueError: if there are no profiles.
        ImportError: matplotlib is not installed (the extra "run").
    """
    require(bool(profiles), "profiles", expected="at least one", got="none")
    figure = new_figure(figsize=(11, 4.8))
    raw, smooth = figure.subplots(1, 2)
    for profile, colour in zip(profiles, palette(len(profiles)), strict=True):
        _points(raw, profile, profile.energies, colour, profile.label)
        known = np.asarray(profile.energies.mean) > 0
        centers = np.asarray(profile.centers)[known]
        logarithms = np.log(np.asarray(profile.energies.mean)[known])
        smooth.plot(centers, np.exp(_smoothed(logarithms)), color=colour, linewidth=1.8)
        if np.isfinite(profile.frontier.peak):
            smooth.axvline(float(profile.frontier.peak), color=colour, linestyle=":", linewidth=1)
    dress(raw, Panel("e", "Energy per shell", f"bands: {COVERAGE_TEXT} over batches", _ENERGY),
          xlabel=_XLABEL)  # fmt: skip
    dress(smooth, Panel("e", "Smoothed over three shells", "dotted: the peak", _ENERGY),
          xlabel=_XLABEL)  # fmt: skip
    figure.suptitle(f"Spectral shells of the error{_named(title)}", fontweight="bold")
    add_legend(figure, len(profiles))
    return saved(figure, path)


def _points(ax: Axes, profile: Profile, average: BatchAverage, colour: Any, label: str) -> None:
    mean = np.asarray(average.mean)
    known = mean > 0
    low, high = (np.where(np.isnan(end), mean, end)[known] for end in average.interval(COVERAGE))
    centers = np.asarray(profile.centers)[known]
    ax.plot(centers, mean[known], "o-", color=colour, markersize=3, linewidth=1.2, label=label)
    ax.fill_between(centers, low, high, color=colour, alpha=0.2, linewidth=0)


def _smoothed(values: Float[np.ndarray, " shell"]) -> Float[np.ndarray, " shell"]:
    padded = np.pad(values, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _named(title: str) -> str:
    return f": {title}" if title else ""
