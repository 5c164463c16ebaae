"""Figure 12: eigenvalues, coefficients and their product, before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.pictures import write_picture
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.explicit_spectrum.results import by_rank, spectra
from lnpjax.plotting._style import COLOURS, Panel, add_legend, dress, new_figure

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.explicit_spectrum.config import ExplicitConfig

LINES = {"start": "--", "end": "-"}
STATE_NAMES = {"start": "at initialisation", "end": "after training"}
LOWEST = 1e-12
"""Of what is drawn: eigenvalues below are rounding."""


def draw(config: ExplicitConfig, sweep: Sweep, folder: Path) -> None:
    """Draw `figure_12.png`.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    figure = new_figure((15.5, 5.2))
    titles = ("a) Eigenvalues", "b) Coefficients", "c) Their product, whose sum is the position")
    labels = ("$p_k$", r"$\gamma_k^2$", r"$\gamma_k^2 \, p_k$")
    kernels = config.num_models * config.num_samples
    captions = (f"means over {kernels} kernels", *["smoothed over one part in 50 of the ranks"] * 2)
    axes = figure.subplots(1, 3)
    for (state, one), colour in zip(spectra(config, sweep).items(), COLOURS, strict=False):
        for ax, values in zip(axes, (one.p, one.gamma2, one.p * one.gamma2), strict=True):
            curve = values.mean(axis=(0, 1)) if ax is axes[0] else by_rank(values)
            ranks = np.arange(1, len(curve) + 1)
            shown = np.where(curve > LOWEST, curve, np.nan)
            style = {"color": colour, "label": STATE_NAMES[state], "linewidth": 1.6}
            ax.plot(ranks, shown, LINES[state], **style)
    for ax, title, label, caption in zip(axes, titles, labels, captions, strict=True):
        dress(ax, Panel("", title, caption, label), xlabel="mode k", xscale="linear")
    add_legend(figure, 2)
    figure.suptitle(
        f"Explicit kernels of a Llama ({config.model} parameters): {config.num_vocabulary} entries "
        f"of the vocabulary at {config.context_length} positions of single sequences",
        fontweight="bold",
    )
    write_picture(figure, folder / "figure_12.png")
