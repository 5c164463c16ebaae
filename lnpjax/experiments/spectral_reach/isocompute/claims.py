"""What Spectral Reach claims about equal compute, judged by the runs of all sizes (D.2).

"Moves with the loss" is taken for a rank correlation above a half, in the mean over curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, jackknifed, mean_of
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import trained_well
from lnpjax.experiments.spectral_reach.isocompute.results import Plane, optima, optimum, planes

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.isocompute.config import IsocomputeConfig

IN_TANDEM = Bounds(low=0.5)
OPENS_UPWARDS = Bounds(low=0)
FACTOR_OF_2 = Bounds(-np.log(2), np.log(2))


def judge(config: IsocomputeConfig, sweep: Sweep) -> list[Claim | Observation]:
    """Judge the paper's claim, and what is asked beyond it.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    found = planes(config, sweep)
    needs = trained_well([size for plane in found for size in plane.sizes])
    return [
        in_tandem(found, needs),
        has_optimum(found, needs),
        same_optimum(found, needs),
        *observed(found),
    ]


def in_tandem(found: Sequence[Plane], needs: list[Need]) -> Claim:
    """Judge whether chi_pos moves with the loss along curves of equal compute."""
    return Claim(
        source="D.2, Fig. 8",
        statement="Along each isocompute curve, chi_pos moves with the test loss.",
        quantity="Spearman's correlation of test loss and chi_pos over the sizes, mean over curves",
        findings=[
            Finding(
                plane.data,
                mean_of(np.mean([curve.rank_correlations for curve in plane.curves], axis=0)),
                IN_TANDEM,
            )
            for plane in found
        ],
        needs=needs,
    )


def has_optimum(found: Sequence[Plane], needs: list[Need]) -> Claim:
    """Judge whether the test loss has a least value at some size."""

    def curvature(plane: Plane) -> Uncertain:
        def statistic(seeds: np.ndarray) -> float:
            curves = plane.curves
            means = [curve.test_loss[seeds].mean(axis=0) for curve in curves]
            pairs = zip(curves, means, strict=True)
            return float(np.mean([optimum(curve.parameters, mean)[1] for curve, mean in pairs]))

        return jackknifed(plane.sizes[0].num_seeds, statistic)

    return Claim(
        source="D.2, Fig. 8 left",
        statement="At a fixed budget there is a trade-off: some size is best.",
        quantity="second derivative of ln test loss in ln N, of a parabola, mean over curves",
        findings=[Finding(plane.data, curvature(plane), OPENS_UPWARDS) for plane in found],
        needs=needs,
    )


def same_optimum(found: Sequence[Plane], needs: list[Need]) -> Claim:
    """Judge whether chi_pos is least at the size at which the loss is."""

    def distance(plane: Plane) -> Uncertain:
        def statistic(seeds: np.ndarray) -> float:
            loss, position = (optima(plane, name, seeds) for name in ("test_loss", "chi_pos"))
            return float(np.mean(np.subtract(position, loss)))

        return jackknifed(plane.sizes[0].num_seeds, statistic)

    return Claim(
        source="beyond the paper",
        statement="chi_pos is lowest at the size that is best for the loss.",
        quantity="ln of the size at which chi_pos is lowest over that at which the test loss is, "
        "by parabolas; mean over curves",
        findings=[Finding(plane.data, distance(plane), FACTOR_OF_2) for plane in found],
        needs=needs,
        note="Nothing can be told where a parabola has no bottom",
    )


def observed(found: Sequence[Plane]) -> list[Observation]:
    """Tell the best sizes, and how they grow with the budget."""

    def best(plane: Plane) -> str:
        everyone = np.arange(plane.sizes[0].num_seeds)
        places = np.array(optima(plane, "test_loss", everyone))
        flops = np.array([curve.flops for curve in plane.curves])
        pairs = zip(flops, np.exp(places), strict=True)
        text = ", ".join(f"{size:.3g} at {budget:.2g} FLOPs" for budget, size in pairs)
        return f"{plane.data}: {text} (exponent {float(log_slope(flops, places)):.2g})"

    return [
        Observation(
            source="D.2, Fig. 8 left",
            statement="The best number of parameters at each budget, by parabolas.",
            seen="; ".join(best(plane) for plane in found),
        )
    ]
