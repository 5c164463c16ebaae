"""The figures of the transition: against the width, and against the width over its prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.estimates import MeanDraws, standard_error
from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import SET_NAMES
from lnpjax.experiments.ntk_lens.figures import SCALE_LABELS, scale_ticks
from lnpjax.experiments.ntk_lens.transition.claims import WITHIN_A_FIFTH
from lnpjax.experiments.ntk_lens.transition.results import NARROWEST, Curve, curves, expected_turn
from lnpjax.plotting._style import COLOURS, Panel, add_legend, dress, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.ntk_lens.transition.config import TransitionConfig

RELATIVE = "width x (layers - 1) / pixels"
BETA = r"trace ratio $\beta$"
RANK = r"effective rank $\Gamma(\Theta_\mathrm{min})$"
BARS = "means over members; bars: standard error"
RATIO = "mean change over mean initial trace; bars: standard error"
FALL = "plateau / (1 + width / crossover)"
PANELS = (
    Panel("width", "beta", f"{RATIO}; dashed: {FALL}", BETA),
    Panel("", "beta over its plateau", "grey: prediction; only the plateaus are fitted",
          f"{BETA} / plateau"),
    Panel("width", "effective rank", f"{BARS}; dashed: bent power laws", RANK),
    Panel("", "effective rank, relative", "to the geometric mean over widths",
          f"{RANK}, relative"),
)  # fmt: skip
Style = Mapping[str, Any]


def draw(config: TransitionConfig, sweep: Sweep, folder: Path) -> None:
    """Draw beta and rank by width and by relative width, the trace, and the NTK parametrisation.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go: `transition_layers3.png` and so on, one for each depth (after
            Fig. 3), `trace.png`, and `ntk.png` where that parametrisation was tried.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    every = curves(config, sweep)
    styles = _styles(every)
    standard = [curve for curve in every if curve.parametrization == "standard"]
    for depth in config.depths:
        chosen = [curve for curve in standard if curve.depth == depth]
        _draw_transition(chosen, styles, folder / f"transition_layers{depth}.png")
    _draw_trace(config.depths, standard, styles, folder / "trace.png")
    ntk = [curve for curve in every if curve.parametrization == "ntk"]
    if ntk:
        _draw_ntk(config.depths, ntk, standard, folder / "ntk.png")


def _styles(every: Sequence[Curve]) -> dict[tuple[str, int], dict[str, Any]]:
    """A colour for every resolution, and a marker for every set."""
    keys = list(dict.fromkeys((curve.images, curve.pixels) for curve in every))
    sets = list(dict.fromkeys(images for images, _ in keys))
    return {
        (images, pixels): {
            "color": COLOURS[place % len(COLOURS)],
            "marker": "os^"[sets.index(images) % 3],
            "markersize": 5,
            "label": f"{SET_NAMES[images]}, {pixels} pixels",
        }
        for place, (images, pixels) in enumerate(keys)
    }


def _draw_transition(
    chosen: Sequence[Curve], styles: Mapping[tuple[str, int], Style], path: Path
) -> None:
    figure = new_figure((12, 9))
    axes = figure.subplots(2, 2)
    for curve in chosen:
        style = dict(styles[curve.images, curve.pixels])
        fit, inside = curve.crossover, curve.inside
        relative = 1 / curve.turn
        _line(axes[0, 0], curve.scales, curve.log_betas, style)
        axes[0, 0].plot(inside.scales, fit.fitted, color=style["color"], linestyle="--", lw=1)
        _line(axes[0, 1], relative * curve.scales, curve.log_betas, style, fit.plateau)
        bent = inside.bent("rank_at_minimum")
        _points(axes[1, 0], curve, curve.members("rank_at_minimum"), style)
        axes[1, 0].plot(inside.scales, bent.fitted, color=style["color"], linestyle="--", lw=1)
        level = np.exp(np.mean(np.log(curve.means("rank_at_minimum"))))
        ranks = [values / level for values in curve.members("rank_at_minimum")]
        _points(axes[1, 1], curve, ranks, style | {"linestyle": "-"}, factor=relative)
    reach = np.geomspace(
        min(curve.scales[0] / curve.turn for curve in chosen),
        max(curve.scales[-1] / curve.turn for curve in chosen),
        100,
    )
    law = axes[0, 1].plot(
        reach,
        1 / (1 + reach),
        color="0.3",
        linewidth=1.2,
    )
    axes[0, 1].legend(law, ["1 / (1 + x)"], frameon=False, fontsize=9)
    for ax, panel in zip(axes.flat, PANELS, strict=True):
        by_width = panel.column == "width"
        dress(ax, panel, xlabel=SCALE_LABELS["width"] if by_width else RELATIVE)
        plain_ticks(ax.yaxis)
        if by_width:
            scale_ticks(ax, chosen[0].scales)
        else:
            plain_ticks(ax.xaxis)
            ax.axvline(1, color="0.5", linewidth=1, linestyle=":")
    add_legend(figure, len(chosen))
    figure.suptitle(
        f"Where networks of {chosen[0].depth} layers turn, by number of pixels", fontweight="bold"
    )
    write_picture(figure, path)


