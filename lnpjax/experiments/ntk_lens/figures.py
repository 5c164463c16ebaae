"""The figures of scaling models and data, in the arrangement of NTK Lens (Figs. 1-3, 5, 6, 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lnpjax._base.checks import import_extra
from lnpjax.experiments.ntk_lens.families import SET_NAMES, Family
from lnpjax.plotting._style import COLOURS, Panel, dress, new_figure, palette, saved

SCALE_NAMES = {"width": "width", "size": "images"}
SCALE_LABELS = {"width": "width of the hidden layers", "size": "training images"}
DYNAMICS = (
    Panel("trace", "trace", "", r"$\mathrm{Tr}(\Theta)$"),
    Panel(
        "adaptation", "adaptation rate", "", r"$\chi = -\delta\,\mathrm{Tr}/\delta\log\mathcal{L}$"
    ),
    Panel("rank", "effective rank", "", r"$\Gamma(\Theta)$"),
)
ALIGNMENTS = (
    Panel("alignment", "label alignment", "", "alignment of kernel and labels"),
    Panel("misalignment", "misalignment", "", "turn of eigenvectors"),
)
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
        "adaptation_at_minimum",
        "adaptation rate",
        "of the means, where their test loss is lowest",
        r"$\chi(\Theta_\mathrm{min})$, growth per $\log$ loss",
    ),
)


def draw_all(found: Sequence[Family], depth: int, title: str, folder: Path) -> None:
    """Draw dynamics, alignments and scaling of the networks of one depth."""
    chosen = [family for family in found if family.depth == depth]
    title = f"{title}, {depth} layers"
    _draw_training(chosen, DYNAMICS, f"{title}: the kernel during training", folder, "dynamics")
    _draw_training(chosen, ALIGNMENTS, f"{title}: where the kernel points", folder, "alignment")
    _draw_scaling(chosen, title, folder / "scaling.png")


def _draw_training(
    found: Sequence[Family], panels: Sequence[Panel], title: str, folder: Path, name: str
) -> None:
    """Against the training loss, from the start at the left to the lowest test loss."""
    figure = new_figure((3.2 + 4.6 * len(found), 3.4 * len(panels)))
    axes = figure.subplots(len(panels), len(found), squeeze=False)
    for column, family in enumerate(found):
        colours = palette(len(family.scales))
        for row, panel in enumerate(panels):
            ax = axes[row, column]
            kind = "curve" if panel.column in ("trace", "adaptation") else "dynamics"
            for colour, scale in zip(colours, family.ensembles(family.scale), strict=True):
                loss = family.until_minimum(kind, "train_loss", scale)
                values = family.until_minimum(kind, panel.column, scale)
                if panel.column == "adaptation":
                    values = -values
                label = f"{SCALE_NAMES[family.scale]} {scale}"
                style: dict[str, Any] = {"color": colour, "label": label, "linewidth": 1.4}
                ax.plot(loss, values, marker="o" if kind == "dynamics" else "", ms=3, **style)
            heading = f"{SET_NAMES[family.images]}: {panel.title}"
            scale_of = "log" if panel.column == "trace" else "linear"
            dressed = panel._replace(title=heading)
            dress(ax, dressed, xlabel="training loss (nats; training goes right)", yscale=scale_of)
            ax.invert_xaxis()
            plain_ticks(ax.xaxis)
        axes[0, column].legend(frameon=False, fontsize=7.5, ncols=2)
    figure.suptitle(title, fontweight="bold")
    saved(figure, folder / f"{name}.png")


def _draw_scaling(found: Sequence[Family], title: str, path: Path) -> None:
    figure = new_figure((17, 4.4))
    for ax, panel in zip(figure.subplots(1, len(SCALING)), SCALING, strict=True):
        for colour, family in zip(COLOURS, found, strict=False):
            label = SET_NAMES[family.images]
            if panel.column == "adaptation_at_minimum":
                means = -np.array(family.ensembles(panel.column), float)
                errors = None
            else:
                means, errors = family.means(panel.column), family.errors(panel.column)
            if panel.column == "rank_at_minimum":
                means, errors = means / means[0], errors / means[0]
            ax.plot(family.scales, means, color=colour, marker="o", markersize=4, label=label)
            if errors is not None:
                shade = {"color": colour, "alpha": 0.2, "linewidth": 0}
                ax.fill_between(family.scales, means - errors, means + errors, **shade)
        dress(ax, panel, xlabel=SCALE_LABELS[found[0].scale])
        plain_ticks(ax.xaxis, ax.yaxis)
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(f"{title}: means over members; shaded: standard error", fontweight="bold")
    saved(figure, path)


def plain_ticks(*axes: Any) -> None:
    """Numbers at 1, 2 and 5 of each decade of logarithmic axes, which often span less than one."""
    ticker = import_extra("matplotlib.ticker", extra="run", purpose="drawing figures")
    for axis in axes:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())
