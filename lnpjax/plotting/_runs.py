"""Figures of runs: the LNP components, and their parameter groups, over training compute.

Figures are made without pyplot, so they need no display and leave no global state.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lnpjax._base.checks import check_count, require
from lnpjax._base.intervals import scale_interval
from lnpjax.plotting._lens import plot_lens
from lnpjax.plotting._position import plot_positions, positions_of
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
from lnpjax.runs import Row, Run, columns, exponential_moving_average
from lnpjax.runs._rows import FLOPS, ROWS, STEP, Field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STEPS_SHOWN_SINGLY = 40  # Spectral Reach, C.1


def _component(name: str, title: str, *, banded: bool = True) -> Panel:
    """Return the panel of a field of the "lnp" rows, in the words of the table of rows."""
    field = ROWS["lnp"].field(name)
    bands = f"; bands: {COVERAGE_TEXT} over the probes" if banded else ""
    caption = f"{field.definition}{bands}\n{field.reading}"
    return Panel(name, f"{title} {field.symbol}", caption, field.label)


_PANELS = (
    Panel(
        "loss",
        "Training loss",
        "thin: every step; thick: exponential moving average (factor 0.1)\ndots: validation",
        ROWS["train"].field("loss").label,
    ),
    _component("chi_loss", "Loss magnitude", banded=False),
    _component("chi_net", "Network magnitude"),
    _component("chi_pos", "Spectral position"),
)


def window_average(
    steps: Int[np.ndarray, " n"],
    windows: Int[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    *,
    singly: int = STEPS_SHOWN_SINGLY,
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Return the first measured steps one by one, then one mean per window.

    As in the figures of *Spectral Reach* (C.1).

    Args:
        steps: the measured steps, strictly increasing.
        windows: the window that each belongs to.
        values: what is averaged; NaN (not measured, or undefined) is left out.
        singly: how many of the first steps are not averaged.

    Returns:
        `(steps, values)`: what remains of both, means over the same steps; NaN for a window
        without a value.

    Raises:
        ValueError: if lengths differ, `steps` does not increase, or `singly` is negative.

    Example:
        >>> window_average(np.arange(5), np.array([0, 0, 1, 1, 1]), np.arange(5) * 10.0, singly=1)
        (array([0., 1., 3.]), array([ 0., 10., 30.]))
    """
    steps, windows = np.asarray(steps), np.asarray(windows)
    values = np.asarray(values, np.float64)
    shapes = [array.shape for array in (steps, windows, values)]
    same = all(shape == (steps.size,) for shape in shapes)
    require(same, "values", expected="steps, windows and values of one length", got=shapes)
    increasing = bool(np.all(np.diff(steps) > 0))
    require(increasing, "steps", expected="strictly increasing steps", got=steps)
    check_count("singly", singly, least=0)
    parts = _shown_together(windows, singly)
    return _means(steps, parts), _means(values, parts)


