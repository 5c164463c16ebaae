"""The figures of scaling the training set, in the arrangement of NTK Lens (Figs. 1, 2, 5, 6, 8)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.data_scaling.results import by_size
from lnpjax.experiments.ntk_lens.figures import draw_all

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.data_scaling.config import DataScalingConfig


def draw(config: DataScalingConfig, sweep: Sweep, folder: Path) -> None:
    """Draw dynamics, alignments and scaling.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
        folder: where the figures go: `dynamics.png`, `alignment.png`, `scaling.png`.

    Raises:
        ImportError: matplotlib is not installed (the extra "run").
    """
    draw_all(by_size(config, sweep), config.depth, "Scaling the training set", folder)
