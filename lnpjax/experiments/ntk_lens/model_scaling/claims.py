"""What NTK Lens claims of wider networks (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, decide
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.claims import (
    CLEAR_GAIN,
    FLAT,
    TOLERANCE,
    alignments,
    each,
    from_to,
    inside,
    loss_law,
)
from lnpjax.experiments.ntk_lens.families import Family
from lnpjax.experiments.ntk_lens.model_scaling.results import by_width

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.model_scaling.config import ModelScalingConfig


RATIO_EXPONENTS = {3: -0.8, 4: -0.7}
TRANSITION = (250.0, 1000.0)
UNCERTAIN = 8.0  # a bend known to within this factor only is not known
LEAST_WIDEST = 256


def judge(config: ModelScalingConfig, sweep: Sweep) -> list[Claim]:
    """All claims on scaling the width, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    found = by_width(sweep)
    wide = config.widths[-1] >= LEAST_WIDEST
    return [
        inside(found),
        _trace_grows(found),
        _rank_falls(found),
        loss_law(found),
        each(
            found,
            "Fig. 2",
            "The initial trace grows with the width.",
            lambda family: str(family.straight("trace_start")),
            lambda family: bool(np.all(np.diff(family.means("trace_start")) > 0)),
            "holds if the mean grows from each width to the next; measured: its exponent",
        ),
        each(
            found,
            "Fig. 2",
            "The adaptation rate at the minimum does not depend on the width.",
            lambda family: f"{family.adaptation_exponent():.2g}",
            lambda family: abs(family.adaptation_exponent()) <= FLAT,
            f"holds if the exponent of its size lies within {FLAT} of zero",
        ),
        _rank_rises_and_saturates(found, wide),
        *_trace_ratio(found, wide),
        _transition(found, wide),
        _transitions_coincide(found, wide),
        *alignments(found),
    ]


def _trace_grows(found: Sequence[Family]) -> Claim:
    def share(family: Family) -> float:
        steps = [
            np.diff(family.until_minimum("curve", "trace", scale))
            for scale in family.ensembles(family.scale)
        ]
        return float(np.mean(np.concatenate(steps) > 0))

    return each(
        found,
        "Fig. 1, 5",
        "The trace grows continuously up to the minimum of the test loss.",
        lambda family: f"in {100 * share(family):.0f} % of the steps between measurements",
        lambda family: share(family) >= 0.9,
        "holds if the mean trace grows in 90 % of the steps, over all widths",
    )


def _rank_falls(found: Sequence[Family]) -> Claim:
    def changes(family: Family) -> np.ndarray:
        found = []
        for scale in family.ensembles(family.scale):
            epochs = family.until_minimum("dynamics", "epoch", scale)
            ranks = family.until_minimum("dynamics", "rank", scale)
            if len(epochs) > 1:
                falling = np.diff(ranks) < 0
                found.append(np.sum(np.diff(epochs) * falling) / (epochs[-1] - epochs[0]))
        return np.array(found)

    return each(
        found,
        "Fig. 1, 6",
        "The effective rank falls during large parts of training.",
        lambda family: f"{100 * np.mean(changes(family)):.0f} % of the epochs",
        lambda family: float(np.mean(changes(family))) >= 0.5,
        "holds if it falls between spectra that span half of the epochs up to the minimum or "
        "more, mean over widths",
    )


def _rank_rises_and_saturates(found: Sequence[Family], wide: bool) -> Claim:
    def holds(family: Family) -> bool:
        fit = family.bent("rank_at_minimum")
        return fit.below.low > 0 and fit.above.value <= fit.below.value / 2

    def shown(family: Family) -> str:
        fit = family.bent("rank_at_minimum")
        return f"{fit.below} below {fit.bend.value:.0f}, {fit.above} above"

    return each(
        found,
        "Fig. 3",
        "The effective rank at the minimum rises as a power law of the width, then saturates.",
        shown,
        holds,
        "holds if the exponent below the bend is positive (95 % of the bootstrap) and that above "
        f"is at most half of it; cannot tell without a width of {LEAST_WIDEST}",
        known=wide,
    )


def _trace_ratio(found: Sequence[Family], wide: bool) -> list[Claim]:
    def known(family: Family) -> bool:
        return wide and family.depth in RATIO_EXPONENTS

    def close(family: Family) -> bool:
        exponent = family.bent("trace_ratio").above.value
        return abs(exponent - RATIO_EXPONENTS.get(family.depth, np.nan)) <= TOLERANCE

    return [
        each(
            found,
            "Fig. 3",
            "The trace ratio beta declines as the width grows.",
            lambda family: (
                f"{from_to(family, 'trace_ratio')}, largest {family.means('trace_ratio').max():.3g}"
            ),
            lambda family: bool(
                family.means("trace_ratio")[-1] < family.means("trace_ratio").max() / 2
            ),
            f"holds if beta at the largest width is below half of its largest value; cannot tell "
            f"without a width of {LEAST_WIDEST}",
            known=wide,
        ),
        each(
            found,
            "Fig. 3",
            "It declines with an exponent of about -0.8 for three layers, -0.7 for four.",
            lambda family: (
                f"{family.bent('trace_ratio').above} above "
                f"{family.bent('trace_ratio').bend.value:.0f}"
            ),
            close,
            f"holds if the exponent above the bend lies within {TOLERANCE} of that; cannot tell "
            f"without a width of {LEAST_WIDEST}",
            known=all(known(family) for family in found),
        ),
    ]


def _transition(found: Sequence[Family], wide: bool) -> Claim:
    fits = {family.name: family.bent("rank_at_minimum") for family in found}
    clear = wide and all(
        fit.gain >= CLEAR_GAIN and fit.bend.high <= UNCERTAIN * fit.bend.low
        for fit in fits.values()
    )
    low, high = TRANSITION
    return Claim(
        source="Fig. 3",
        statement="The effective rank stops to rise at a width of about 500 on MNIST and "
        "Fashion-MNIST.",
        measured="; ".join(f"{name}: {fit.bend}" for name, fit in fits.items()),
        verdict=decide(
            all(fit.bend.low <= high and fit.bend.high >= low for fit in fits.values()),
            known=clear,
        ),
        rule=f"holds if the interval of every bend meets {low:.0f} to {high:.0f}; cannot tell if "
        f"an interval spans more than a factor of {UNCERTAIN:g}, if a bend does not halve the "
        f"squared residuals of a straight law, or without a width of {LEAST_WIDEST}",
    )


def _transitions_coincide(found: Sequence[Family], wide: bool) -> Claim:
    deepest = max(family.depth for family in found)
    chosen = [family for family in found if family.depth == deepest]
    pairs = {
        family.name: (family.bent("rank_at_minimum").bend, family.bent("trace_ratio").bend)
        for family in chosen
    }
    return Claim(
        source="Fig. 3, 5.1",
        statement="In the deeper networks, effective rank and trace ratio turn at the same width.",
        measured="; ".join(
            f"{name}: rank {rank}, ratio {ratio}" for name, (rank, ratio) in pairs.items()
        ),
        verdict=decide(
            all(0.5 <= rank.value / ratio.value <= 2 for rank, ratio in pairs.values()),
            known=wide
            and all(bend.high <= UNCERTAIN * bend.low for pair in pairs.values() for bend in pair),
        ),
        rule="holds if the two bends are within a factor of 2 for every set; cannot tell if an "
        f"interval spans more than a factor of {UNCERTAIN:g}, or without a width of "
        f"{LEAST_WIDEST}",
    )
