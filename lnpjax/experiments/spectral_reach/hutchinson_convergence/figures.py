"""Figure 6, top: how Hutchinson's estimator converges, by probes and by cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import plain_ticks, write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.hutchinson_convergence.claims import WAY_NAMES
from lnpjax.experiments.spectral_reach.hutchinson_convergence.measure import WAYS
from lnpjax.experiments.spectral_reach.hutchinson_convergence.results import (
    Convergence,
    convergence,
    cost_in_gradients,
)
from lnpjax.plotting._style import (
    COLOURS,
    COVERAGE,
    COVERAGE_TEXT,
    Panel,
    add_legend,
    dress,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lnpjax.experiments.spectral_reach.hutchinson_convergence.config import HutchinsonConfig

PAPERS_PROBES = (10, 500)


def draw(config: HutchinsonConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `figure_6.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    ways = {way: convergence(config, sweep, way) for way in WAYS}
    figure = new_figure((15.5, 4.9))
    norms, probes, cost = figure.subplots(1, 3)
    _draw_norms(ways["shared"], config.num_reference, norms)
    _draw_variations(ways, probes, by_cost=False)
    _draw_variations(ways, cost, by_cost=True)
    add_legend(figure, 4)
    figure.suptitle(
        f"Hutchinson's estimator of the squared gradient norm: a trained Llama ({config.model} "
        f"parameters), {config.num_samples} samples",
        fontweight="bold",
    )
    write_picture(figure, folder / "figure_6.png")


def _draw_norms(shared: Convergence, num_reference: int, ax: Axes) -> None:
    relative = [estimates / shared.reference.value for estimates in shared.estimates]
    means = [estimates.mean() for estimates in relative]
    errors = [estimates.std(ddof=1) for estimates in relative]
    ax.errorbar(shared.probes, means, errors, fmt="o-", color=COLOURS[0], capsize=3)
    ax.axhline(1, color="0.3", linestyle="--", label=f"reference, M = {num_reference}")
    repeats = len(shared.estimates[0])
    caption = f"probes shared by all samples; one standard deviation over {repeats} repeats"
    label = r"$\Vert\nabla_\theta f\Vert_F^2$, over the reference"
    panel = Panel("norm", "Estimates", caption, label)
    dress(ax, panel, xlabel="probes M", yscale="linear")
    plain_ticks(ax.xaxis)


def _draw_variations(ways: dict[str, Convergence], ax: Axes, *, by_cost: bool) -> None:
    for (way, one), colour, marker in zip(ways.items(), COLOURS, "osD", strict=False):
        probes = np.asarray(one.probes, float)
        places = cost_in_gradients(probes) if by_cost else probes
        means = one.variations()
        low, high = np.exp(np.quantile(means.rows[1:], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], 0))
        values = np.exp(means.rows[0])
        ax.errorbar(
            places,
            values,
            [values - low, high - values],
            fmt=marker,
            color=colour,
            markersize=4.5,
            label=f"probes {WAY_NAMES[way]}",
        )
        ax.plot(places, one.fitted(probes), color=colour, linewidth=1.2)
    if not by_cost:
        for probes_of_paper in PAPERS_PROBES:
            ax.axvline(probes_of_paper, color="0.7", linestyle=":", linewidth=1)
    what = "gradients of the batch" if by_cost else "probes M"
    lines = "" if by_cost else r"; dotted: M = 10 and 500"
    caption = rf"{COVERAGE_TEXT}; lines: $c / \sqrt{{M}}${lines}"
    title = "Error by cost" if by_cost else "Error by number of probes"
    dress(ax, Panel("cv", title, caption, "coefficient of variation"), xlabel=what)
    plain_ticks(ax.xaxis, ax.yaxis)
