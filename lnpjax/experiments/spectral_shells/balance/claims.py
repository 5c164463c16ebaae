"""What Spectral Shells says of the balance of shells (sections 3 and 4), judged by a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    Bounds,
    Uncertain,
    draws_of_log_means,
    mean_of_means,
)
from lnpjax.experiments._harness.power_laws import exponent
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
CLOSED = 0.02
ROUNDING = Bounds(high=-12.0)
DIFFERENCES = Bounds(high=-6.0)
LITTLE = Bounds(0.0, 0.1)
OF_ORDER_ONE = Bounds(0.0, 1.0)
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

    needs = enough(config)
    shares = {regime: flux_share(config, sweep, regime) for regime in REGIMES}
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
            columns("moved_by_flux"), columns("moved_by_crossings"), books(config, sweep, needs)
        ),
        *definition(config, sweep, needs),
        *regimes(shares, needs),
        *observed(shares),
    ]


def enough(config: BalanceConfig) -> list[Need]:
    """Return what every claim rests on."""
    return [
        Need(f"{LEAST_SEEDS} seeds", config.num_seeds >= LEAST_SEEDS, str(config.num_seeds)),
        Need(f"{LEAST_WIDTHS} widths", len(config.widths) >= LEAST_WIDTHS, str(len(config.widths))),
    ]


def books(config: BalanceConfig, sweep: Sweep, needs: list[Need]) -> list[Need]:
    """Return what the sums over time rest on: that they close."""
    worst = max(
        float(np.mean(left / dissipated))
        for regime in REGIMES
        for left, dissipated in zip(
            by_width(config, sweep, regime, "unexplained").values(),
            by_width(config, sweep, regime, "dissipated").values(),
            strict=True,
        )
    )
    what = f"books that close within {CLOSED:.0%} of the dissipated energy at every width"
    return [*needs, Need(what, worst < CLOSED, f"{worst:.2%} at worst")]


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
            Finding(REGIME_NAMES[regime], mean_of_means(list(widths.values())), region)
            for regime, widths in columns.items()
        ],
        needs=needs,
    )


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
    """Return the ratio of two sums over widths of means over seeds, with a jackknife over seeds.

    Example:
        >>> ones = {1: np.ones(3), 2: np.ones(3)}
        >>> ratio_of_totals({1: np.array([0.1, 0.2, 0.3]), 2: np.full(3, 0.2)}, ones).value
        0.2
    """
    above = np.sum(list(numerators.values()), axis=0)
    below = np.sum(list(denominators.values()), axis=0)
    count = len(above)
    value = float(above.sum() / below.sum())
    without = (above.sum() - above) / (below.sum() - below)
    error = float(((count - 1) / count * np.sum((without - without.mean()) ** 2)) ** 0.5)
    return Uncertain(value, error, count - 1)


def definition(config: BalanceConfig, sweep: Sweep, needs: list[Need]) -> list[Claim]:
    """Judge both halves of definition 4.1, in the shells of large eigenvalues."""

    def findings(name: str, region: Bounds) -> list[Finding]:
        return [
            Finding(REGIME_NAMES[regime], typical(ratios), region)
            for regime in REGIMES
            for ratios in (largest_ratios(config, sweep, regime, name),)
        ]

    where = (
        f"the largest over shells within {UPPER_DECADES:g} decades of the largest eigenvalue that "
        "always have a mode; geometric mean over seeds and widths"
    )
    return [
        Claim(
            source="Definition 4.1",
            statement="What crosses the boundary of a shell is bounded by a constant times what "
            "the shell dissipates.",
            quantity=f"int |J| dt / int D dt, {where}",
            findings=findings("flux_over_dissipation", OF_ORDER_ONE),
            needs=needs,
            note="The paper names no constant; here it is to be at most 1",
        ),
        Claim(
            source="Definition 4.1",
            statement="The remainder is negligible next to the dissipation.",
            quantity=f"energy that crossings bring to or take from a shell / int D dt, {where}",
            findings=findings("crossing_over_dissipation", LITTLE),
            needs=needs,
            note="With exact fluxes, what modes take along across edges is the whole remainder",
        ),
    ]


def typical(ratios: Widths) -> Uncertain:
    """Return the geometric mean over widths and seeds, with an error over seeds.

    A ratio of zero counts as the smallest number that a percent's percent is: 1e-4.
    """
    logarithms = np.log(np.maximum(np.array(list(ratios.values())), SMALLEST))
    by_seed = logarithms.mean(axis=0)
    draws = draws_of_log_means([np.exp(by_seed)]).rows[:, 0]
    return Uncertain(float(np.exp(draws[0])), draws=np.exp(draws[1:]))


SMALLEST = 1e-4


def regimes(shares: Mapping[str, Widths], needs: list[Need]) -> list[Claim]:
    """Judge how transport depends on the width in both regimes."""

    def claim(regime: str, statement: str, region: Bounds) -> Claim:
        widths = shares[regime]
        means = draws_of_log_means(list(widths.values()))
        return Claim(
            source="4.6",
            statement=statement,
            quantity="exponent over the width of the energy that fluxes move over the dissipated",
            findings=[Finding("", exponent(np.array(list(widths), float), means), region)],
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
