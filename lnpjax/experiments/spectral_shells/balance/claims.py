"""What Spectral Shells says of the balance of shells (sections 3 and 4), judged by a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    Bounds,
    Uncertain,
    jackknifed,
    mean_of,
)
from lnpjax.experiments._harness.power_laws import log_slope
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.balance.results import (
    UPPER_DECADES,
    by_width,
    flux_share,
    largest_ratios,
)
from lnpjax.experiments.spectral_shells.flows import REGIME_NAMES, REGIMES

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.balance.config import BalanceConfig

LEAST_SEEDS = 5
LEAST_WIDTHS = 5
CLOSED = 0.1
ROUNDING = Bounds(high=-12.0)
DIFFERENCES = Bounds(high=-6.0)
LITTLE = Bounds(0.0, 0.1)
OF_ORDER_ONE = Bounds(high=0.0)
A_TENTH = Bounds(high=-1.0)
NEGATIVE = Bounds(high=0.0)
FLAT = Bounds(-0.2, 0.2)
Widths = Mapping[int, Float[np.ndarray, " seeds"]]


def judge(config: BalanceConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """

    def columns(name: str) -> dict[str, Widths]:
        return {regime: by_width(config, sweep, regime, name) for regime in REGIMES}

    def ratios(name: str) -> dict[str, Widths]:
        return {regime: largest_ratios(config, sweep, regime, name) for regime in REGIMES}

    needs = enough(config)
    fluxes, crossings = columns("moved_by_flux"), columns("moved_by_crossings")
    shares: dict[str, Widths] = {regime: flux_share(config, sweep, regime) for regime in REGIMES}
    return [
        identity(
            "Proposition 1",
            "Couplings inside of a shell do not change its energy.",
            "log10 of the largest such change, as a part of the sum of its absolute terms",
            columns("log_inside"),
            ROUNDING,
            needs,
        ),
        identity(
            "(3)",
            "Between crossings, the energy of a shell changes by its dissipation and by the fluxes "
            "from other shells.",
            "log10 of the misfit of a central difference of energies, the largest of all shells, "
            "as a part of all dissipation; median over times of training",
            columns("log_misfit"),
            DIFFERENCES,
            needs,
        ),
        nothing_else(
            fluxes, crossings, [*needs, closes(columns("unexplained"), fluxes, crossings)]
        ),
        *definition(ratios("flux_over_dissipation"), ratios("crossing_over_dissipation"), needs),
        *regimes(shares, needs),
        *observed(shares),
    ]


def enough(config: BalanceConfig) -> list[Need]:
    """Return what every claim rests on."""
    return [
        Need.at_least(LEAST_SEEDS, "seeds", config.num_seeds),
        Need.at_least(LEAST_WIDTHS, "widths", len(config.widths)),
    ]


def closes(unexplained: Mapping[str, Widths], *moved: Mapping[str, Widths]) -> Need:
    """Return what sums over time rest on: that dissipation, fluxes and crossings are all there is.

    Args:
        unexplained: what they leave, by regime.
        moved: energy that fluxes move, and that crossings do.
    """
    worst = max(
        float(left.sum() / sum(one[regime][width].sum() for one in moved))
        for regime, widths in unexplained.items()
        for width, left in widths.items()
    )
    what = f"books that close within {CLOSED:.0%} of the energy that moves, at every width"
    return Need(what, worst < CLOSED, f"{worst:.1%} at worst")


def identity(
    source: str,
    statement: str,
    quantity: str,
    columns: Mapping[str, Widths],
    region: Bounds,
    needs: list[Need],
) -> Claim:
    """Judge an identity by what is left of it."""
    return Claim(
        source=source,
        statement=statement,
        quantity=f"{quantity}; mean over seeds and widths",
        findings=[
            Finding(REGIME_NAMES[regime], over_widths(list(widths.values())), region)
            for regime, widths in columns.items()
        ],
        needs=needs,
    )


def over_widths(values: Sequence[Float[np.ndarray, " seeds"]]) -> Uncertain:
    """Return the mean over widths, with its error over seeds, which all widths share.

    Example:
        >>> over_widths([np.array([1.0, 3.0]), np.array([3.0, 1.0])]).error
        0.0
    """
    return mean_of(np.mean(values, axis=0))


def nothing_else(
    fluxes: Mapping[str, Widths], crossings: Mapping[str, Widths], needs: list[Need]
) -> Claim:
    """Judge whether modes that cross an edge move little next to the fluxes."""
    return Claim(
        source="Remark 1, (2)",
        statement="Any change of a shell's energy comes from dissipation and from the exchange "
        "that couplings make.",
        quantity="energy that modes take along across edges, over that which fluxes move, both "
        "summed over training; mean over seeds and widths of their totals",
        findings=[
            Finding(
                REGIME_NAMES[regime], ratio_of_totals(crossings[regime], fluxes[regime]), LITTLE
            )
            for regime in fluxes
        ],
        needs=needs,
        note="Eqs. 1 to 3 differentiate the sum over a shell as if its modes stayed the same",
    )


