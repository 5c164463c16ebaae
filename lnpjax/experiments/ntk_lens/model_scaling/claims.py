"""What NTK Lens claims of wider networks (sections 4, 5; E.3), judged by a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import UNKNOWN, Bounds, Uncertain, mean_of_means
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.claims import (
    NEGATIVE,
    POSITIVE,
    alignments,
    at_minimum,
    by_family,
    enough_members,
    inside_training,
    largest_fall,
    loss_law,
)
from lnpjax.experiments.ntk_lens.families import Ensemble, Family
from lnpjax.experiments.ntk_lens.model_scaling.results import TURNS, by_width

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.model_scaling.config import ModelScalingConfig


RATIO_EXPONENTS = {3: -0.8, 4: -0.7}
TOLERANCE = 0.15
LITTLE = 0.05
CLOSED_FORM = Bounds(0.9, 1.1)
QUARTER = Bounds(-0.25, 0.25)
HALF = Bounds(low=0.5)
FACTOR_OF_2 = Bounds(0.5, 2.0)
BEYOND = 4  # widths must reach so many times the paper's turn


def judge(config: ModelScalingConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims on scaling the width, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    families = by_width(config, sweep)
    return [
        trace_grows(families),
        rank_falls(families),
        loss_law(families),
        *initial_trace(families),
        adaptation_is_constant(families),
        ratio_declines(families),
        *transition(families),
        *alignments(families),
        inside_training(families),
        *observed(families),
    ]


def trace_grows(families: Sequence[Family]) -> Claim:
    """Judge whether the trace grows all the way to the minimum."""
    return Claim(
        source="Fig. 1, 5",
        statement="The trace grows continuously up to the minimum of the test loss.",
        quantity="largest fall of the mean trace below what it had reached, as a share of that, at "
        "the width where it is largest",
        findings=by_family(
            [family.inside for family in families],
            Bounds(high=LITTLE),
            largest_fall,
        ),
        needs=at_minimum(families),
    )


def rank_falls(families: Sequence[Family]) -> Claim:
    """Judge for how much of the training the effective rank falls."""

    def shares(ensemble: Ensemble) -> np.ndarray:
        count = ensemble.points_before
        epochs = ensemble.epochs[ensemble.points[:count]]
        falling = np.diff(ensemble.spectra["ranks"][:, :count], axis=1) < 0
        return falling @ np.diff(epochs) / (epochs[-1] - epochs[0])

    def estimate(family: Family) -> Uncertain:
        chosen = family.where(lambda one: one.points_before > 1)
        return mean_of_means([shares(ensemble) for ensemble in chosen.ensembles])

    return Claim(
        source="Fig. 1, 6",
        statement="The effective rank falls during large parts of training.",
        quantity="share of the epochs up to the minimum between spectra of falling rank, mean over "
        "members and widths",
        findings=by_family([family.inside for family in families], HALF, estimate),
        needs=at_minimum(families),
    )


def initial_trace(families: Sequence[Family]) -> list[Claim]:
    """Judge the trace before training, by its trend and by the closed form."""

    def ratio(family: Family) -> Uncertain:
        return mean_of_means(
            [one.members["trace_start"] / one.expected_trace for one in family.ensembles]
        )

    needs = [enough_members(families)]
    return [
        Claim(
            source="Fig. 2",
            statement="The initial trace grows with the width.",
            quantity="exponent of its mean",
            findings=by_family(families, POSITIVE, lambda family: family.exponent("trace_start")),
            needs=needs,
        ),
        Claim(
            source="Fig. 2, ours",
            statement="Its mean over initialisations is a + b * width, in closed form "
            "(`lnpjax.kernel.expected_trace`), and grows strictly.",
            quantity="measured over closed form, mean over members and widths",
            findings=by_family(families, CLOSED_FORM, ratio),
            needs=needs,
        ),
    ]


def adaptation_is_constant(families: Sequence[Family]) -> Claim:
    """Judge whether the adaptation rate depends on the width, next to the trace that does."""

    def share(family: Family) -> Uncertain:
        rates, traces = family.log_adaptation(), family.log_means("trace_start")
        count = min(len(rates.rows), len(traces.rows))
        slopes = [log_slope(family.scales, draws.rows[:count]) for draws in (rates, traces)]
        return rates.estimate(slopes[0] / slopes[1])

    return Claim(
        source="Fig. 2",
        statement="The adaptation rate at the minimum does not depend on the width, while the "
        "initial trace does.",
        quantity="its exponent over the width, as a share of that of the initial trace",
        findings=by_family([family.inside for family in families], QUARTER, share),
        needs=at_minimum(families),
    )


def ratio_declines(families: Sequence[Family]) -> Claim:
    """Judge whether beta falls where networks are wide."""

    def exponent(family: Family) -> Uncertain:
        upper = family.scales[len(family.scales) // 2 :]
        return family.where(lambda one: one.scale >= upper[0]).exponent("trace_ratio")

    return Claim(
        source="Fig. 3",
        statement="The trace ratio beta declines as the width grows.",
        quantity="its exponent over the upper half of the widths",
        findings=by_family([family.inside for family in families], NEGATIVE, exponent),
        needs=[*at_minimum(families), _reaches(families, 1)],
    )


def transition(families: Sequence[Family]) -> list[Claim]:
    """Judge how rank and beta behave on both sides of the paper's turn, and where they turn."""
    chosen = [family.inside for family in families]
    needs = [*at_minimum(families), _reaches(families, BEYOND)]

    def narrow(family: Family) -> Uncertain:
        turn = TURNS[family.images]
        return family.where(lambda one: one.scale <= turn).exponent("rank_at_minimum")

    def excess(family: Family) -> Uncertain:
        """The exponent above the turn less half of that below."""
        scales, means = family.scales, family.log_means("rank_at_minimum")
        sides = scales <= TURNS[family.images], scales >= TURNS[family.images]
        if min(map(np.sum, sides)) < 2:
            return UNKNOWN
        below, above = (log_slope(scales[side], means.rows[:, side]) for side in sides)
        return means.estimate(above - below / 2)

    rises = by_family(chosen, POSITIVE, narrow)
    ends = by_family(chosen, NEGATIVE, excess)
    exponents = [
        Finding(
            family.name,
            _wide(family).exponent("trace_ratio"),
            Bounds(
                RATIO_EXPONENTS[family.depth] - TOLERANCE, RATIO_EXPONENTS[family.depth] + TOLERANCE
            ),
        )
        for family in chosen
        if family.depth in RATIO_EXPONENTS
    ]
    bends = [
        Finding(
            family.name,
            family.bent("rank_at_minimum").bend,
            Bounds(TURNS[family.images] / 2, TURNS[family.images] * 2),
        )
        for family in chosen
    ]
    deepest = max(family.depth for family in families)

    def quotient(family: Family) -> Uncertain:
        columns = ("rank_at_minimum", "trace_ratio")
        rank, ratio = (family.bent(name, seed).bend for seed, name in enumerate(columns))
        if rank.draws is None or ratio.draws is None:
            return UNKNOWN
        return Uncertain(rank.value / ratio.value, draws=rank.draws / ratio.draws)

    return [
        Claim(
            source="Fig. 3",
            statement="The effective rank at the minimum rises as a power law of the width, then "
            "saturates.",
            quantity="exponent up to the paper's turn; and that beyond it less half of that below",
            findings=[
                *(Finding(f"{one.what}, below", one.estimate, one.region) for one in rises),
                *(Finding(f"{one.what}, beyond", one.estimate, one.region) for one in ends),
            ],
            needs=needs,
        ),
        Claim(
            source="Fig. 3",
            statement="Beta declines with an exponent of about -0.8 for three layers, -0.7 for "
            "four.",
            quantity="its exponent beyond the paper's turn",
            findings=exponents,
            needs=needs,
        ),
        Claim(
            source="Fig. 3",
            statement="The effective rank stops to rise at a width of about 500 on MNIST and "
            "Fashion-MNIST, 1000 on CIFAR-10.",
            quantity="where two power laws of the rank meet",
            findings=bends,
            needs=needs,
        ),
        Claim(
            source="Fig. 3, 5.1",
            statement="In the deeper networks, effective rank and trace ratio turn at the same "
            "width.",
            quantity="bend of the rank over that of beta",
            findings=by_family(
                [family for family in chosen if family.depth == deepest], FACTOR_OF_2, quotient
            ),
            needs=needs,
        ),
    ]


