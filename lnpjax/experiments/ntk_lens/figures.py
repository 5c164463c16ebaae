"""The figures of scaling models and data, in the arrangement of NTK Lens (Figs. 1-3, 5, 6, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import standard_error
from lnpjax.experiments._harness.pictures import plain_number, plain_ticks, write_picture
from lnpjax.experiments.ntk_lens.families import SET_NAMES, Ensemble, Family, geometric_mean
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALE_NAMES = {"width": "width", "size": "images"}
SCALE_LABELS = {"width": "width of the hidden layers", "size": "training images"}
DYNAMICS = (
    Panel("trace", "trace", "means up to the minimum of the mean test loss; shaded: standard error",
          r"$\mathrm{Tr}(\Theta)$"),
    Panel("adaptation", "adaptation rate", "of the means, up to the same point",
          r"$\chi = -\delta\,\mathrm{Tr}/\delta\log\mathcal{L}$"),
    Panel("ranks", "effective rank", "", r"$\Gamma(\Theta)$"),
)  # fmt: skip
ALIGNMENTS = (
    Panel("alignments", "label alignment", "means; shaded: standard error",
          "alignment of kernel and labels"),
    Panel("misalignments", "misalignment", "from one measurement to the next",
          "turn of eigenvectors"),
)  # fmt: skip
SCALING = (
    Panel("test_loss", "test loss", "lowest of each member", "test loss (nats)"),
    Panel(
        "rank_at_minimum",
        "effective rank",
        "at that point, relative to the smallest scale",
        r"$\Gamma(\Theta_\mathrm{min})$, relative",
    ),
    Panel("trace_start", "initial trace", "before training", r"$\mathrm{Tr}(\Theta_0)$"),
    Panel(
        "adaptation",
        "adaptation rate",
        "of the means, where their test loss is lowest; error: members redrawn",
        r"$\chi(\Theta_\mathrm{min})$, growth per $\log$ loss",
    ),
)


def draw_all(families: Sequence[Family], depth: int, title: str, folder: Path) -> None:
    """Draw dynamics, alignments and scaling of the networks of one depth."""
    chosen = [family for family in families if family.depth == depth]
    title = f"{title}, {depth} layers"
    _draw_training(chosen, DYNAMICS, f"{title}: the kernel during training", folder, "dynamics")
    _draw_training(chosen, ALIGNMENTS, f"{title}: where the kernel points", folder, "alignment")
    _draw_scaling(chosen, title, folder / "scaling.png")


def _draw_training(
    families: Sequence[Family], panels: Sequence[Panel], title: str, folder: Path, name: str
) -> None:
    """Against the training loss, from the start at the left to the lowest test loss."""
    figure = new_figure((3.2 + 4.6 * len(families), 3.6 * len(panels)))
    axes = figure.subplots(len(panels), len(families), squeeze=False)
    for column, family in enumerate(families):
        colours = palette(len(family.ensembles))
        for row, panel in enumerate(panels):
            ax = axes[row, column]
            for colour, ensemble in zip(colours, family.ensembles, strict=True):
                label = f"{SCALE_NAMES[family.scaled]} {ensemble.scale:g}"
                _draw_path(ax, panel.column, ensemble, color=colour, label=label)
            caption = panel.caption or _members_with_spectra(family)
            heading = f"{SET_NAMES[family.images]}: {panel.title}"
            yscale = "log" if panel.column == "trace" else "linear"
            dressed = panel._replace(title=heading, caption=caption)
            dress(ax, dressed, xlabel="training loss (nats; training goes right)", yscale=yscale)
            ax.invert_xaxis()
            plain_ticks(ax.xaxis, *([ax.yaxis] if yscale == "log" else []))
            ax.yaxis.set_major_formatter(plain_number)
        axes[0, column].legend(frameon=False, fontsize=7.5, ncols=2)
    figure.suptitle(title, fontweight="bold")
    write_picture(figure, folder / f"{name}.png")


def _members_with_spectra(family: Family) -> str:
    ensemble = family.ensembles[0]
    some, every = len(ensemble.spectra["ranks"]), len(ensemble.members["rank_at_minimum"])
    last = "square: all members, each where its test loss is lowest"
    return f"{last}; before: {'the same' if some == every else f'{some} of {every} members'}"


def _draw_path(ax: Axes, column: str, ensemble: Ensemble, *, color: Any, label: str) -> None:
    """One quantity of one ensemble against its training loss, up to the minimum."""
    loss = ensemble.mean_path("train_loss")
    style: dict[str, Any] = {"color": color, "linewidth": 1.4}
    if column == "adaptation":
        ax.plot(loss, ensemble.adaptation_path[: len(loss)], label=label, **style)
        return
    if column == "trace":
        values = ensemble.paths[column][:, : len(loss)]
    else:
        count = ensemble.points_before
        values = ensemble.spectra[column][:, :count]
        loss = loss[ensemble.points[:count]]
    mean, error = values.mean(0), standard_error(values)
    if column == "ranks":
        members = ensemble.members
        end = geometric_mean(members["train_loss"]), members["rank_at_minimum"].mean()
        ax.plot(*end, marker="s", markersize=4, color=color)
        ax.plot([loss[-1], end[0]], [mean[-1], end[1]], linestyle=":", **style)
    marker = "" if column == "trace" else "o"
    ax.plot(loss, mean, label=label, marker=marker, markersize=3, **style)
    ax.fill_between(loss, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)


def _draw_scaling(families: Sequence[Family], title: str, path: Path) -> None:
    figure = new_figure((17, 4.4))
    for ax, panel in zip(figure.subplots(1, len(SCALING)), SCALING, strict=True):
        for colour, family in zip(COLOURS, families, strict=False):
            means, errors = _with_errors(family, panel.column)
            ax.plot(
                family.scales, means, color=colour, marker="o", markersize=4,
                label=SET_NAMES[family.images],
            )  # fmt: skip
            shade: dict[str, Any] = {"color": colour, "alpha": 0.2, "linewidth": 0}
            ax.fill_between(family.scales, means - errors, means + errors, **shade)
        dress(ax, panel, xlabel=SCALE_LABELS[families[0].scaled])
        plain_ticks(ax.yaxis)
        scale_ticks(ax, families[0].scales)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"{title}: means over members; shaded: standard error", fontweight="bold")
    write_picture(figure, path)


def _with_errors(
    family: Family, column: str
) -> tuple[Float[np.ndarray, " scales"], Float[np.ndarray, " scales"]]:
    if column == "adaptation":
        logarithms = family.log_adaptation()
        means = np.exp(logarithms.rows[0])
        return means, means * logarithms.errors
    means, errors = family.means(column), family.errors(column)
    first = means[0] if column == "rank_at_minimum" else 1.0
    return means / first, errors / first


def scale_ticks(ax: Axes, scales: Float[np.ndarray, " scales"]) -> None:
    """Mark the scales themselves, and nothing between."""
    ax.set_xticks(scales, [f"{scale:g}" for scale in scales], rotation=45, fontsize=8)
    ax.minorticks_off()
