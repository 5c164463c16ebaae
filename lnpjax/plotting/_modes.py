"""Figures of eigenmodes: where the spectrum lies, where the loss gradient lies in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.kernel import Modes, ModeStep
from lnpjax.plotting._style import Panel, add_legend, dress, new_figure, palette, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_BINS_PER_DECADE = 10
_PANELS = (
    Panel(
        "p",
        r"(a) Normalised eigenvalues $p_k$",
        "how strong each mode is: its share of the trace",
        r"$p_k$ (dimensionless)",
    ),
    Panel(
        "gamma2",
        r"(b) Squared projections $\gamma_k^2$",
        "how much of the loss gradient lies along each mode",
        r"$\gamma_k^2$ (dimensionless)",
    ),
    Panel(
        "contributions",
        r"(c) Contributions $\gamma_k^2 p_k$",
        r"what each mode adds to the spectral position $\chi_\mathrm{pos}$",
        r"$\gamma_k^2 p_k$ (dimensionless)",
    ),
)


def plot_modes(
    states: Mapping[str, Modes], path: str | os.PathLike[str] | None = None, *, title: str = ""
) -> Figure:
    r"""Draw eigenvalues, projections and their product over the modes (*Spectral Reach*, Fig. 12).

    The first state is dashed (initialisation), the others solid. Dots are single modes, lines their
    means over modes that are neighbours on the logarithmic axis. Modes whose eigenvalue is zero up
    to rounding are left out.

    Args:
        states: modes by the name of the state they belong to.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with three panels.

    Raises:
        ValueError: if there are no states.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import jax.numpy as jnp
        >>> from lnpjax import eigenmodes
        >>> modes = eigenmodes(jnp.diag(jnp.array([2.0, 1.0])), jnp.ones(2))
        >>> [ax.get_ylabel() for ax in plot_modes({"initialisation": modes}).axes][:2]
        ['$p_k$ (dimensionless)', '$\\gamma_k^2$ (dimensionless)']
    """
    require(bool(states), "states", expected="at least one state", got="none")
    figure = new_figure(figsize=(13, 4.6))
    axes = figure.subplots(1, 3)
    for (label, modes), colour, number in zip(
        states.items(), palette(len(states)), range(len(states)), strict=True
    ):
        label = rf"{label}: $\chi_\mathrm{{pos}}$ = {float(modes.chi_pos):.3g}"
        for panel, ax in zip(_PANELS, axes, strict=True):
            _plot_by_rank(ax, modes, panel.column, label, colour, "--" if number == 0 else "-")
    for panel, ax in zip(_PANELS, axes, strict=True):
        dress(ax, panel, xlabel="mode $k$, by falling eigenvalue")
    figure.suptitle(f"Eigenmodes of the eNTK{f': {title}' if title else ''}", fontweight="bold")
    add_legend(figure, len(states))
    return saved(figure, path)


def plot_mode_steps(
    states: Mapping[str, ModeStep], path: str | os.PathLike[str] | None = None, *, title: str = ""
) -> Figure:
    """Draw how far the modes' first-order predictions hold as a gradient step grows.

    Args:
        states: steps of several sizes (`lnpjax.kernel.step_along_gradient` with a vector of
            learning rates), by the name of the state they start from.
        path: where to save the figure, if anywhere; the suffix decides the format.
        title: what the network is.

    Returns:
        The figure, with two panels.

    Raises:
        ValueError: if there are no states.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import jax.numpy as jnp
        >>> from lnpjax import eigenmodes
        >>> from lnpjax.kernel import step_along_gradient
        >>> def apply_fn(w, x):
        ...     return x @ w
        >>> def loss_fn(outputs, targets):
        ...     return jnp.mean((outputs - targets) ** 2)
        >>> w, x, y = jnp.ones(2), jnp.eye(2), jnp.array([2.0, 3.0])
        >>> modes = eigenmodes(x @ x.T, x @ w - y)
        >>> rates = jnp.array([0.01, 0.1])
        >>> steps = step_along_gradient(apply_fn, loss_fn, w, (x, y), modes, learning_rates=rates)
        >>> disagreement, change = plot_mode_steps({"initialisation": steps}).axes
        >>> change.get_ylabel(), len(change.get_lines()[0].get_xdata())
        ('actual fall of the loss (units of the loss)', 2)
    """
    require(bool(states), "states", expected="at least one state", got="none")
    figure = new_figure(figsize=(10, 4.6))
    disagreement, change = figure.subplots(1, 2)
    for (label, steps), colour, number in zip(
        states.items(), palette(len(states)), range(len(states)), strict=True
    ):
        style: dict[str, Any] = {"color": colour, "linestyle": "--" if number == 0 else "-"}
        predicted = -np.asarray(steps.predicted_loss_change).sum(axis=1)
        actual = -np.asarray(steps.loss_change)
        disagreement.plot(predicted, steps.disagreement, "o", label=label, **style)
        change.plot(predicted, np.where(actual > 0, actual, np.nan), "o", **style)
    change.axline((0.1, 0.1), slope=1, color="0.6", linewidth=1, zorder=0)
    xlabel = "predicted fall of the loss (units of the loss)"
    dress(
        disagreement,
        Panel(
            "disagreement",
            "Are the outputs moved as predicted?",
            r"$|\Delta f - \Delta f_\mathrm{predicted}| / |\Delta f_\mathrm{predicted}|$, over all "
            "modes; falls in proportion to the step",
            "relative disagreement",
        ),
        xlabel=xlabel,
    )
    dress(
        change,
        Panel(
            "change",
            "Does the loss fall as predicted?",
            "grey: exactly as predicted; a missing point: the loss rose",
            "actual fall of the loss (units of the loss)",
        ),
        xlabel=xlabel,
    )
    figure.suptitle(f"Gradient steps{f': {title}' if title else ''}", fontweight="bold")
    add_legend(figure, len(states))
    return saved(figure, path)


def _plot_by_rank(
    ax: Axes, modes: Modes, column: str, label: str, colour: Any, linestyle: str
) -> None:
    eigenvalues = np.asarray(modes.eigenvalues)
    rounding = len(eigenvalues) * np.finfo(eigenvalues.dtype).eps * eigenvalues[0]
    rank = np.count_nonzero(eigenvalues > rounding)
    values = np.asarray(getattr(modes, column))[:rank]
    ranks = np.arange(1, rank + 1)
    ax.plot(ranks, values, ".", color=colour, markersize=2, alpha=0.25)
    ax.plot(*_binned(ranks, values), color=colour, linestyle=linestyle, label=label, linewidth=1.6)


def _binned(
    ranks: Float[np.ndarray, " mode"], values: Float[np.ndarray, " mode"]
) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    """Average over modes whose ranks are neighbours on a logarithmic axis."""
    bins = np.floor(_BINS_PER_DECADE * np.log10(ranks)).astype(int)
    together = [bins == number for number in np.unique(bins)]
    return (
        np.array([ranks[part].mean() for part in together]),
        np.array([values[part].mean() for part in together]),
    )