def observed(families: Sequence[Family]) -> list[Observation]:
    """Tell what the figures show besides."""
    slopes = "; ".join(
        f"{family.name}: {_wide(family).exponent('trace_ratio').value:.2f}" for family in families
    )
    return [
        Observation(
            source="Fig. 1",
            statement="After an initial phase the adaptation rate is the same along training and "
            "for all widths: a plateau of chi.",
            seen="`dynamics.png`, second row",
        ),
        Observation(
            source="Fig. 1, 6",
            statement="The curves of the effective rank are ordered by width all along training, "
            "and sets go through the same stages on another time scale.",
            seen="`dynamics.png`, third row",
        ),
        Observation(
            source="Fig. 3",
            statement="The exponents of beta are equal for all sets.",
            seen=f"beyond the paper's turn: {slopes}",
        ),
        Observation(
            source="Fig. 3b, 5.1",
            statement="In shallow networks on CIFAR-10 the rank turns before beta.",
            seen="`transition.png`"
            if any(family.images == "cifar10" for family in families)
            else "CIFAR-10 is not among the sets",
        ),
    ]


def _reaches(families: Sequence[Family], times: float) -> Need:
    short = [family.name for family in families if family.scales[-1] < times * TURNS[family.images]]
    turns = "500; CIFAR-10: 1000"
    what = f"widths up to {times:g} times the paper's turn ({turns})"
    return Need(what, not short, f"up to {families[0].scales[-1]:g}")


def _wide(family: Family) -> Family:
    return family.where(lambda one: one.scale >= TURNS[family.images])
