"""How a change of architecture or recipe helped: the taxonomy of *Spectral Lens*, as a rule.

Section 4 of the paper sorts changes by eye. Here the same words are made into comparisons of four
numbers: the two gains of a change, and how far it moved the spectra of activations and gradients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.runs import Kind
from lnpjax.spectra import jensen_shannon_divergence

Label: TypeAlias = Literal["activation-led", "gradient-led", "throughput", "mixed", "undecided"]
KINDS: tuple[Kind, Kind] = ("activations", "gradients")


@dataclasses.dataclass(frozen=True)
class Displacement:
    """How far a change moved the spectra of one kind, made by `displacement`.

    Attributes:
        exponent_change: of the head exponent, after minus before.
        noise: the unit of the change; `unit` says which.
        unit: "seeds": the standard deviation of the exponent among runs that differ only in their
            seeds; "fits": the standard error of the difference of the two fits.
        divergence: Jensen-Shannon, of the two whole spectra, in nats; NaN without them.
    """

    exponent_change: float
    noise: float
    unit: Literal["seeds", "fits"]
    divergence: float

    @property
    def size(self) -> float:
        """The size of the exponent's change in units of its noise: without dimension."""
        return abs(self.exponent_change) / self.noise if self.noise > 0 else math.nan


class Head(NamedTuple):
    """The head of one spectrum: that of the deepest layer or weight, where runs match.

    Attributes:
        exponent: of the power law over the leading ranks.
        sem: its standard error.
        eigenvalues: the whole spectrum; None where it was not stored.

    Example:
        >>> Head(exponent=1.2, sem=0.05)
        Head(exponent=1.2, sem=0.05, eigenvalues=None)
    """

    exponent: float
    sem: float
    eigenvalues: Float[np.ndarray, " k"] | None = None


def displacement(before: Head, after: Head, *, seed_spread: float = math.nan) -> Displacement:
    """Measure how far a change moved a spectrum's head.

    Activations and gradients become comparable in units of their noise: the exponents of a Gram
    matrix and of its singular values differ by a factor of two, their displacements in such units
    do not.

    Args:
        before: the head without the change.
        after: the head with it.
        seed_spread: `seed_spread` of the head exponent, if runs were repeated. Without it, the
            noise is the fits' standard errors, which say how badly a line fits the head, not how
            much an exponent varies from run to run: labels are then tentative.

    Returns:
        The displacement; NaN where something is missing.

    Example:
        >>> displacement(Head(1.0, 0.03), Head(1.5, 0.04)).size
        10.0
    """
    seeds = math.isfinite(seed_spread) and seed_spread > 0
    return Displacement(
        exponent_change=after.exponent - before.exponent,
        noise=seed_spread if seeds else math.hypot(before.sem, after.sem),
        unit="seeds" if seeds else "fits",
        divergence=_divergence(before.eigenvalues, after.eigenvalues),
    )


def _divergence(before: np.ndarray | None, after: np.ndarray | None) -> float:
    if before is None or after is None:
        return math.nan
    length = max(len(before), len(after))  # a narrower layer has no variance in further modes
    spectra = (np.pad(values, (0, length - len(values))) for values in (before, after))
    return float(jensen_shannon_divergence(*map(jnp.asarray, spectra)))


def seed_spread(repeats: Sequence[Float[np.ndarray, " run"]]) -> float:
    """Compute the standard deviation of a number among runs that differ only in their seeds.

    Args:
        repeats: the numbers of each set of repeated runs; sets of one, and NaN, do not count.

    Returns:
        The pooled standard deviation, each set about its own mean; NaN where nothing was repeated.

    Example:
        >>> seed_spread([np.array([1.0, 3.0]), np.array([5.0])])
        1.4142135623730951
    """
    sets = [values[np.isfinite(values)] for values in map(np.asarray, repeats)]
    freedom = sum(len(values) - 1 for values in sets if len(values) > 1)
    squares = sum(
        float(np.sum((values - values.mean()) ** 2)) for values in sets if len(values) > 1
    )
    return math.sqrt(squares / freedom) if freedom else math.nan


