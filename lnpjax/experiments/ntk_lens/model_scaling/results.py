"""What the figures and the claims of scaling the width read off the finished sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import Family, families

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.model_scaling.config import ModelScalingConfig

TURNS = {
    "digits": 500.0,
    "mnist": 500.0,
    "fashion_mnist": 500.0,
    "cifar10": 1000.0,
    "natural_patches": 1000.0,
}
"""The width at which networks turn from features to the kernel in Fig. 3, by set.

Those that the paper does not have are taken to turn where sets of about as many pixels do.
"""


def by_width(config: ModelScalingConfig, sweep: Sweep) -> list[Family]:
    """Return the ensembles by set and depth, over the width."""
    return families(sweep, "width", config.ensemble.rule)
