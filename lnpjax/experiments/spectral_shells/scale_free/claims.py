"""What Spectral Shells says of scale-free transport (section 5), judged by a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    Bounds,
    Uncertain,
    jackknife,
    jackknifed,
    without_one,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.flows import REGIME_NAMES, REGIMES
from lnpjax.experiments.spectral_shells.scale_free.results import (
    EQUATIONS,
    Fit,
    Transport,
    drift_exponent,
    fit_in,
    halves,
    loss_exponent_of,
    transport_of,
)
from lnpjax.theory.shells import loss_exponent

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.scale_free.config import ScaleFreeConfig

LEAST_SEEDS = 6
WITHIN_2 = Bounds(0.0, np.log(2))
CLOSE = Bounds(-0.2, 0.2)
FREE = 0.15
TELLS_APART = 0.2
SOURCES = {"advective": ("(13), (15)", "(21)"), "conservative": ("(7), ours", "(7), ours")}
"""Where the solution of an equation and its exponent stand."""
FORMULAS = {"advective": "(1 + c0) p + 1", "conservative": "(1 + c0)(p + 1)"}


def judge(config: ScaleFreeConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    seeds = [Need.at_least(LEAST_SEEDS, "seeds", config.num_seeds)]
    found: dict[str, Transport] = {
        regime: transport_of(config, sweep, regime) for regime in REGIMES
    }
    fits: dict[str, dict[str, Fit]] = {
        equation: {regime: fit_in(sweep, regime, equation) for regime in REGIMES}
        for equation in EQUATIONS
    }
    drifting = [*seeds, drifts(found["feature"])]
    claims = [
        linear_drift(found["feature"], drifting),
        fluxes_carry(found["feature"], drifting),
        straight(found, seeds),
    ]
    for equation, by_regime in fits.items():
        converged = all_converged(by_regime)
        needs = [*drifting, converged]
        claims += [
            described(equation, by_regime, [*seeds, converged]),
            drift_is_fitted(equation, by_regime["feature"], found["feature"], needs),
            exponent(equation, by_regime, found, needs),
        ]
    return [*claims, *observed(found, fits)]


def drifts(transport: Transport) -> Need:
    """Return that there is a drift: without one, all that is said of it is true of nothing."""
    drift = float(drifts_of(transport)[0])
    what = f"a drift of {TELLS_APART:g} or more where features are learned"
    return Need(what, abs(drift) >= TELLS_APART, f"{drift:.2f}")


def all_converged(fits: Mapping[str, Fit]) -> Need:
    """Return that the fits of all regimes are minima."""
    return Need("fits that converge", all(fit.converged.all() for fit in fits.values()))


def _total(transport: Transport, seeds: np.ndarray, **parts: slice) -> float:
    return drift_exponent(transport.total, transport.supposed, seeds, **parts)


def linear_drift(transport: Transport, needs: list[Need]) -> Claim:
    """Judge whether one c0 describes the drift at all times and eigenvalues."""
    count, intervals, _ = transport.total.shape

    def late_less_early(seeds: np.ndarray) -> float:
        half = intervals // 2
        parts = (slice(half, None), slice(half))
        late, early = (_total(transport, seeds, intervals=part) for part in parts)
        return late - early

    def high_less_low(seeds: np.ndarray) -> float:
        middle = _middle_edge(transport)
        parts = (slice(middle, None), slice(middle))
        high, low = (_total(transport, seeds, edges=part) for part in parts)
        return high - low

    return Claim(
        source="(6)",
        statement="The drift is c0 lambda / t, with one c0 for all times and eigenvalues.",
        quantity="c0 from all energy that crosses edges: of the later half of the window less that "
        "of the earlier one, and of the edges above the median of the energy less those below; "
        "feature learning",
        findings=[
            Finding("late less early", jackknifed(count, late_less_early), CLOSE),
            Finding("high less low", jackknifed(count, high_less_low), CLOSE),
        ],
        needs=needs,
    )


def _middle_edge(transport: Transport) -> int:
    """The edge below which half of the energy lies, summed over seeds and times."""
    shares = np.cumsum(transport.supposed.sum(axis=(0, 1)))
    return int(np.clip(np.searchsorted(shares, shares[-1] / 2), 1, len(shares) - 1))


def fluxes_carry(transport: Transport, needs: list[Need]) -> Claim:
    """Judge whether the drift of eq. 6 is that of the fluxes of definition 4.1."""
    count = len(transport.total)

    def missing(seeds: np.ndarray) -> float:
        return drift_exponent(transport.flux, transport.supposed, seeds) - _total(transport, seeds)

    return Claim(
        source="4.6, (6)",
        statement="The drift is carried by the fluxes between shells that couplings make.",
        quantity="c0 from fluxes less c0 from all energy that crosses edges; feature learning",
        findings=[Finding("", jackknifed(count, missing), CLOSE)],
        needs=needs,
    )


def described(equation: str, fits: Mapping[str, Fit], needs: list[Need]) -> Claim:
    """Judge whether a scale-free solution describes the profiles."""
    return Claim(
        source=SOURCES[equation][0],
        statement="The energies of shells are those of a power law under transport and "
        f"dissipation, by the {equation} equation.",
        quantity="rms of ln E about the fitted solution, over times and shells; mean profiles of "
        "all seeds",
        findings=[
            Finding(REGIME_NAMES[regime], jackknife(fit.residual), WITHIN_2)
            for regime, fit in fits.items()
        ],
        needs=needs,
        note="Within a factor of 2",
    )


def drift_is_fitted(equation: str, fit: Fit, transport: Transport, needs: list[Need]) -> Claim:
    """Judge whether the fit's c0 is the drift that was measured."""
    return Claim(
        source=SOURCES[equation][0],
        statement=f"The drift that the profiles show by the {equation} equation is the drift that "
        "energy has.",
        quantity="c0 of the fit less c0 from all energy that crosses edges; feature learning, "
        "pairs",
        findings=[Finding("", jackknife(fit.c0 - drifts_of(transport)), CLOSE)],
        needs=needs,
    )


