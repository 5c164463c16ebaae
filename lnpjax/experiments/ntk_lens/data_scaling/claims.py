"""What NTK Lens claims of larger training sets (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.comparison import spearman
from lnpjax.experiments._harness.claims import Claim
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.claims import (
    FLAT,
    ORDERED,
    alignments,
    each,
    from_to,
    inside,
    loss_law,
)
from lnpjax.experiments.ntk_lens.data_scaling.results import by_size
from lnpjax.experiments.ntk_lens.families import Family

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.data_scaling.config import DataScalingConfig


def judge(config: DataScalingConfig, sweep: Sweep) -> list[Claim]:
    """All claims on scaling the training set, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    found = by_size(sweep)
    enough = len(config.sizes) >= 4

    def order(column: str) -> Callable[[Family], float]:
        return lambda family: spearman(family.scales, family.means(column)).rho

    def adaptation(family: Family) -> float:
        sizes = -np.array(family.ensembles("adaptation_at_minimum"), float)
        return spearman(family.scales, sizes).rho

    ranks = order("rank_at_minimum")
    return [
        inside(found),
        loss_law(found),
        each(
            found,
            "Fig. 2",
            "The effective rank at the minimum falls as the training set grows.",
            lambda family: f"{ranks(family):.2f} ({from_to(family, 'rank_at_minimum')})",
            lambda family: ranks(family) <= -ORDERED,
            f"holds if Spearman's rho of size and mean rank is at most -{ORDERED}",
            known=enough,
        ),
        each(
            found,
            "Fig. 2",
            "The initial trace does not depend on the training set.",
            lambda family: f"{family.straight('trace_start').value:.2g}",
            lambda family: abs(family.straight("trace_start").value) <= FLAT,
            f"holds if its exponent lies within {FLAT} of zero; true by construction, since "
            "networks and test images are the same for all sizes",
        ),
        each(
            found,
            "Fig. 2",
            "The adaptation rate at the minimum grows with the training set.",
            lambda family: (
                f"{adaptation(family):.2f} (exponent {family.adaptation_exponent():.2g})"
            ),
            lambda family: adaptation(family) >= ORDERED,
            f"holds if Spearman's rho of size and -d Tr / d log(loss) is at least {ORDERED}",
            known=enough,
        ),
        *alignments(found),
    ]
