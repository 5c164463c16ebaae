"""What Spectral Reach claims about scaling laws and spectral position, judged by runs of all sizes.

What is taken for granted of its words: a power law is one whose R^2 is above 0.95; exponents agree
to a fifth; "orders of magnitude" is more than one; a curve is flat at the end if its exponent in
the step is above -0.3 (it falls by less than two fifths) in the last four fifths of a run, and else
goes on; "closely" is a correlation above 0.9; "about a decade" is half a decade to one and a half;
a product that is not constant falls by half a decade or more.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, pooled
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import trained_long, trained_well
from lnpjax.experiments.spectral_reach.runs import Runs
from lnpjax.experiments.spectral_reach.scaling_laws.results import (
    Family,
    decades,
    decades_from_highest,
    end_ratios,
    explained,
    exponents_differ,
    families,
    floor_exponent,
    floor_held_out,
    floor_of,
    follows_loss,
    late_slope,
    loss_exponent,
    loss_held_out,
    outgrown,
)
from lnpjax.status import describe_status

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.scaling_laws.config import ScalingConfig

POSITIVE, NEGATIVE = Bounds(low=0), Bounds(high=0)
STRAIGHT = Bounds(low=0.95)
AGREE = Bounds(-0.2, 0.2)
ORDER_DOWN = Bounds(high=-1)
FLAT, FALLING = Bounds(low=-0.3), Bounds(high=-0.3)
CLOSELY = Bounds(low=0.9)
ABOUT_A_DECADE = Bounds(0.5, 1.5)
NOT_CONSTANT = Bounds(high=-0.5)
FACTOR_OF_2 = Bounds(-np.log(2), np.log(2))


def judge(config: ScalingConfig, sweep: Sweep) -> list[Claim | Observation]:
    """Judge the paper's claims, and what is asked beyond it.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    found = families(config, sweep)
    sizes = [size for family in found for size in family.sizes]
    needs = trained_well(sizes)
    to_compare = [*needs, trained_long(sizes)]
    claims = [
        power_law(found, to_compare),
        tests_agree(found, to_compare),
        falls(found, needs),
        ordered(found, to_compare),
        flattens(found, to_compare),
        loss_component(found, needs),
        network_grows(found, needs),
        product(found, needs),
        floors(found, to_compare),
        floor_foretold(found, to_compare),
    ]
    return [*claims, *observed(found)]


def of_sizes(
    found: Sequence[Family], estimate: Callable[[Runs], Uncertain], region: Bounds
) -> list[Finding]:
    """Return one finding for every size, with the errors of all sizes of a family."""
    return [
        Finding(f"{family.data} {size.name}", known, region)
        for family in found
        for size, known in zip(family.sizes, pooled(list(map(estimate, family.sizes))), strict=True)
    ]


