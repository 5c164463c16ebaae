"""What NTK Lens claims of the transition (section 5, Fig. 3), against the number of pixels.

The paper reads one width off Fig. 3 for both beta and the effective rank. Here both are followed
over the number of pixels, and beta is compared with what the closed form of the trace predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import COVERAGE, Claim, Finding, Observation
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    Bounds,
    Uncertain,
    mean_of_means,
)
from lnpjax.experiments._harness.power_laws import bent_power_law
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.ntk_lens.claims import (
    at_minimum,
    enough_members,
    inside_training,
)
from lnpjax.experiments.ntk_lens.transition.results import (
    NARROWEST,
    Curve,
    by_resolution,
    curves,
    rank_moves,
)

if TYPE_CHECKING:
    from lnpjax.experiments.ntk_lens.transition.config import TransitionConfig

FACTOR_OF_2 = Bounds(0.5, 2.0)
WITHIN_A_FIFTH = Bounds(1 / 1.2, 1.2)
CLOSED_FORM = Bounds(0.9, 1.1)
STRAIGHT = Bounds(-0.3, 0.3)
STEEP = Bounds(high=-0.5)


def judge(config: TransitionConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims on the transition.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    every = curves(config, sweep)
    standard = [curve for curve in every if curve.parametrization == "standard"]
    ntk = [curve for curve in every if curve.parametrization == "ntk"]
    return [
        initial_trace(standard),
        change_is_constant(standard),
        beta_turns(standard),
        *rank_stays(standard),
        turn_together(standard),
        *ntk_parametrisation(ntk),
        inside_training(every),
        *observed(standard),
    ]


def initial_trace(chosen: Sequence[Curve], kind: str = "") -> Claim:
    """Judge the closed form of the trace before training, on which the prediction rests."""

    def ratio(curve: Curve) -> Uncertain:
        return mean_of_means(
            [one.members["trace_start"] / one.expected_trace for one in curve.ensembles]
        )

    law = "does not depend on the width" if kind else "is a + b * width, doubled at pixels / (L-1)"
    return Claim(
        source="ours",
        statement=f"{kind}The trace before training, in the mean over initialisations, {law} "
        "(`lnpjax.kernel.expected_trace`).",
        quantity="measured over closed form, mean over members and widths",
        findings=[Finding(curve.name, ratio(curve), CLOSED_FORM) for curve in chosen],
        needs=[enough_members(chosen)],
    )


def change_is_constant(standard: Sequence[Curve]) -> Claim:
    """Judge whether the trace's change depends on the width."""
    findings = []
    for curve in standard:
        chosen = curve.inside.where(lambda one: one.scale >= NARROWEST)
        means = chosen.relative_changes()
        for width, logarithms in zip(chosen.scales, means.rows.T, strict=True):
            ratio = means.estimate(np.exp(logarithms))
            findings.append(Finding(f"{curve.name}, width {width:g}", ratio, WITHIN_A_FIFTH))
    return Claim(
        source="section 5, ours",
        statement="The change of the trace up to the minimum does not depend on the width, within "
        "20 %.",
        quantity=f"its mean over the geometric mean over widths from {NARROWEST} on",
        findings=findings,
        needs=at_minimum(standard),
    )


def beta_turns(standard: Sequence[Curve]) -> Claim:
    """Judge whether beta turns where the number of pixels and layers says."""
    findings = []
    for curve in standard:
        place = curve.crossover.scale
        draws = None if place.draws is None else place.draws / curve.turn
        estimate = Uncertain(place.value / curve.turn, draws=draws)
        findings.append(Finding(curve.name, estimate, FACTOR_OF_2))
    return Claim(
        source="Fig. 3, ours",
        statement="Beta turns at a width of pixels / (L-1), where the trace before training has "
        "doubled, at every number of pixels.",
        quantity="crossover w0 of plateau / (1 + width / w0), fitted to mean changes over mean "
        "traces, errors stretched by the misfit, over pixels / (L-1)",
        findings=findings,
        needs=at_minimum(standard),
    )


def rank_stays(standard: Sequence[Curve]) -> list[Claim]:
    """Judge whether the bend of the effective rank moves with the number of pixels."""
    groups = by_resolution(list(standard))
    moves = [(_group_name(group), rank_moves(group), _range(group)) for group in groups]
    quantity = (
        "factor by which the bend moves from the fewest to the most pixels: bent power laws, with "
        "bends in a power law of the pixels, fitted jointly"
    )
    needs = at_minimum(standard)
    return [
        Claim(
            source="Fig. 3, ours",
            statement="The effective rank bends at the same width, within a factor of 2, at every "
            "number of pixels.",
            quantity=quantity,
            findings=[Finding(name, move, FACTOR_OF_2) for name, move, _ in moves],
            needs=needs,
        ),
        Claim(
            source="Fig. 3, ours",
            statement="The bend of the effective rank does not move in proportion to the pixels, "
            "as beta's crossover does.",
            quantity=f"the same {quantity.partition(':')[0]}, which must be nearer to 1 than to "
            "that of the pixels",
            findings=[Finding(name, move, Bounds(high=far**0.5)) for name, move, far in moves],
            needs=needs,
        ),
    ]


