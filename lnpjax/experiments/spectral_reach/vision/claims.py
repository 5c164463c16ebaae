"""What Spectral Reach claims about vision transformers, judged in both parametrisations (D.3).

What is taken for granted of its words: muP "holds feature-learning intensity constant" if the
change of features over training has an exponent over widths between -0.1 and 0.1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_reach.claims import trained_well
from lnpjax.experiments.spectral_reach.parametrisations import NAMES
from lnpjax.experiments.spectral_reach.scaling_laws.results import (
    decades,
    end_ratios,
    loss_exponent,
)
from lnpjax.experiments.spectral_reach.vision.results import Vision, arms
from lnpjax.status import describe_status

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_reach.vision.config import VisionConfig

POSITIVE, NEGATIVE, CONSTANT = Bounds(low=0), Bounds(high=0), Bounds(-0.1, 0.1)


def judge(config: VisionConfig, sweep: Sweep) -> list[Claim | Observation]:
    """Judge the paper's claims, and what it takes for granted.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.
    """
    found = arms(config, sweep)
    needs = trained_well([size for arm in found for size in arm.family.sizes])
    return [
        loss_falls(found, needs),
        position_falls(found, needs),
        ordered(found, needs),
        intensity(found, needs),
        *observed(found),
    ]


def loss_falls(found: Sequence[Vision], needs: list[Need]) -> Claim:
    """Judge whether larger models learn better."""
    return Claim(
        source="D.3, Fig. 9 top",
        statement="The training loss decreases with model size.",
        quantity="exponent of the smoothed training loss at the end over N",
        findings=[
            Finding(NAMES[v.arm], loss_exponent(v.family, v.family.train_losses), NEGATIVE)
            for v in found
        ],
        needs=needs,
    )


def position_falls(found: Sequence[Vision], needs: list[Need]) -> Claim:
    """Judge whether spectral position falls at every size."""
    return Claim(
        source="D.3, Fig. 9 bottom",
        statement="Spectral position decreases throughout training.",
        quantity="log10 of chi_pos in the last window over the mean of the first 5 steps",
        findings=[
            Finding(f"{NAMES[v.arm]}, {size.name}", decades(size, "chi_pos"), NEGATIVE)
            for v in found
            for size in v.family.sizes
        ],
        needs=needs,
    )


def ordered(found: Sequence[Vision], needs: list[Need]) -> Claim:
    """Judge whether larger models end at lower positions, under muP too."""
    return Claim(
        source="D.3, Fig. 9 bottom",
        statement="Larger ViTs reach lower spectral positions, under muP as well.",
        quantity="ln of chi_pos in the last window over that of the next larger size",
        findings=[
            Finding(f"{NAMES[v.arm]}, {small.name} to {large.name}", ratio, POSITIVE)
            for v in found
            for (small, large), ratio in zip(
                itertools.pairwise(v.family.sizes), end_ratios(v.family), strict=True
            )
        ],
        needs=needs,
    )


def intensity(found: Sequence[Vision], needs: list[Need]) -> Claim:
    """Judge whether muP holds the intensity of feature learning, which the paper does not show."""
    return Claim(
        source="D.3, taken for granted",
        statement="Under muP, the intensity of feature learning is the same at all widths.",
        quantity="exponent over widths of the relative change of the last hidden layer",
        findings=[Finding(NAMES[v.arm], v.intensity(), CONSTANT) for v in found if v.arm == "mup"],
        needs=needs,
    )


def observed(found: Sequence[Vision]) -> list[Observation]:
    """Tell rates, the intensity under the standard parametrisation, and what went wrong."""
    status = 0
    for v in found:
        for size in v.family.sizes:
            status |= size.status
    rates = "; ".join(
        f"{NAMES[v.arm]}: " + ", ".join(f"{size.name} {size.rate:g}" for size in v.family.sizes)
        for v in found
    )
    standard = next(v for v in found if v.arm == "standard")
    return [
        Observation(
            source="B.2.3, B.2.4",
            statement="Learning rates, by preliminary grid searches; under muP at the base width.",
            seen=rates,
        ),
        Observation(
            source="D.3",
            statement="Under standard parametrisation, width and the intensity of feature learning "
            "are entangled.",
            seen="exponent over widths of the relative change of the last hidden layer: "
            + Finding("", standard.intensity(), CONSTANT).text,
        ),
        Observation(
            source="B.1",
            statement="What was wrong with any measurement.",
            seen=describe_status(status) if status else "nothing",
        ),
    ]