def drifts_of(transport: Transport) -> Float[np.ndarray, " left_out"]:
    """Return c0 from all energy that crosses edges: of all seeds, then without one each."""
    return np.array([_total(transport, seeds) for seeds in without_one(len(transport.total))])


def straight(found: Mapping[str, Transport], needs: list[Need]) -> Claim:
    """Judge whether the loss is a power law."""

    def bend(transport: Transport) -> Uncertain:
        early, late = halves(transport).values()
        return jackknifed(
            len(transport.losses),
            lambda seeds: (
                loss_exponent_of(transport, seeds, late) - loss_exponent_of(transport, seeds, early)
            ),
        )

    return Claim(
        source="5, (21)",
        statement="The loss is a straight line in log-log coordinates.",
        quantity="its exponent in the later half of the window less that in the earlier one",
        findings=[
            Finding(REGIME_NAMES[regime], bend(transport), CLOSE)
            for regime, transport in found.items()
        ],
        needs=needs,
    )


def exponent(
    equation: str, fits: Mapping[str, Fit], found: Mapping[str, Transport], needs: list[Need]
) -> Claim:
    """Judge the exponent of the loss by one of both solutions, where they can be told apart.

    Both exponents differ by c0, and the loss is to be nearer to this one, in either half.
    """
    whole = exponent_missed(equation, fits["lazy"], found["lazy"], slice(None))
    nearer = abs(float(drifts_of(found["feature"])[0])) / 2
    return Claim(
        source=SOURCES[equation][1],
        statement=f"The loss falls with the exponent {FORMULAS[equation]}.",
        quantity="measured exponent in either half of the window less the predicted one, with the "
        "measured c0 and the fitted p; feature learning, pairs",
        findings=[
            Finding(
                what,
                exponent_missed(equation, fits["feature"], found["feature"], half),
                Bounds(-nearer, nearer),
            )
            for what, half in halves(found["feature"]).items()
        ],
        needs=[
            *needs,
            Need(
                "a power law long enough that without drift, in lazy networks, the loss has the "
                f"exponent p + 1 within {FREE:g}",
                abs(whole.value) <= FREE,
                f"{whole.value:+.2f}",
            ),
        ],
        note="The region is half of c0 wide to either side: nearer to this exponent than to the "
        "other equation's",
    )


def exponent_missed(equation: str, fit: Fit, transport: Transport, half: slice) -> Uncertain:
    """Return the measured exponent of the loss less `lnpjax.theory.shells.loss_exponent`."""
    seeds = without_one(len(transport.total))
    measured = np.array([loss_exponent_of(transport, some, half) for some in seeds])
    numbers = zip(drifts_of(transport), fit.p, strict=True)
    predicted = [float(loss_exponent(c0, p, equation=equation)) for c0, p in numbers]  # type: ignore[arg-type]
    return jackknife(measured - np.array(predicted))


def observed(
    found: Mapping[str, Transport], fits: Mapping[str, Mapping[str, Fit]]
) -> list[Observation]:
    """Tell the numbers behind the claims, of both regimes."""

    def numbers(regime: str, transport: Transport) -> str:
        seeds = np.arange(len(transport.total))
        flux = drift_exponent(transport.flux, transport.supposed, seeds)
        fitted = ", ".join(
            f"{equation} c0 {by_regime[regime].c0[0]:.2f}, p {by_regime[regime].p[0]:.2f}"
            for equation, by_regime in fits.items()
        )
        return (
            f"{REGIME_NAMES[regime]}: c0 {flux:.2f} by fluxes, {_total(transport, seeds):.2f} by "
            f"all that crosses edges; fits: {fitted}; loss exponent "
            f"{loss_exponent_of(transport, seeds, slice(None)):.2f}"
        )

    return [
        Observation(
            source="(6), (21)",
            statement="Drift, power and exponent of the loss.",
            seen="; ".join(numbers(regime, transport) for regime, transport in found.items()),
        )
    ]