def _draw_trace(
    depths: Sequence[int],
    standard: Sequence[Curve],
    styles: Mapping[tuple[str, int], Style],
    path: Path,
) -> None:
    figure = new_figure((12, 4.6 * len(depths)))
    axes = figure.subplots(len(depths), 2, squeeze=False)
    low, high = WITHIN_A_FIFTH
    for row, depth in zip(axes, depths, strict=True):
        for curve in (one for one in standard if one.depth == depth):
            style = dict(styles[curve.images, curve.pixels])
            _points(row[0], curve, curve.members("trace_start"), style | {"linestyle": ""})
            expected = [one.expected_trace for one in curve.ensembles]
            row[0].plot(curve.scales, expected, color=style["color"], linewidth=1)
            means = curve.relative_changes()
            _line(row[1], curve.scales, means, style)
        row[1].axhspan(low, high, color="0.92", zorder=0)
        panels = (
            Panel("", f"{depth} layers: trace before training", f"{BARS}; lines: closed form",
                  r"$\mathrm{Tr}(\Theta_0)$"),
            Panel("", f"{depth} layers: change of the trace",
                  f"over its geometric mean over widths from {NARROWEST} on; grey: 20 %",
                  r"$\mathrm{Tr}(\Theta_\mathrm{min}) - \mathrm{Tr}(\Theta_0)$, relative"),
        )  # fmt: skip
        for ax, panel in zip(row, panels, strict=True):
            dress(ax, panel, xlabel=SCALE_LABELS["width"])
            plain_ticks(ax.yaxis)
            scale_ticks(ax, standard[0].scales)
    add_legend(figure, len(standard))
    figure.suptitle("The trace of the kernel, by number of pixels", fontweight="bold")
    write_picture(figure, path)


def _draw_ntk(
    depths: Sequence[int], ntk: Sequence[Curve], standard: Sequence[Curve], path: Path
) -> None:
    """Both parametrisations, at the resolutions at which both were tried."""
    figure = new_figure((12, 4.6 * len(depths)))
    axes = figure.subplots(len(depths), 2, squeeze=False)
    keys = list(dict.fromkeys((curve.images, curve.pixels) for curve in ntk))
    for row, depth in zip(axes, depths, strict=True):
        for place, key in enumerate(keys):
            for name, group, line in (("NTK", ntk, "-"), ("standard", standard, ":")):
                (curve,) = [
                    one for one in group if (one.images, one.pixels) == key and one.depth == depth
                ]
                style = {
                    "color": COLOURS[place % len(COLOURS)],
                    "marker": "o" if name == "NTK" else "s",
                    "markersize": 5,
                    "linestyle": line,
                    "label": f"{SET_NAMES[key[0]]}, {key[1]} pixels, {name}",
                }
                starts = curve.members("trace_start")
                level = starts[0].mean()
                _points(row[0], curve, [values / level for values in starts], style)
                _line(row[1], curve.scales, curve.log_betas, style)
            row[1].axvline(expected_turn(key[1], depth), color=style["color"], lw=1, ls=(0, (1, 4)))
        panels = (
            Panel("", f"{depth} layers: trace before training",
                  f"over that of the narrowest; {BARS}",
                  r"$\mathrm{Tr}(\Theta_0)$, relative"),
            Panel("", f"{depth} layers: beta", "vertical: pixels / (layers - 1)", BETA),
        )  # fmt: skip
        for ax, panel in zip(row, panels, strict=True):
            dress(ax, panel, xlabel=SCALE_LABELS["width"])
            plain_ticks(ax.yaxis)
            scale_ticks(ax, ntk[0].scales)
    add_legend(figure, 4)
    figure.suptitle("With and without a trace that grows with the width", fontweight="bold")
    write_picture(figure, path)


def _points(
    ax: Axes,
    curve: Curve,
    values: Sequence[Float[np.ndarray, " members"]],
    style: Style,
    *,
    factor: float = 1.0,
) -> None:
    """Means over members with standard errors, against the width times a factor."""
    means = np.array([members.mean() for members in values])
    errors = np.array([standard_error(members) for members in values])
    bars: dict[str, Any] = {"linestyle": "", "lw": 1.2, **style}
    ax.errorbar(factor * curve.scales, means, errors, **bars)


def _line(
    ax: Axes, x: Float[np.ndarray, " scales"], means: MeanDraws, style: Style, level: float = 1.0
) -> None:
    """Means that are known by their logarithms, over a level."""
    values = np.exp(means.rows[0]) / level
    bars: dict[str, Any] = {"linestyle": "", "lw": 1.2, **style}
    ax.errorbar(x, values, values * means.errors, **bars)
