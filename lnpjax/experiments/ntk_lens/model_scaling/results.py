"""What the figures and the claims of scaling the width read off the finished sweep."""

from __future__ import annotations

from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.families import Family, families


def by_width(sweep: Sweep) -> list[Family]:
    """Return the ensembles by set and depth, over the width."""
    return families(sweep, "width")
