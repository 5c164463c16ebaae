"""What NTK Lens claims of larger training sets (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, mean_of
from lnpjax.experiments._harness.power_laws import exponent, log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.claims import (
    NEGATIVE,
    POSITIVE,
    alignments,
    at_minimum,
    by_family,
    inside_training,
    largest_fall,
    loss_law,
)
from lnpjax.experiments.ntk_lens.data_scaling.results import by_size
from lnpjax.experiments.ntk_lens.families import Family

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.data_scaling.config import DataScalingConfig


def judge(config: DataScalingConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims on scaling the training set, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    families = by_size(config, sweep)
    return [
        loss_law(families),
        rank_falls_with_data(families),
        adaptation_grows(families),
        *alignments(families),
        inside_training(families),
        *observed(families),
    ]


def rank_falls_with_data(families: Sequence[Family]) -> Claim:
    """Judge the trend of the rank at the minimum, member by member: the networks are the same."""

    def trend(family: Family) -> Uncertain:
        ranks = np.stack(family.members("rank_at_minimum"), axis=1)
        return mean_of(log_slope(family.scales, np.log(ranks)))

    return Claim(
        source="Fig. 2",
        statement="The effective rank at the minimum falls as the training set grows.",
        quantity="exponent of each member's rank over the sizes, mean over members, pairs",
        findings=by_family([family.inside for family in families], NEGATIVE, trend),
        needs=at_minimum(families),
    )


def adaptation_grows(families: Sequence[Family]) -> Claim:
    """Judge the trend of the adaptation rate."""
    return Claim(
        source="Fig. 2",
        statement="The adaptation rate at the minimum grows with the training set.",
        quantity="exponent of its size over the sizes; members redrawn, the same at all sizes",
        findings=by_family(
            [family.inside for family in families],
            POSITIVE,
            lambda family: exponent(family.scales, family.log_adaptation()),
        ),
        needs=at_minimum(families),
    )


def observed(families: Sequence[Family]) -> list[Observation]:
    """Tell what the figures show besides."""
    dips = "; ".join(
        Finding(family.name, largest_fall(family.inside), Bounds()).text for family in families
    )
    return [
        Observation(
            source="Fig. 1, 5",
            statement="The trace grows continuously up to the minimum of the test loss.",
            seen="largest fall below what it had reached, as a share of that, at the size where it "
            f"is largest: {dips}",
        ),
        Observation(
            source="Fig. 1",
            statement="The adaptation rate grows along training.",
            seen="`dynamics.png`, second row",
        ),
        Observation(
            source="Fig. 1, 6",
            statement="The curves of the effective rank are ordered by size all along training, "
            "and sets go through the same stages on another time scale.",
            seen="`dynamics.png`, third row",
        ),
        Observation(
            source="Fig. 2",
            statement="The initial trace does not depend on the training set.",
            seen="true by construction: networks and test images are the same for all sizes",
        ),
    ]
