"""What the figures and the claims of scaling the training set read off the finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import Family, families

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.data_scaling.config import DataScalingConfig


def by_size(config: DataScalingConfig, sweep: Sweep) -> list[Family]:
    """Return the ensembles by set, over the size of the training set."""
    return families(sweep, "size", config.ensemble.rule)
