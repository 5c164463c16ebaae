"""Comparing training runs: where they are alike enough to compare, and how fast each one was.

Runs are compared where they have the same loss, have seen the same tokens, or are at the same
fraction of their length; their speed is the tokens they take to a target loss, and the tokens they
see per second (*Spectral Lens*, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.runs import MeasuredSpectra, RunSummary

At: TypeAlias = Literal["loss", "tokens", "fraction"]
Crossing: TypeAlias = Literal["interpolated", "checkpoint"]


def tokens_to_target(
    tokens: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    target: float,
    *,
    crossing: Crossing = "interpolated",
) -> float:
    """Return T, the training tokens at which the validation loss first meets a target.

    *Spectral Lens*, sections 2 and 2.2, counts the tokens of the first checkpoint that meets it
    (B.3), so that T is a multiple of the tokens between checkpoints, which limits the resolution of
    its ratios; `crossing="checkpoint"` does the same.

    Args:
        tokens: `(n,)`, ascending.
        losses: the validation loss there, in nats.
        target: the loss to reach.
        crossing: "interpolated": linear in the logarithm of tokens between the last point above
            the target and the first that is not; "checkpoint": that first point.

    Returns:
        Tokens; NaN if the target is never reached. If the first point already meets the target, or
        no point with tokens lies before it, that point: an upper bound.

    Raises:
        ValueError: if the arrays are not vectors of one length, tokens do not ascend, the target is
            NaN, or `crossing` is another word.

    Example:
        >>> round(tokens_to_target(np.array([100.0, 10_000.0]), np.array([3.0, 1.0]), 2.0))
        1000
    """
    tokens, losses = np.asarray(tokens, np.float64), np.asarray(losses, np.float64)
    one_length = tokens.ndim == 1 and tokens.shape == losses.shape
    shapes = f"shapes {tokens.shape} and {losses.shape}"
    require(one_length, "losses", expected="vectors of one length", got=shapes)
    require(bool(np.all(np.diff(tokens) > 0)), "tokens", expected="ascending tokens", got=tokens)
    require(not math.isnan(target), "target", expected="a loss", got=target)
    choices = get_args(Crossing)
    require(crossing in choices, "crossing", expected=f"one of {choices}", got=repr(crossing))
    met = np.flatnonzero(losses <= target)
    if not met.size:
        return math.nan
    after = int(met[0])
    before = after - 1
    if crossing == "checkpoint" or before < 0 or tokens[before] <= 0:
        return float(tokens[after])
    share = (losses[before] - target) / (losses[before] - losses[after])
    low, high = math.log(tokens[before]), math.log(tokens[after])
    return math.exp(low + share * (high - low)) if share < 1 else float(tokens[after])


def token_efficiency(tokens: Float[np.ndarray, " run"]) -> Float[np.ndarray, " run"]:
    """Return tokens to the target relative to the best run of a family, ``T(B) / min T(B')``.

    *Spectral Lens*, eq. 5. The larger, the *less* efficient: the paper's figures call it token
    inefficiency.

    Args:
        tokens: of each run of one family; NaN for one that never reached the target.

    Returns:
        Ratios >= 1; NaN where the run never reached it.

    Example:
        >>> token_efficiency(np.array([2e6, 1e6, np.nan]))
        array([ 2.,  1., nan])
    """
    tokens = np.asarray(tokens, np.float64)
    reached = np.isfinite(tokens)
    return tokens / np.min(tokens[reached]) if np.any(reached) else tokens


class Gains(NamedTuple):
    """What a change brought, made by `gains`: 0 is no change, positive is better."""

    token: float
    throughput: float
    log_token: float
    log_throughput: float


def gains(
    tokens_before: float, tokens_after: float, throughput_before: float, throughput_after: float
) -> Gains:
    """Compute TokGain and ThrGain of a change, and their logarithms.

    *Spectral Lens*, eqs. 6 and 7: ``TokGain = T(a) / T(b) - 1``, ``ThrGain = Q(b) / Q(a) - 1``,
    ``g = log(1 + Gain)``. Logarithms add up along a chain of changes, and the sum of both is the
    logarithm of the gain in time to the target.

    Args:
        tokens_before: T(a), the tokens to the target without the change.
        tokens_after: T(b), those with it.
        throughput_before: Q(a), in tokens per second.
        throughput_after: Q(b).

    Returns:
        The gains; NaN where one of their two numbers is NaN or not positive.

    Example:
        >>> print(*(f"{gain:.3f}" for gain in gains(2e6, 1e6, 100.0, 90.0)))
        1.000 -0.100 0.693 -0.105
    """
    fewer = _ratio(tokens_before, tokens_after)
    faster = _ratio(throughput_after, throughput_before)
    return Gains(fewer - 1, faster - 1, math.log(fewer), math.log(faster))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if numerator > 0 and denominator > 0 else math.nan


class Match(NamedTuple):
    """The spectra of a run where it is compared, and how far from there it was measured.

    Attributes:
        spectra: between the measured steps on both sides; where there is only one, what was
            measured there.
        wanted_tokens: where the comparison is made.
        loss: the run's validation loss at the tokens of the spectra, interpolated; if it was not
            measured on both sides, the loss that was recorded with the spectra.
        token_ratio: tokens at the nearest measured step over wanted: 1 is a perfect match.

    Example:
        >>> spectra = MeasuredSpectra(9, 1100.0, 2.5, {}, {})
        >>> Match(spectra, wanted_tokens=1000.0, loss=2.5, token_ratio=1.1).spectra.step
        9
    """

    spectra: MeasuredSpectra
    wanted_tokens: float
    loss: float
    token_ratio: float


def match(run: RunSummary, at: At, value: float) -> Match | None:
    """Find the spectra of a run where runs are compared.

    For a loss, that is where the validation loss first met it (`tokens_to_target`). Between the
    measured steps on both sides, numbers and logarithms of eigenvalues are linear in the logarithm
    of tokens, so that runs of equal loss (*Spectral Lens*, section 2) are compared at equal loss,
    however sparsely they were measured.

    Args:
        run: the run.
        at: "loss", "tokens", or "fraction" (of the tokens of the whole run).
        value: the loss, number of tokens, or fraction in (0, 1].

    Returns:
        The match, with its distance; None if the run has no spectra after its start, or never
        reached the loss or the number of tokens.

    Raises:
        ValueError: if `at` is another word, or the value is invalid.

    Example:
        >>> spectra = tuple(MeasuredSpectra(s, t, 3.0, {}, {}) for s, t in ((0, 1e2), (9, 1e4)))
        >>> run = RunSummary("small", {}, np.zeros(0), np.zeros(0), 1e4, 9e4, 9e4, spectra)
        >>> found = match(run, "fraction", 0.5)
        >>> found.spectra.tokens, found.token_ratio
        (5000.0, 2.0)
    """
    choices = get_args(At)
    require(at in choices, "at", expected=f"one of {choices}", got=repr(at))
    limit = 1.0 if at == "fraction" else math.inf
    require(0 < value <= limit, at, expected=f"a number in (0, {limit:g}]", got=value)
    if at == "loss":
        wanted = tokens_to_target(run.validation_tokens, run.validation_losses, value)
    else:
        wanted = value * run.num_tokens if at == "fraction" else value
    measured = [spectra for spectra in run.spectra if spectra.tokens > 0]
    if not measured or not wanted <= run.num_tokens:
        return None
    distances = [abs(math.log(spectra.tokens / wanted)) for spectra in measured]
    nearest = measured[int(np.argmin(distances))]
    before = [spectra for spectra in measured if spectra.tokens < wanted]
    after = [spectra for spectra in measured if spectra.tokens > wanted]
    here = nearest
    if before and after and nearest.tokens != wanted:
        here = _between(before[-1], after[0], wanted)
    loss = run.loss_at(here.tokens)
    return Match(here, wanted, here.loss if math.isnan(loss) else loss, nearest.tokens / wanted)


def _between(before: MeasuredSpectra, after: MeasuredSpectra, tokens: float) -> MeasuredSpectra:
    """Interpolate in the logarithm of tokens; what is missing on one side is of the nearer one."""
    share = math.log(tokens / before.tokens) / math.log(after.tokens / before.tokens)
    nearer, other = (before, after) if share < 0.5 else (after, before)
    weight = min(share, 1 - share)
    summaries = {
        kind: {
            name: {
                quantity: _number(quantity, value, far.get(quantity, math.nan), weight)
                for quantity, value in numbers.items()
            }
            for name, numbers in names.items()
            for far in [other.summaries.get(kind, {}).get(name, {})]
        }
        for kind, names in nearer.summaries.items()
    }
    arrays = {
        name: _spectrum(values, other.arrays.get(name), weight)
        if name.split("/")[0] in nearer.summaries
        else values
        for name, values in nearer.arrays.items()
    }
    loss = nearer.loss + weight * (other.loss - nearer.loss)
    return MeasuredSpectra(nearer.step, tokens, loss, summaries, arrays)


def _number(quantity: str, near: float, far: float, weight: float) -> float:
    if quantity == "status":  # flags
        return near if math.isnan(far) else int(near) | int(far)
    return near + weight * (far - near) if math.isfinite(far) else near


def _spectrum(near: np.ndarray, far: np.ndarray | None, weight: float) -> np.ndarray:
    if far is None or far.shape != near.shape:
        return near
    positive = (near > 0) & (far > 0)
    ratio = np.divide(far, near, out=np.ones_like(near, np.float64), where=positive)
    return np.where(positive, near * ratio**weight, near + weight * (far - near))


def reachable_target(runs: Sequence[RunSummary]) -> float:
    """Return the lowest loss that every run ends with or below: the highest of their last ones.

    Args:
        runs: at least one.

    Returns:
        A validation loss; NaN where no run has one.

    Example:
        >>> tokens = np.array([100.0, 1000.0])
        >>> runs = [
        ...     RunSummary("", {}, tokens, np.array(losses), 1e3, 9e4, 9e4, ())
        ...     for losses in ([5.0, 2.0], [5.0, 3.0])
        ... ]
        >>> reachable_target(runs)
        3.0
    """
    losses = [run.final_loss for run in runs if not math.isnan(run.final_loss)]
    return max(losses, default=math.nan)