def turn_together(standard: Sequence[Curve]) -> Claim:
    """Judge whether rank and beta turn at one width, as the paper has it, whatever the pixels."""

    def quotient(curve: Curve) -> Uncertain:
        rank, ratio = curve.inside.bent("rank_at_minimum").bend, curve.crossover.scale
        if rank.draws is None or ratio.draws is None:
            return UNKNOWN
        return Uncertain(rank.value / ratio.value, draws=rank.draws / ratio.draws)

    return Claim(
        source="Fig. 3",
        statement="Effective rank and trace ratio turn at the same width.",
        quantity="bend of the rank, where two power laws meet, over the crossover of beta",
        findings=[
            Finding(curve.name, quotient(curve), FACTOR_OF_2)
            for curve in standard
            if _searched(curve)
        ],
        needs=at_minimum(standard),
        note="Only where the widths reach beyond a factor of 2 of beta's predicted crossover",
    )


def ntk_parametrisation(ntk: Sequence[Curve]) -> list[Claim]:
    """Judge what is predicted where the trace before training does not grow: no crossover."""
    if not ntk:
        return []
    needs = at_minimum(ntk)

    def sides(curve: Curve) -> tuple[Uncertain, Uncertain]:
        """The exponent up to pixels / (L-1), and that beyond less this one."""
        chosen = curve.inside
        if len(chosen.scales) < 4 or not chosen.scales[1] <= curve.turn <= chosen.scales[-2]:
            return UNKNOWN, UNKNOWN
        fit = bent_power_law(chosen.scales, chosen.log_betas, bend=curve.turn)
        if fit.below.draws is None or fit.above.draws is None:
            return UNKNOWN, UNKNOWN
        difference = fit.above.value - fit.below.value
        return fit.below, Uncertain(difference, draws=fit.above.draws - fit.below.draws)

    exponents = [(curve.name, *sides(curve)) for curve in ntk]
    return [
        initial_trace(ntk, "NTK parametrisation: "),
        Claim(
            source="ours",
            statement="NTK parametrisation: beta falls with the width already below "
            "pixels / (L-1), where it does not under the standard one.",
            quantity="its exponent over widths up to pixels / (L-1); -1 in theory",
            findings=[Finding(name, below, STEEP) for name, below, _ in exponents],
            needs=needs,
        ),
        Claim(
            source="ours",
            statement="NTK parametrisation: beta is one power law of the width, without a turn at "
            "pixels / (L-1).",
            quantity="its exponent beyond that width less the one below; -1 where there is a turn "
            "as under the standard one",
            findings=[Finding(name, bend, STRAIGHT) for name, _, bend in exponents],
            needs=needs,
        ),
    ]


def observed(standard: Sequence[Curve]) -> list[Observation]:
    """Tell where curves turn, and what is left out of the claims."""
    crossovers = "; ".join(
        f"{curve.name}: {curve.crossover.scale.value:.3g} (predicted {curve.turn:.3g})"
        for curve in standard
    )
    bends = "; ".join(
        f"{curve.name}: {_interval(curve.inside.bent('rank_at_minimum').bend)}"
        for curve in standard
    )
    narrow = "; ".join(
        f"{curve.name}: {_narrowest(curve):.2f}"
        for curve in standard
        if curve.scales[0] < NARROWEST <= curve.scales[1]
    )
    return [
        Observation(
            source="Fig. 3",
            statement="Beta turns at a width of about 500 on MNIST and Fashion-MNIST.",
            seen=f"crossovers: {crossovers}",
        ),
        Observation(
            source="Fig. 3",
            statement="The effective rank stops to rise at the same width.",
            seen=f"bends, with 95 % intervals: {bends}",
        ),
        Observation(
            source="ours",
            statement=f"Networks of fewer than {NARROWEST} units are left out where the change of "
            "the trace is judged: at many pixels it is smaller.",
            seen=f"change of the narrowest over the mean of the others: {narrow}",
        ),
    ]


def _searched(curve: Curve) -> bool:
    """Whether bends are looked for in all of the region about the predicted crossover."""
    scales = curve.inside.scales
    low, high = (curve.turn * end for end in FACTOR_OF_2)
    return len(scales) > 3 and scales[1] <= low and high <= scales[-2]


def _narrowest(curve: Curve) -> float:
    first, *others = (change.mean() for change in curve.changes())
    return float(first / np.mean(others))


def _interval(estimate: Uncertain) -> str:
    low, high = estimate.interval(COVERAGE)
    return f"{estimate.value:.3g} ({low:.3g} to {high:.3g})"


def _range(group: Sequence[Curve]) -> float:
    return group[-1].pixels / group[0].pixels


def _group_name(group: Sequence[Curve]) -> str:
    first, last = group[0], group[-1]
    sizes = f"{first.pixels} to {last.pixels}"
    return first.name.replace(f"{first.pixels}", sizes)
