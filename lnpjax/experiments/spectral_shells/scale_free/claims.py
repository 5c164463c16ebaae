"""What Spectral Shells says of scale-free transport (section 5), judged by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import Bounds, Uncertain
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_shells.flows import REGIME_NAMES, REGIMES
from lnpjax.experiments.spectral_shells.scale_free.results import (
    Transport,
    drift_exponent,
    fitted,
    loss_exponent_of,
    over_seeds,
    transport_of,
)
from lnpjax.theory.shells import loss_exponent

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_shells.scale_free.config import ScaleFreeConfig

LEAST_SEEDS = 6
WITHIN_2 = Bounds(0.0, np.log(2))
CLOSE = Bounds(-0.2, 0.2)
NEAR = Bounds(-0.15, 0.15)
TELLS_APART = 0.2
ADVECTIVE, CONSERVATIVE = "advective", "conservative"


def judge(config: ScaleFreeConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the paper.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    needs = [Need(f"{LEAST_SEEDS} seeds", config.num_seeds >= LEAST_SEEDS, str(config.num_seeds))]
    found = {regime: transport_of(config, sweep, regime) for regime in REGIMES}
    powers = {
        equation: fitted(sweep, "feature", equation, "p") for equation in (ADVECTIVE, CONSERVATIVE)
    }
    return [
        linear_drift(found["feature"], needs),
        fluxes_carry(found["feature"], needs),
        fits(
            {regime: fitted(sweep, regime, CONSERVATIVE, "residual") for regime in REGIMES}, needs
        ),
        drift_is_fitted(sweep, found["feature"], needs),
        *exponents(found["feature"], powers, needs),
        *observed(sweep, found),
    ]


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
            Finding("late less early", over_seeds(count, late_less_early), CLOSE),
            Finding("high less low", over_seeds(count, high_less_low), CLOSE),
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
        findings=[Finding("", over_seeds(count, missing), CLOSE)],
        needs=needs,
    )


def fits(residuals: dict[str, Uncertain], needs: list[Need]) -> Claim:
    """Judge whether the scale-free solution describes the profiles."""
    return Claim(
        source="(13), (15)",
        statement="The energies of shells are those of a power law under transport and "
        "dissipation.",
        quantity="rms of ln E about the fitted solution of (7), over times and shells; mean "
        "profiles of all seeds",
        findings=[
            Finding(REGIME_NAMES[regime], residual, WITHIN_2)
            for regime, residual in residuals.items()
        ],
        needs=needs,
        note="Within a factor of 2",
    )


def drift_is_fitted(sweep: Sweep, transport: Transport, needs: list[Need]) -> Claim:
    """Judge whether the fit's c0 is the drift that was measured."""
    count = len(transport.total)
    measured = over_seeds(count, lambda seeds: _total(transport, seeds))
    return Claim(
        source="(6), (13)",
        statement="The drift that the profiles show is the drift that energy has.",
        quantity="c0 of the fit less c0 from all energy that crosses edges; feature learning, "
        "errors as if independent",
        findings=[
            Finding(equation, less(fitted(sweep, "feature", equation, "c0"), measured), CLOSE)
            for equation in (CONSERVATIVE, ADVECTIVE)
        ],
        needs=needs,
    )


def less(first: Uncertain, second: Uncertain) -> Uncertain:
    """Return a difference of two estimates, with their errors as if independent.

    Example:
        >>> less(Uncertain(2.0, 3.0, 5), Uncertain(1.0, 4.0, 5)).error
        5.0
    """
    error = float(np.hypot(first.error, second.error))
    return Uncertain(first.value - second.value, error, min(first.df, second.df))


def exponents(transport: Transport, powers: dict[str, Uncertain], needs: list[Need]) -> list[Claim]:
    """Judge the exponent of the loss by both solutions, where they can be told apart."""
    count = len(transport.total)
    drift = over_seeds(count, lambda seeds: _total(transport, seeds))
    measured = over_seeds(count, lambda seeds: loss_exponent_of(transport, seeds))
    apart = Need(
        f"a drift of {TELLS_APART:g} or more, by which both exponents differ",
        abs(drift.value) >= TELLS_APART,
        f"{drift.value:.2f}",
    )

    def claim(source: str, statement: str, equation: str) -> Claim:
        predicted = propagated(drift, powers[equation], equation)
        return Claim(
            source=source,
            statement=statement,
            quantity="measured exponent less the predicted one, with the measured c0 and the "
            "fitted p; feature learning, errors as if independent",
            findings=[Finding("", less(measured, predicted), NEAR)],
            needs=[*needs, apart],
        )

    return [
        claim("(21)", "The loss falls with the exponent (1 + c0) p + 1.", ADVECTIVE),
        claim(
            "(7), ours",
            "With transport that conserves energy, it falls with (1 + c0)(p + 1).",
            CONSERVATIVE,
        ),
    ]


def propagated(drift: Uncertain, power: Uncertain, equation: str) -> Uncertain:
    """Return the exponent of the loss (`lnpjax.theory.shells.loss_exponent`) with its error.

    Args:
        drift: c0.
        power: p.
        equation: "conservative" or "advective".

    Example:
        >>> found = propagated(Uncertain(0.5, 0.1, 9), Uncertain(1.0, 0.0, 9), "conservative")
        >>> round(found.value, 3), round(found.error, 3)
        (3.0, 0.2)
    """

    def exponent(c0: float, p: float) -> float:
        return float(loss_exponent(c0, p, equation=equation))  # type: ignore[arg-type]

    value = exponent(drift.value, power.value)
    errors = (
        exponent(drift.value + drift.error, power.value) - value,
        exponent(drift.value, power.value + power.error) - value,
    )
    return Uncertain(value, float(np.hypot(*errors)), min(drift.df, power.df))


def observed(sweep: Sweep, found: dict[str, Transport]) -> list[Observation]:
    """Tell the numbers behind the claims, of both regimes."""

    def numbers(regime: str, transport: Transport) -> str:
        seeds = np.arange(len(transport.total))
        flux = drift_exponent(transport.flux, transport.supposed, seeds)
        fits = ", ".join(
            f"{equation} c0 {fitted(sweep, regime, equation, 'c0').value:.2f}, "
            f"p {fitted(sweep, regime, equation, 'p').value:.2f}"
            for equation in (CONSERVATIVE, ADVECTIVE)
        )
        return (
            f"{REGIME_NAMES[regime]}: c0 {flux:.2f} by fluxes, {_total(transport, seeds):.2f} by "
            f"all that crosses edges; fits: {fits}; loss exponent "
            f"{loss_exponent_of(transport, seeds):.2f}"
        )

    return [
        Observation(
            source="(6), (21)",
            statement="Drift, power and exponent of the loss.",
            seen="; ".join(numbers(regime, transport) for regime, transport in found.items()),
        )
    ]
