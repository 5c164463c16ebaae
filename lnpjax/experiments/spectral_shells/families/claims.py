"""What Spectral Shells says of shells of language models (section 7), judged by a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain, mean_of, mean_of_means
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.families.results import (
    Convergence,
    Family,
    convergence,
    end_of_shells,
    families,
    second_maximum,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.families.config import FamiliesConfig

LEAST_RUNS = 5
PEAK_SETTLED, SHELL_SETTLED = 0.05, 0.2
STANDS_OUT = Bounds(high=np.log(1.5))
CUT_OFF = Bounds(high=-2.0)
NEGATIVE, POSITIVE = Bounds(high=0.0), Bounds(low=0.0)
PARALLEL = Bounds(-0.2, 0.2)
FACTOR_OF_2 = Bounds(-np.log(2), np.log(2))


def judge(config: FamiliesConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    found = families(config, sweep)
    needs = measured_well(found, [convergence(family) for family in found])
    return [
        one_maximum(found, needs),
        cut_off(found, needs),
        peak_moves_down(found, needs),
        parallel(found, needs),
        amplitude_grows(found, needs),
        *sizes_agree(found, needs),
        *observed(found),
    ]


def measured_well(found: Sequence[Family], doubled: Sequence[Convergence]) -> list[Need]:
    """Return what every claim rests on: runs, and products that are enough."""
    runs = min(len(family.energies) for family in found)
    peak, shell = np.nanmax([list(one) for one in doubled], axis=0)
    return [
        Need.at_least(LEAST_RUNS, "runs of each size", runs),
        Need(
            f"products whose doubling moves no peak by {PEAK_SETTLED:.0%} and no shell that is "
            f"looked at by {SHELL_SETTLED:.0%}",
            bool(peak < PEAK_SETTLED and shell < SHELL_SETTLED),
            f"{peak:.1%} and {shell:.0%} at most",
        ),
    ]


def by_checkpoint(
    found: Sequence[Family], values: Sequence[Float[np.ndarray, "run checkpoint"]], region: Bounds
) -> list[Finding]:
    """Return one finding for every size and checkpoint: the mean over runs."""
    return [
        Finding(f"{family.name}, step {step:g}", mean_of(columns[:, place]), region)
        for family, columns in zip(found, values, strict=True)
        for place, step in enumerate(family.steps)
    ]


def one_maximum(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether smoothed profiles have one maximum."""
    values = [np.apply_along_axis(second_maximum, -1, family.log_smoothed) for family in found]
    return Claim(
        source="(i), 7.3, Fig. 1c",
        statement="The profile of shell energies has one maximum.",
        quantity="ln of a second maximum over the valley before it, among shells with 1 % of the "
        "largest energy; smoothed over three shells, mean over runs",
        findings=by_checkpoint(found, values, STANDS_OUT),
        needs=needs,
    )


def cut_off(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether the energy falls to nothing before the kernel's spectrum ends."""
    return Claim(
        source="(ii), 7.3, Fig. 1a",
        statement="Beyond a sharp frontier the shells have hardly any energy.",
        quantity="log10 of the energy of the highest shell that most batches reach over the "
        "largest of all shells; mean over runs",
        findings=by_checkpoint(found, [end_of_shells(family) for family in found], CUT_OFF),
        needs=needs,
        note="That there is none above the largest eigenvalue is no finding; cut off is 1 %",
    )


def peak_moves_down(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge the displacement of the peak in training."""
    return Claim(
        source="(iii), 7.4, Fig. 2",
        statement="The peak moves to smaller eigenvalues as training goes on.",
        quantity="exponent of the smoothed profile's peak over the steps; mean over runs",
        findings=[
            Finding(family.name, mean_of(log_slope(family.steps, family.log_peaks)), NEGATIVE)
            for family in found
        ],
        needs=needs,
    )


def parallel(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether the low sides of successive checkpoints have one slope."""
    return Claim(
        source="(iii), 7.4, Fig. 2",
        statement="The low sides of all checkpoints are parallel.",
        quantity="change of the slope below the peak with each doubling of the steps, by least "
        "squares over the checkpoints with three shells there; mean over runs",
        findings=[
            Finding(
                family.name,
                mean_of(np.log(2) * family.bending),
                PARALLEL,
            )
            for family in found
        ],
        needs=needs,
    )


def amplitude_grows(found: Sequence[Family], needs: list[Need]) -> Claim:
    """Judge whether the energy of the low side grows."""
    return Claim(
        source="(iii), 7.4, Fig. 2",
        statement="The amplitude of the low side increases with training.",
        quantity="ln of the energy at the last checkpoint over that at the first, mean over the "
        "shells that are on the low side at both; mean over the runs that have any",
        findings=[
            Finding(family.name, mean_of(family.growth[np.isfinite(family.growth)]), POSITIVE)
            for family in found
        ],
        needs=needs,
    )


def sizes_agree(found: Sequence[Family], needs: list[Need]) -> list[Claim]:
    """Judge whether profiles of two sizes agree at the same checkpoint."""
    pairs = list(itertools.combinations(found, 2))
    return [
        Claim(
            source="(iv), 7.5, Fig. 3",
            statement="Across sizes the low sides are parallel.",
            quantity="slope below the peak of the larger size less that of the smaller, means over "
            "the checkpoints with three shells there, and over runs",
            findings=[
                Finding(
                    f"{small.name}, {large.name}",
                    difference(
                        np.nanmean(small.exponents, axis=1), np.nanmean(large.exponents, axis=1)
                    ),
                    PARALLEL,
                )
                for small, large in pairs
            ],
            needs=needs,
        ),
        Claim(
            source="(iv), 7.5, Fig. 3",
            statement="Across sizes the peak is displaced modestly.",
            quantity="ln of the larger size's peak over that of the smaller, at the same step; "
            "means over runs",
            findings=[
                Finding(
                    f"{small.name}, {large.name}, step {step:g}",
                    difference(small.log_peaks[:, place], large.log_peaks[:, place]),
                    FACTOR_OF_2,
                )
                for small, large in pairs
                for place, step in enumerate(small.steps)
            ],
            needs=needs,
            note="Modestly: by less than a factor of 2",
        ),
    ]


def difference(first: Float[np.ndarray, " run"], second: Float[np.ndarray, " run"]) -> Uncertain:
    """Return the difference of two means over independent runs, with Welch's degrees of freedom.

    Example:
        >>> round(difference(np.array([1.0, 2.0]), np.array([3.0, 4.0])).value, 6)
        2.0
    """
    half = mean_of_means([second, -first])
    return Uncertain(2 * half.value, 2 * half.error, half.df)


def observed(found: Sequence[Family]) -> list[Observation]:
    """Tell where the peaks are, and how the fit of both sides does."""

    def peaks(family: Family) -> str:
        values = np.exp(family.log_peaks.mean(axis=0))
        steps = zip(family.steps, values, strict=True)
        return f"{family.name}: " + ", ".join(f"{value:.2g} at {step:g}" for step, value in steps)

    misses = max(float(np.nanmean(np.asarray(family.frontiers.residual))) for family in found)
    return [
        Observation(
            source="7.4, Fig. 2",
            statement="The peak's place by step.",
            seen="; ".join(peaks(family) for family in found),
        ),
        Observation(
            source="7.3, Fig. 1b",
            statement="A power law below and an exponential above describe the profile.",
            seen=f"rms of ln E about that fit: {misses:.2g}, mean over checkpoints, of the size "
            "where it is larger",
        ),
    ]