def power_law(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether the training loss is a power law of the size."""
    findings = [
        finding
        for family in found
        for finding in (
            Finding(
                f"{family.data}, exponent", loss_exponent(family, family.train_losses), NEGATIVE
            ),
            Finding(f"{family.data}, R^2", explained(family, family.train_losses), STRAIGHT),
        )
    ]
    return Claim(
        source="section 4, Fig. 1 top",
        statement="The training loss falls as a power law in the number of parameters.",
        quantity="exponent of the smoothed training loss at the end over N, and R^2 of that law",
        findings=findings,
        needs=needs,
    )


def tests_agree(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether test and training losses have one exponent."""
    return Claim(
        source="D.1, Fig. 7",
        statement="Test losses follow power laws with the exponents of the training losses.",
        quantity="exponent of the test loss over that of the training loss, less one",
        findings=[Finding(family.data, exponents_differ(family), AGREE) for family in found],
        needs=needs,
    )


def falls(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether spectral position falls at every size."""
    return Claim(
        source="section 4, Fig. 1 bottom",
        statement="Spectral position decreases throughout training over orders of magnitude.",
        quantity="log10 of chi_pos in the last window over the mean of the first 5 steps",
        findings=of_sizes(found, lambda size: decades(size, "chi_pos"), ORDER_DOWN),
        needs=needs,
        note="More than one order is asked for",
    )


def ordered(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether larger models end at lower positions."""
    return Claim(
        source="section 4, Fig. 1 bottom",
        statement="Larger models reach lower spectral position values than smaller models.",
        quantity="ln of chi_pos in the last window over that of the next larger size",
        findings=[
            Finding(f"{family.data}, {small.name} to {large.name}", ratio, POSITIVE)
            for family in found
            for (small, large), ratio in zip(
                itertools.pairwise(family.sizes), end_ratios(family), strict=True
            )
        ],
        needs=needs,
    )


def flattens(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether small models stop while large ones go on."""
    findings = []
    for family in found:
        smallest, *_, largest = of_sizes([family], late_slope, FALLING)
        findings += [dataclasses.replace(smallest, region=FLAT), largest]
    return Claim(
        source="section 4, Fig. 1 bottom",
        statement="Small models flatten out; large ones sustain the downward trajectory.",
        quantity="d ln chi_pos / d ln step after a fifth of a run, of the smallest and largest",
        findings=findings,
        needs=needs,
    )


def loss_component(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether chi_loss mirrors the loss."""
    return Claim(
        source="D.4, Figs. 10, 11",
        statement="chi_loss tracks the loss closely at all sizes throughout training.",
        quantity="correlation of ln chi_loss with ln of the training loss over the windows",
        findings=of_sizes(found, follows_loss, CLOSELY),
        needs=needs,
    )


def network_grows(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether chi_net grows by about a decade, and less than chi_pos falls."""
    growth = of_sizes(found, lambda size: decades(size, "chi_net"), ABOUT_A_DECADE)
    beyond = of_sizes(found, outgrown, POSITIVE)
    findings = [
        Finding(f"{finding.what}, {what}", finding.estimate, finding.region)
        for what, group in (("growth", growth), ("less than the fall by", beyond))
        for finding in group
    ]
    return Claim(
        source="5.2, D.4, Figs. 5, 10, 11",
        statement="chi_net grows by roughly one order of magnitude, and less than chi_pos falls.",
        quantity="log10 of chi_net in the last window over the mean of the first 5 steps; and the "
        "fall of log10 chi_pos less that growth",
        findings=findings,
        needs=needs,
    )


def product(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether chi_net chi_pos is far from constant."""
    return Claim(
        source="D.4, Figs. 10, 11",
        statement="The product of chi_net and chi_pos is not constant, but falls as chi_pos does.",
        quantity="log10 of chi_net chi_pos in the last window over the mean of the first 5 steps",
        findings=of_sizes(found, lambda size: decades(size, "product"), NOT_CONSTANT),
        needs=needs,
    )


def floors(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether the floor of chi_pos falls with the size."""
    return Claim(
        source="beyond the paper",
        statement="The floor that chi_pos tends to falls with the size as a power law.",
        quantity="exponent in N of the floors of chi_pos = floor + amplitude step^-a, fitted to "
        "the windows after the warm-up",
        findings=[Finding(family.data, floor_exponent(family), NEGATIVE) for family in found],
        needs=needs,
        note="Nothing can be told where a size has no floor yet",
    )


def floor_foretold(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether smaller sizes tell the floor of the largest."""
    return Claim(
        source="beyond the paper",
        statement="The floors of the smaller sizes predict that of the largest, held out.",
        quantity="ln of the floor by the power law of the other sizes over the fitted one",
        findings=[Finding(family.data, floor_held_out(family), FACTOR_OF_2) for family in found],
        needs=needs,
        note="Within a factor of 2",
    )


def observed(found: Sequence[Family]) -> list[Observation]:
    """Tell rates, floors, the spread over seeds, and how well the largest loss is foretold."""

    def per_size(tell: Callable[[Runs], str]) -> str:
        return "; ".join(
            f"{family.data}: " + ", ".join(f"{size.name} {tell(size)}" for size in family.sizes)
            for family in found
        )

    def floor(size: Runs) -> str:
        estimate = floor_of(size)
        end = float(size.at_end("chi_pos").mean())
        return (
            f"{estimate.value:.2g} +- {estimate.error:.1g} ({estimate.value / end:.0%} of the end)"
        )

    def spread(size: Runs) -> str:
        ends = size.at_end("chi_pos")
        return f"{np.std(ends, ddof=1) / np.mean(ends):.0%}"

    foretold = (Finding(family.data, loss_held_out(family), AGREE).text for family in found)
    status = int(np.bitwise_or.reduce([size.status for f in found for size in f.sizes]))
    return [
        Observation(
            source="B.2.1, B.2.2",
            statement="Learning rates, by preliminary grid searches.",
            seen=per_size(lambda size: f"{size.rate:g}"),
        ),
        Observation(
            source="B.1, Fig. 6 bottom",
            statement="chi_pos agrees tightly across seeds.",
            seen="standard deviation over the mean, in the last window: " + per_size(spread),
        ),
        Observation(
            source="section 4, Fig. 1 bottom",
            statement="Spectral position decreases throughout training.",
            seen="log10 of chi_pos in the last window over its highest one: "
            + per_size(lambda size: f"{decades_from_highest(size):.1f}"),
        ),
        Observation(
            source="beyond the paper",
            statement="The floor of chi_pos at each size.",
            seen=per_size(floor),
        ),
        Observation(
            source="beyond the paper",
            statement="The test loss of the largest size, by the power law of the others.",
            seen="ln of the prediction over the loss: " + "; ".join(foretold),
        ),
        Observation(
            source="B.1",
            statement="What was wrong with any measurement.",
            seen=describe_status(status) if status else "nothing",
        ),
    ]
