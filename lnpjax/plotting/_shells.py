"""Figures of spectral shells, in the arrangement of *Spectral Shells*, figures 1 to 3."""

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
from lnpjax.shells._profiles import describe_collapse, falls_above, slope_in_doubt, with_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lnpjax.shells import Profile


_XLABEL = r"eigenvalue $\lambda$ of $J J^\top$, by shell"
_ENERGY = r"$E_\alpha$ (nats$^2$)"


def plot_shell_profile(
    profile: Profile, path: str | os.PathLike[str] | None = None, *, title: str = ""
) -> Figure:
    r"""Draw one state's shells: the least energy in each, the fit of both sides, and the profile.

    As in *Spectral Shells*, figure 1.

    Args:
        profile: the state.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with three panels.

    Raises:
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> from lnpjax.shells import Profile, average_over_batches, detect_frontier
        >>> centers = jnp.geomspace(0.01, 10.0, 8)
        >>> energy = centers * jnp.exp(-centers)
        >>> energies = average_over_batches(jnp.stack([energy, 1.1 * energy]))
        >>> frontier = detect_frontier(centers, energies.mean)
        >>> rest = jnp.zeros(())
        >>> profile = Profile("step 0", centers, *[energies] * 3, rest, frontier, None)
        >>> [ax.get_ylabel() for ax in plot_shell_profile(profile).axes][:1]
        ['$E_\\alpha$ (nats$^2$)']
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
        ("(a) Least energy per shell", describe_collapse(profile)),
        ("(b) Both sides of the peak", _fitted(profile)),
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
    r"""Draw the shells of several states or networks, raw and smoothed.

    As in *Spectral Shells*, figures 2 and 3.

    Args:
        profiles: the states, in order.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with two panels.

    Raises:
        ValueError: if there are no profiles.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> from lnpjax.shells import Profile, average_over_batches, detect_frontier
        >>> centers = jnp.geomspace(0.01, 10.0, 8)
        >>> energy = centers * jnp.exp(-centers)
        >>> energies = average_over_batches(jnp.stack([energy, 1.1 * energy]))
        >>> frontier = detect_frontier(centers, energies.mean)
        >>> rest = jnp.zeros(())
        >>> profile = Profile("step 0", centers, *[energies] * 3, rest, frontier, None)
        >>> raw, smooth = plot_shell_profiles([profile, profile]).axes
        >>> raw.get_xlabel(), [line.get_label() for line in raw.get_lines()]
        ('eigenvalue $\\lambda$ of $J J^\\top$, by shell', ['step 0', 'step 0'])
    """
    require(bool(profiles), "profiles", expected="at least one", got="none")
    figure = new_figure(figsize=(11, 4.8))
    raw, smooth = figure.subplots(1, 2)
    for profile, colour in zip(profiles, palette(len(profiles)), strict=True):
        _points(raw, profile, profile.energies, colour, profile.label)
        positive = np.asarray(profile.energies.mean) > 0
        centers = np.asarray(profile.centers)[positive]
        logarithms = np.log(np.asarray(profile.energies.mean)[positive])
        smooth.plot(centers, np.exp(smoothed(logarithms)), color=colour, linewidth=1.8)
        if np.isfinite(profile.frontier.peak):
            smooth.axvline(float(profile.frontier.peak), color=colour, linestyle=":", linewidth=1)
    dress(raw, Panel("e", "Energy per shell", f"bands: {COVERAGE_TEXT} over batches", _ENERGY),
          xlabel=_XLABEL)  # fmt: skip
    dress(smooth, Panel("e", "Smoothed over three shells", "dotted: the peak", _ENERGY),
          xlabel=_XLABEL)  # fmt: skip
    figure.suptitle(f"Spectral shells of the error{_named(title)}", fontweight="bold")
    add_legend(figure, len(profiles))
    return saved(figure, path)


def _fitted(profile: Profile) -> str:
    if not np.isfinite(profile.frontier.residual):
        return "too few shells on a side of the peak to fit both"
    slope = with_error(profile.frontier.exponent, profile.sem("exponent"))
    doubt = ", in doubt" if slope_in_doubt(profile) else ""
    above = "exponential above" if falls_above(profile) else "above it no exponential fall"
    return f"power law below (slope {slope}{doubt}), {above}"


def _points(ax: Axes, profile: Profile, average: BatchAverage, colour: Any, label: str) -> None:
    mean = np.asarray(average.mean)
    shown = mean > 0
    low, high = (np.where(np.isnan(end), mean, end)[shown] for end in average.interval(COVERAGE))
    centers = np.asarray(profile.centers)[shown]
    ax.plot(centers, mean[shown], "o-", color=colour, markersize=3, linewidth=1.2, label=label)
    ax.fill_between(centers, low, high, color=colour, alpha=0.2, linewidth=0)


def smoothed(values: Float[np.ndarray, " shell"]) -> Float[np.ndarray, " shell"]:
    """Return means over three shells; at the ends, of the last one twice and its neighbour."""
    padded = np.pad(values, 1, mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _named(title: str) -> str:
    return f": {title}" if title else ""