def ratio_of_totals(numerators: Widths, denominators: Widths) -> Uncertain:
    """Return the ratio of two sums over widths and seeds, which all widths share.

    Example:
        >>> ones = {1: np.ones(3), 2: np.ones(3)}
        >>> fifths = {1: np.array([0.1, 0.2, 0.3]), 2: np.full(3, 0.2)}
        >>> print(f"{ratio_of_totals(fifths, ones).value:.1f}")
        0.2
    """
    above, below = (np.sum(list(widths.values()), axis=0) for widths in (numerators, denominators))
    return jackknifed(len(above), lambda seeds: float(above[seeds].sum() / below[seeds].sum()))


def definition(
    fluxes: Mapping[str, Widths], crossings: Mapping[str, Widths], needs: list[Need]
) -> list[Claim]:
    """Judge both halves of definition 4.1, in the shells of large eigenvalues.

    Args:
        fluxes: what crosses the edge of a shell over what it dissipates (`largest_ratios`).
        crossings: what modes bring or take along over the same.
        needs: of both.
    """

    def findings(ratios: Mapping[str, Widths], region: Bounds) -> list[Finding]:
        return [
            Finding(REGIME_NAMES[regime], typical(widths), region)
            for regime, widths in ratios.items()
        ]

    where = (
        f"the largest over shells within {UPPER_DECADES:g} decades of the largest eigenvalue that "
        "always have a mode; mean over seeds and widths"
    )
    return [
        Claim(
            source="Definition 4.1",
            statement="What crosses the boundary of a shell is bounded by a constant times what "
            "the shell dissipates.",
            quantity=f"log10 of int |J| dt / int D dt, {where}",
            findings=findings(fluxes, OF_ORDER_ONE),
            needs=needs,
            note="The paper names no constant; here it is to be at most 1",
        ),
        Claim(
            source="Definition 4.1",
            statement="The remainder is negligible next to the dissipation.",
            quantity="log10 of the energy that crossings bring to or take from a shell over "
            f"int D dt, {where}",
            findings=findings(crossings, A_TENTH),
            needs=needs,
            note="With exact fluxes, what modes take along across edges is the whole remainder; "
            "negligible is a tenth",
        ),
    ]


def typical(ratios: Widths) -> Uncertain:
    """Return the mean of log10 over widths and seeds, with its error over seeds.

    Seeds are shared by all widths. A ratio below `SMALLEST`, such as none at all, counts as that.

    Example:
        >>> round(typical({1: np.array([0.1, 10.0]), 2: np.array([0.1, 0.0])}).value, 3)
        -1.25
    """
    logarithms = np.log10(np.maximum(np.array(list(ratios.values())), SMALLEST))
    return over_widths(logarithms)


SMALLEST = 1e-4


def regimes(shares: Mapping[str, Widths], needs: list[Need]) -> list[Claim]:
    """Judge how transport depends on the width in both regimes."""

    def claim(regime: str, statement: str, region: Bounds) -> Claim:
        found = exponent_of(shares[regime])
        return Claim(
            source="4.6",
            statement=statement,
            quantity="exponent over the width of the energy that fluxes move over the dissipated",
            findings=[Finding("", found, region)],
            needs=needs,
        )

    return [
        claim(
            "lazy",
            "Where the kernel freezes there is no transport: it vanishes in the lazy limit.",
            NEGATIVE,
        ),
        claim(
            "feature",
            "Where features are learned transport stays, however wide the network.",
            FLAT,
        ),
    ]


def exponent_of(widths: Widths) -> Uncertain:
    """Return the exponent of means over seeds, which all widths share, in the width.

    Example:
        >>> print(f"{exponent_of({2: np.array([1.0, 3.0]), 8: np.array([0.5, 1.5])}).value:.1f}")
        -0.5
    """
    scales, values = np.array(list(widths), float), np.array(list(widths.values()))
    return jackknifed(
        values.shape[1],
        lambda seeds: float(log_slope(scales, np.log(values[:, seeds].mean(axis=1)))),
    )


def observed(shares: Mapping[str, Widths]) -> list[Observation]:
    """Tell how much fluxes move at the largest width."""
    seen = "; ".join(
        f"{REGIME_NAMES[regime]}: {np.mean(values):.2g} of the dissipated energy"
        for regime, widths in shares.items()
        for values in (widths[max(widths)],)
    )
    return [
        Observation(
            source="4.6",
            statement="Feature learning is transport of energy along the spectrum.",
            seen=f"moved by fluxes at width {max(shares['lazy'])}: {seen}",
        )
    ]