def plot_components(
    runs: Run | Sequence[Run] | Mapping[str, Sequence[Row]],
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw loss, chi_loss, chi_net and chi_pos over training compute (*Spectral Reach*, D.4).

    Where the rows of a run do not say how much that was, over the number of steps.

    The components are shown as in C.1 of the paper: the first 40 measured steps one by one, then a
    mean per window. Bands are 95 % intervals over the probes, where the rows give standard errors
    (taken as exact in older rows, which lack their degrees of freedom). Where chi_pos is negative,
    as it may be across batches, a hollow triangle stands at its size.

    Args:
        runs: a run, several, or rows by label. A run is labelled by its number of parameters.
        path: where to save the figure, if anywhere; the suffix decides the format.

    Returns:
        The figure, with one curve per run in each panel.

    Raises:
        ValueError: if there are no runs, or one has neither "train" nor "lnp" rows; the message
            names it.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> lnp = {"step": 0, "window": 0, "chi_loss": 1.0, "chi_net": 2.0, "chi_pos": 0.1}
        >>> rows = [
        ...     {"kind": "train", "step": 0, "flops": 1e9, "loss": 2.0},
        ...     {"kind": "lnp", "flops": 1e9} | lnp,
        ... ]
        >>> loss, *others = plot_components({"1M parameters": rows}).axes
        >>> loss.get_xlabel(), loss.get_ylabel()
        ('training compute 6 N D (FLOPs)', 'loss (nats)')
    """
    rows_by_label = _rows_by_label(runs)
    x = _horizontal(rows_by_label.values())
    figure = new_figure(figsize=(11, 8))
    axes = dict(zip(_PANELS, figure.subplots(2, 2).flat, strict=True))
    colours = palette(len(rows_by_label))
    for (label, rows), colour in zip(rows_by_label.items(), colours, strict=True):
        measured = columns(rows, "lnp")
        for panel, ax in axes.items():
            if panel.column == "loss":
                _plot_loss(ax, rows, x, label, colour)
            elif panel.column in measured:
                _plot_measured(ax, measured, x, panel.column, label, colour)
    for panel, ax in axes.items():
        dress(ax, panel, xlabel=x.label)
    figure.suptitle("LNP decomposition of the loss change over training", fontweight="bold")
    add_legend(figure, len(rows_by_label))
    return saved(figure, path)


def plot_groups(run: Run, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw chi_pos and the share of chi_net of each parameter group over training compute.

    Args:
        run: a run whose "lnp" rows have groups.
        path: where to save the figure, if anywhere; the suffix decides the format.

    Returns:
        The figure, with one curve per group in each of its two panels.

    Raises:
        ValueError: if no row has groups.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import tempfile
        >>> row = {"kind": "lnp", "step": 0, "window": 0, "flops": 1e9, "chi_net": 2.0}
        >>> with Run.create(tempfile.mkdtemp(), {}) as run:
        ...     run.append(row | {"groups": {"head": {"chi_net": 0.5, "chi_pos": 0.1}}})
        ...     position, share = plot_groups(run).axes
        >>> share.get_lines()[0].get_ydata()
        array([0.25])
    """
    measured = run.columns("lnp")
    groups = _group_names(measured)
    require(bool(groups), "run", expected='"lnp" rows that have groups', got=f"none in {run.path}")
    x = _horizontal([run.rows("lnp")])
    figure = new_figure(figsize=(11, 4.6))
    position, share = figure.subplots(1, 2)
    for group, colour in zip(groups, palette(len(groups)), strict=True):
        of_group = {name: measured[name] for name in ("step", "window", x.name)} | {
            "chi_pos": measured[f"groups/{group}/chi_pos"],
            "share": measured[f"groups/{group}/chi_net"] / measured["chi_net"],
        }
        _plot_measured(position, of_group, x, "chi_pos", group, colour)
        _plot_measured(share, of_group, x, "share", group, colour)
    chi_pos, chi_net = (ROWS["lnp"].field(name) for name in ("chi_pos", "chi_net"))
    title = f"Spectral position {chi_pos.symbol} of each group"
    caption = f"{chi_pos.definition}, in the group's own eNTK; lower is deeper"
    dress(position, Panel("chi_pos", title, caption, chi_pos.label), xlabel=x.label)
    title = f"Share of {chi_net.symbol}"
    caption = "how much of the network's response to its parameters is this group's"
    label = f"{chi_net.symbol} of the group / of the network"
    dress(share, Panel("share", title, caption, label), xlabel=x.label)
    figure.suptitle(f"Parameter groups of {_label(run)}", fontweight="bold")
    add_legend(figure, len(groups))
    return saved(figure, path)


def plot_accuracy(
    runs: Run | Sequence[Run] | Mapping[str, Sequence[Row]],
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw the accuracy of runs that learn classes over training compute.

    Over the number of steps, where the rows of a run do not say how much compute that was.

    Args:
        runs: a run, several, or rows by label.
        path: where to save the figure, if anywhere; the suffix decides the format.

    Returns:
        The figure: a line with dots for each run's validation set, a diamond for its test set.

    Raises:
        ValueError: if there are no runs, or none has an accuracy.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> rows = [{"kind": "train", "step": 0, "flops": 1e9, "loss": 2.0}]
        >>> rows += [{"kind": "validation", "flops": 1e9, "loss": 2.0, "accuracy": 0.25}]
        >>> (ax,) = plot_accuracy({"mine": rows}).axes
        >>> ax.get_lines()[0].get_ydata()
        array([0.25])
    """
    rows_by_label = _rows_by_label(runs)
    expected, name = "rows with an accuracy, as runs that learn classes have", "accuracy"
    has_any = any(map(has_accuracy, rows_by_label.values()))
    require(has_any, "runs", expected=expected, got="none")
    x = _horizontal(rows_by_label.values())
    figure = new_figure(figsize=(6.4, 4.6))
    ax = figure.subplots()
    colours = palette(len(rows_by_label))
    for (label, rows), colour in zip(rows_by_label.items(), colours, strict=True):
        for kind, style in (("validation", "o-"), ("test", "D")):
            if name in (scores := columns(rows, kind)):
                of_kind = f"{label}, {kind}"
                ax.plot(scores[x.name], scores[name], style, color=colour, markersize=4.5,
                        markeredgecolor="white" if kind == "validation" else "black",
                        linewidth=1.5, label=of_kind)  # fmt: skip
    caption = "share of samples whose most probable class is their label"
    dress(ax, Panel(name, "Accuracy", caption, "accuracy"), xlabel=x.label, yscale="linear")
    ax.set_ylim(0, 1.02)
    ax.legend(fontsize="small", loc="lower right")
    return saved(figure, path)


def has_accuracy(rows: Sequence[Row]) -> bool:
    """Return whether a run learns classes."""
    return any("accuracy" in row for row in rows if row["kind"] in ("validation", "test"))


def plot_run(run: Run) -> Path:
    """Draw a run's figures into it.

    `figures/components.png`; `accuracy.png` if it learns classes; `groups.png` if its rows have
    groups; `position.png` if it has saved
    distributions of learning over the spectrum at two steps or more; `lens.png` if it has spectra
    of activations and gradients.

    Args:
        run: a run with "train" or "lnp" rows.

    Returns:
        The path of `components.png`.

    Raises:
        ValueError: if the run has neither kind of rows.
        ImportError: if matplotlib is not installed (the extra "run").

    Example:
        >>> import tempfile
        >>> with Run.create(tempfile.mkdtemp(), {}) as run:
        ...     run.append({"kind": "train", "step": 0, "flops": 1e9, "loss": 2.0})
        ...     run.append({"kind": "train", "step": 1, "flops": 2e9, "loss": 1.5})
        ...     print(plot_run(run).relative_to(run.path))
        figures/components.png
    """
    path = run.figure_path("components")
    plot_components(run, path)
    if has_accuracy(run.rows()):
        plot_accuracy(run, run.figure_path("accuracy"))
    if _group_names(run.columns("lnp")):
        plot_groups(run, run.figure_path("groups"))
    positions = positions_of(run)
    if len(positions) > 1:
        plot_positions(positions, run.figure_path("position"), title=run.path.name)
    if run.rows("spectra"):
        plot_lens(run, run.figure_path("lens"))
    return path


def _horizontal(of_runs: Iterable[Sequence[Row]]) -> Field:
    """Return what to draw over: compute, or steps where a run does not say."""
    drawn = [row for rows in of_runs for row in rows if row["kind"] in {"train", "lnp"}]
    known = all(math.isfinite(row.get(FLOPS.name) or math.nan) for row in drawn)
    return FLOPS if known else STEP


def _plot_loss(ax: Axes, rows: Sequence[Row], x: Field, label: str, colour: Any) -> None:
    train, validation = columns(rows, "train"), columns(rows, "validation")
    if train:
        ax.plot(train[x.name], train["loss"], color=colour, linewidth=0.5, alpha=0.3)
        smooth = exponential_moving_average(train["loss"])
        ax.plot(train[x.name], smooth, color=colour, linewidth=1.8, label=label)
    if validation:
        places, losses = validation[x.name], validation["loss"]
        ax.plot(places, losses, "o", color=colour, markersize=4.5, markeredgecolor="white")


def _plot_measured(
    ax: Axes, measured: Mapping[str, np.ndarray], x: Field, column: str, label: str, colour: Any
) -> None:
    """Draw one curve with its band; negative means as hollow triangles at their size."""
    places = window_average(measured["step"], measured["window"], measured[x.name])[1]
    values = window_average(measured["step"], measured["window"], measured[column])[1]
    negative = values < 0
    positive = np.where(negative, math.nan, values)
    ax.plot(places, positive, "o-", color=colour, markersize=3, linewidth=1.5, label=label)
    ax.plot(places[negative], -values[negative], "v", color=colour, fillstyle="none", markersize=6)
    if f"{column}_sem" in measured:
        parts = _shown_together(measured["window"], STEPS_SHOWN_SINGLY)
        sems = measured[f"{column}_sem"]
        df = measured.get("sem_df", np.full(sems.shape, math.inf))
        errors = [jnp.asarray(error) for error in _errors_of_means(sems, df, parts)]
        low, high = scale_interval(jnp.asarray(positive), errors[0], errors[1], COVERAGE)
        ax.fill_between(
            places, np.asarray(low), np.asarray(high), color=colour, alpha=0.2, linewidth=0
        )


def _shown_together(windows: np.ndarray, singly: int) -> list[np.ndarray]:
    """Return the indices of each point of a curve: one each at first, then those of a window."""
    rest = np.arange(singly, windows.size)
    labels = windows[singly:]
    together = [rest[labels == window] for window in dict.fromkeys(labels.tolist())]
    return [np.array([i]) for i in range(min(singly, windows.size))] + together


def _means(values: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    defined = [values[part][~np.isnan(values[part])] for part in parts]
    return np.array([part.mean() if part.size else math.nan for part in defined])


def _errors_of_means(
    sems: np.ndarray, df: np.ndarray, parts: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of each mean of independent estimates, and its degrees of freedom.

    The root of sum(sem^2), over n; and those of Satterthwaite, as in
    `lnpjax.jacobian._probe_noise.degrees_of_freedom`.
    """
    df = np.where(np.isnan(df), math.inf, df)  # rows leave them undefined for an error of zero

    def of_mean(part: np.ndarray) -> tuple[float, float]:
        measured = part[~np.isnan(sems[part])]
        if not measured.size:
            return math.nan, math.inf
        sem = math.hypot(*sems[measured]) / measured.size
        variances = sems[measured] ** 2
        doubt = np.sum(variances**2 / (df[measured] + 2))
        if not doubt:
            return sem, math.inf
        combined = np.sum(variances) ** 2 / doubt - 2
        return sem, max(combined, df[measured].min())

    means = np.array([of_mean(part) for part in parts]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _rows_by_label(
    runs: Run | Sequence[Run] | Mapping[str, Sequence[Row]],
) -> dict[str, Sequence[Row]]:
    if isinstance(runs, Mapping):
        labelled = dict(runs)
    else:
        several = [runs] if isinstance(runs, Run) else list(runs)
        labels = [_label(run) for run in several]
        labelled = {
            label if labels.count(label) == 1 else f"{label} ({run.path.name})": run.rows()
            for label, run in zip(labels, several, strict=True)
        }
    require(bool(labelled), "runs", expected="at least one run", got="none")
    for label, rows in labelled.items():
        kinds = {row["kind"] for row in rows}
        enough = not kinds.isdisjoint({"train", "lnp"})
        expected = f'rows of kind "train" or "lnp" in {label!r}'
        require(enough, "runs", expected=expected, got=sorted(kinds) or "no rows")
    return labelled


def _label(run: Run) -> str:
    count = run.config.get("num_parameters")
    if count is None:
        return run.path.name
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.4g}{suffix} parameters"
    return f"{count} parameters"


def _group_names(measured: Mapping[str, np.ndarray]) -> list[str]:
    of_groups = (name.removeprefix("groups/") for name in measured if name.startswith("groups/"))
    return list(dict.fromkeys(name.rpartition("/")[0] for name in of_groups))
