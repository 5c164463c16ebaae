"""What NTK Lens claims of scaling models and data (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments.claims import Claim, decide
from lnpjax.experiments.ntk_results import Family, families
from lnpjax.experiments.sweep import Sweep
from lnpjax.rank_correlation import spearman

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_data_scaling import DataScalingConfig
    from lnpjax.experiments.ntk_model_scaling import ModelScalingConfig

LOSS_EXPONENTS = (0.35, 0.65)
FLAT = 0.2
ORDERED = 0.8
RATIO_EXPONENTS = {3: -0.8, 4: -0.7}
TOLERANCE = 0.15
TRANSITION = (250.0, 1000.0)
UNCERTAIN = 8.0  # a bend known to within this factor only is not known
CLEAR_GAIN = 2.0
LEAST_WIDEST = 256


def judge_model_scaling(config: ModelScalingConfig, sweep: Sweep) -> list[Claim]:
    """All claims on scaling the width, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    found = families(sweep, "width")
    wide = config.widths[-1] >= LEAST_WIDEST
    return [
        _inside(found),
        _trace_grows(found),
        _rank_falls(found),
        _loss_law(found),
        _each(
            found,
            "Fig. 2",
            "The initial trace grows with the width.",
            lambda family: str(family.straight("trace_start")),
            lambda family: bool(np.all(np.diff(family.means("trace_start")) > 0)),
            "holds if the mean grows from each width to the next; measured: its exponent",
        ),
        _each(
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
        *_alignments(found),
    ]


def judge_data_scaling(config: DataScalingConfig, sweep: Sweep) -> list[Claim]:
    """All claims on scaling the training set, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims with what was measured.
    """
    found = families(sweep, "size")
    enough = len(config.sizes) >= 4

    def order(column: str) -> Callable[[Family], float]:
        return lambda family: spearman(family.scales, family.means(column)).rho

    def adaptation(family: Family) -> float:
        sizes = -np.array(family.ensembles("adaptation_at_minimum"), float)
        return spearman(family.scales, sizes).rho

    ranks = order("rank_at_minimum")
    return [
        _inside(found),
        _loss_law(found),
        _each(
            found,
            "Fig. 2",
            "The effective rank at the minimum falls as the training set grows.",
            lambda family: f"{ranks(family):.2f} ({_from_to(family, 'rank_at_minimum')})",
            lambda family: ranks(family) <= -ORDERED,
            f"holds if Spearman's rho of size and mean rank is at most -{ORDERED}",
            known=enough,
        ),
        _each(
            found,
            "Fig. 2",
            "The initial trace does not depend on the training set.",
            lambda family: f"{family.straight('trace_start').value:.2g}",
            lambda family: abs(family.straight("trace_start").value) <= FLAT,
            f"holds if its exponent lies within {FLAT} of zero; true by construction, since "
            "networks and test images are the same for all sizes",
        ),
        _each(
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
        *_alignments(found),
    ]


def _each(
    found: Sequence[Family],
    source: str,
    statement: str,
    shown: Callable[[Family], str],
    holds: Callable[[Family], bool],
    rule: str,
    *,
    known: bool = True,
) -> Claim:
    """A claim that holds if it holds for every set and depth."""
    return Claim(
        source=source,
        statement=statement,
        measured="; ".join(f"{family.name}: {shown(family)}" for family in found),
        verdict=decide(all(holds(family) for family in found), known=known),
        rule=f"{rule}; for every set and depth",
    )


def _from_to(family: Family, column: str) -> str:
    means = family.means(column)
    return f"{means[0]:.3g} to {means[-1]:.3g}"


def _inside(found: Sequence[Family]) -> Claim:
    outside = [
        f"{family.name}, {family.scale} {scale:g}"
        for family in found
        for scale, inside in zip(family.scales, family.ensembles("inside"), strict=True)
        if not inside
    ]
    count = sum(len(family.scales) for family in found)
    return Claim(
        source="D.1",
        statement="Learning rates are such that the test loss is lowest inside training.",
        measured=f"in {count - len(outside)} of {count} ensembles"
        + (f"; not in {'; '.join(outside)}" if outside else ""),
        verdict=decide(not outside),
        rule="holds if the minimum of the mean test loss of every ensemble lies between the epochs "
        "that the config names",
    )


def _trace_grows(found: Sequence[Family]) -> Claim:
    def share(family: Family) -> float:
        steps = [
            np.diff(family.until_minimum("curve", "trace", scale))
            for scale in family.ensembles(family.scale)
        ]
        return float(np.mean(np.concatenate(steps) > 0))

    return _each(
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

    return _each(
        found,
        "Fig. 1, 6",
        "The effective rank falls during large parts of training.",
        lambda family: f"{100 * np.mean(changes(family)):.0f} % of the epochs",
        lambda family: float(np.mean(changes(family))) >= 0.5,
        "holds if it falls between spectra that span half of the epochs up to the minimum or "
        "more, mean over widths",
    )


def _loss_law(found: Sequence[Family]) -> Claim:
    def excess(family: Family) -> float:
        """Exponent of what is left to the loss at the largest scale, which is taken for the limit.

        It is not fitted next to its own limit, and means that lie below it have no logarithm.
        """
        means = family.means("test_loss")
        left = means[:-2] - means[-1]
        known = left > 0
        if known.sum() < 2:
            return np.nan
        return -np.polyfit(np.log(family.scales[:-2][known]), np.log(left[known]), 1)[0]

    def holds(family: Family) -> bool:
        low, high = LOSS_EXPONENTS
        return any(low <= a <= high for a in (-family.straight("test_loss").value, excess(family)))

    return _each(
        found,
        "Fig. 2",
        "The test loss follows a power law with an exponent of about 0.5.",
        lambda family: (
            f"{-family.straight('test_loss').value:.2f}, of what exceeds the last "
            f"{excess(family):.2f} ({_from_to(family, 'test_loss')})"
        ),
        holds,
        f"holds if the exponent of the loss, or of what exceeds that of the largest scale, lies "
        f"in {LOSS_EXPONENTS}",
    )


def _rank_rises_and_saturates(found: Sequence[Family], wide: bool) -> Claim:
    def holds(family: Family) -> bool:
        fit = family.bent("rank_at_minimum")
        return fit.below.low > 0 and fit.above.value <= fit.below.value / 2

    def shown(family: Family) -> str:
        fit = family.bent("rank_at_minimum")
        return f"{fit.below} below {fit.bend.value:.0f}, {fit.above} above"

    return _each(
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
        _each(
            found,
            "Fig. 3",
            "The trace ratio beta declines as the width grows.",
            lambda family: (
                f"{_from_to(family, 'trace_ratio')}, "
                f"largest {family.means('trace_ratio').max():.3g}"
            ),
            lambda family: bool(
                family.means("trace_ratio")[-1] < family.means("trace_ratio").max() / 2
            ),
            f"holds if beta at the largest width is below half of its largest value; cannot tell "
            f"without a width of {LEAST_WIDEST}",
            known=wide,
        ),
        _each(
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


def _alignments(found: Sequence[Family]) -> list[Claim]:
    def change(family: Family) -> float:
        moved = family.means("alignment_at_minimum") - family.means("alignment_start")
        return float(np.abs(moved).max())

    def turns(family: Family) -> np.ndarray:
        return np.array(
            [
                (values[0], values[-1])
                for scale in family.ensembles(family.scale)
                if len(values := family.until_minimum("dynamics", "misalignment", scale))
            ]
        )

    return [
        _each(
            found,
            "Fig. 8",
            "The label alignment barely changes.",
            lambda family: (
                f"by {change(family):.3f} at most, from "
                f"{family.means('alignment_start').mean():.3f}"
            ),
            lambda family: change(family) <= 0.1,
            "holds if no ensemble's mean changes by more than 0.1 up to the minimum",
        ),
        _each(
            found,
            "Fig. 8",
            "Eigenvectors turn fastest at the start, and ever less.",
            lambda family: " to ".join(f"{value:.2f}" for value in turns(family).mean(axis=0)),
            lambda family: bool(np.all(turns(family)[:, 1] < turns(family)[:, 0])),
            "holds if the misalignment between measurements is smaller at the last spectrum before "
            "the minimum than at the first, in every ensemble",
        ),
    ]