class Verdict(NamedTuple):
    """A label and, in words, the comparison that decided it.

    Example:
        >>> classify(0.3, -0.01, 5.0, 1.0)
        Verdict(label='activation-led', reason="a gain in tokens, the activations' head moved more")
    """

    label: Label
    reason: str


def classify(
    log_token_gain: float,
    log_throughput_gain: float,
    activation_displacement: float,
    gradient_displacement: float,
    *,
    negligible_gain: float = 0.02,
    comparable: float = 0.5,
    clear_displacement: float = 2.0,
) -> Verdict:
    """Say how a change helped: *Spectral Lens*, section 4, made explicit.

    The paper gives the four categories in words. The rule, in order:

    1. "undecided" if a gain is NaN.
    2. "mixed" if both gains are negligible, or neither is positive beyond that: nothing helped.
    3. "mixed" if one gain is positive and the other negative and comparable: the smaller is at
       least `comparable` times the larger (the paper: "while weakening the other comparably").
    4. "throughput" if the throughput gain is positive and the token gain, of whatever sign, is
       less than `comparable` times it.
    5. What is left has a token gain, and its spectra decide: "undecided" if a displacement is NaN;
       "mixed" if neither is clear; else "activation-led" or "gradient-led", after the larger
       displacement.

    The thresholds are ours; the paper has none, and does not say which view wins if both move.

    Args:
        log_token_gain: g_tok of eq. 7 (`lnpjax.comparison.gains`).
        log_throughput_gain: g_thr of eq. 7.
        activation_displacement: of the activations' head exponent, in units of its noise
            (`Displacement.size`).
        gradient_displacement: of the gradients' head exponent, in units of its noise.
        negligible_gain: gains up to this size do not count.
        comparable: the ratio, in (0, 1], from which on two gains are comparable.
        clear_displacement: the size from which on a displacement is clear.

    Returns:
        The label and the reason.

    Raises:
        ValueError: if a threshold is invalid.

    Example:
        >>> classify(0.3, -0.01, 5.0, 1.0).label
        'activation-led'
        >>> classify(0.05, 0.4, 1.0, 1.0).label
        'throughput'
    """
    require(negligible_gain >= 0, "negligible_gain", expected="a number >= 0", got=negligible_gain)
    require(0 < comparable <= 1, "comparable", expected="a number in (0, 1]", got=comparable)
    fine = clear_displacement >= 0
    require(fine, "clear_displacement", expected="a number >= 0", got=clear_displacement)
    token, throughput = log_token_gain, log_throughput_gain
    if math.isnan(token) or math.isnan(throughput):
        missing = "tokens to the target" if math.isnan(token) else "tokens per second"
        return Verdict("undecided", f"{missing} missing")
    if max(token, throughput) <= negligible_gain:
        return Verdict("mixed", "no gain in tokens or throughput")
    smaller, larger = sorted((abs(token), abs(throughput)))
    opposite = token * throughput < 0 and smaller > negligible_gain
    if opposite and smaller >= comparable * larger:
        return Verdict("mixed", "one gain is paid for with the other")
    if throughput > negligible_gain and abs(token) < comparable * throughput:
        return Verdict("throughput", "the gain is in tokens per second")
    if token <= negligible_gain:
        return Verdict("mixed", "the gain in tokens per second is paid for with tokens")
    if math.isnan(activation_displacement) or math.isnan(gradient_displacement):
        of = KINDS[0] if math.isnan(activation_displacement) else KINDS[1]
        return Verdict("undecided", f"a gain in tokens, but no spectra of the {of}")
    if max(activation_displacement, gradient_displacement) < clear_displacement:
        return Verdict("mixed", "a gain in tokens, but no clear displacement of either spectrum")
    if activation_displacement >= gradient_displacement:
        return Verdict("activation-led", "a gain in tokens, the activations' head moved more")
    return Verdict("gradient-led", "a gain in tokens, the gradients' head moved more")
