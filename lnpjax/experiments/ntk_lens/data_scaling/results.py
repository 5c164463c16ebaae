"""What the figures and the claims of scaling the training set read off the finished sweep."""

from __future__ import annotations

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import Family, families


def by_size(sweep: Sweep) -> list[Family]:
    """Return the ensembles by set, over the size of the training set."""
    return families(sweep, "size")
