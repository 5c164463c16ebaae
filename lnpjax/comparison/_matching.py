"""Comparing training runs: where they are alike enough to compare, and how fast each one was.

Spectral Lens, section 2: runs are put side by side where they have the same loss, have seen the
same tokens, or are the same way through; their speed is the tokens they take to a target loss, and
the tokens they see per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.runs import MeasuredSpectra, RunSummary, flatten

At: TypeAlias = Literal["loss", "tokens", "fraction"]
Crossing: TypeAlias = Literal["interpolated", "checkpoint"]
# What runs of one family may differ in: the regime that a family is swept over (the paper's batch
# tiers, each at its own learning rate), and what is written down along the way.
_RECIPE = ("batch_size", "learning_rate", "steps", "warmup_steps")
_REGIME = (*_RECIPE, "seed", "data_seed")
_RECORD = ("log_every", "validate_every", "checkpoint_every", "checkpoints_kept")
_WITHIN_FAMILY = {f"training/{name}" for name in _REGIME + _RECORD}


_WITHIN_FAMILY |= {"lnpjax_version", "run_id", "checkpoints_kept"}


# Where these differ, one and the same loss means different things.
_LOSS_DEPENDS_ON = ("data/fingerprint", "data/context_length", "data/num_validation")


def tokens_to_target(
    tokens: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    target: float,
    *,
    crossing: Crossing = "interpolated",
) -> float:
    """T, the training tokens at which the validation loss first meets a target.

    Spectral Lens, sections 2 and 2.2. The paper counts the tokens of the first checkpoint that
    meets it (B.3), so that its T is a multiple of the tokens between checkpoints, and its ratios
    are only as fine as that; `crossing="checkpoint"` does the same.

    Args:
        tokens: `(n,)`, ascending.
        losses: the validation loss there, in nats.
        target: the loss to reach.
        crossing: "interpolated": linear in the logarithm of tokens between the last point above
            the target and the first that is not; "checkpoint": that first point.

    Returns:
        Tokens; NaN where the target is never reached. Where the first point meets the target
        already, or there is none with tokens before it, that point: an upper bound.

    Raises:
        ValueError: if the arrays are not vectors of one length, tokens do not ascend, the target is
            NaN, or there is no such crossing.

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
    known = ("interpolated", "checkpoint")
    require(crossing in known, "crossing", expected=f"one of {known}", got=repr(crossing))
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
    """Tokens to the target relative to the best run of a family, ``T(B) / min T(B')``.

    Spectral Lens, equation 5. The larger, the *less* efficient: the paper's figures call it token
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
    """What a change brought, made by `gains`: 0 is nothing, positive is better."""

    token: float
    throughput: float
    log_token: float
    log_throughput: float


def gains(
    tokens_before: float, tokens_after: float, throughput_before: float, throughput_after: float
) -> Gains:
    """TokGain and ThrGain of a change, and their logarithms (Spectral Lens, equations 6 and 7).

    ``TokGain = T(a) / T(b) - 1``, ``ThrGain = Q(b) / Q(a) - 1``; ``g = log(1 + Gain)``, which add
    up along a chain of changes, and whose sum is the logarithm of the gain in time to the target.

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
    """The measured step of a run that is compared, and how far it is from where it should be.

    Attributes:
        spectra: what was measured there.
        wanted_tokens: where the comparison is made.
        loss: the run's validation loss at the measured step, interpolated; where there is none on
            both sides, the loss on the measurement's own pool.
        token_ratio: measured tokens over wanted: 1 is a perfect match.
    """

    spectra: MeasuredSpectra
    wanted_tokens: float
    loss: float
    token_ratio: float


def match(run: RunSummary, at: At, value: float) -> Match | None:
    """The measured step of a run that is nearest to where runs are compared.

    Spectral Lens, section 2. For a loss: the tokens at which the validation loss first met it
    (`tokens_to_target`), then the measured step nearest to that in the logarithm of tokens.

    Args:
        run: the run.
        at: "loss", "tokens", or "fraction" (of the tokens of the whole run).
        value: the loss, number of tokens, or fraction in (0, 1].

    Returns:
        The match, whose distance is to be reported; None where the run has no spectra, or never
        reached the loss or the number of tokens.

    Raises:
        ValueError: if there is no such `at`, or the value cannot be.

    Example:
        >>> match(read_run(Run.open("runs/small")), "loss", 2.5)  # doctest: +SKIP
    """
    known = get_args(At)
    require(at in known, "at", expected=f"one of {known}", got=repr(at))
    limit = 1.0 if at == "fraction" else math.inf
    require(0 < value <= limit, at, expected=f"a number in (0, {limit:g}]", got=value)
    if at == "loss":
        wanted = tokens_to_target(run.validation_tokens, run.validation_losses, value)
    else:
        wanted = value * run.num_tokens if at == "fraction" else value
    if not run.spectra or not wanted <= run.num_tokens:
        return None
    distances = [abs(math.log(spectra.tokens / wanted)) for spectra in run.spectra]
    nearest = run.spectra[int(np.argmin(distances))]
    loss = run.loss_at(nearest.tokens)
    loss = nearest.loss if math.isnan(loss) else loss
    return Match(nearest, wanted, loss, nearest.tokens / wanted)


def reachable_target(runs: Sequence[RunSummary]) -> float:
    """The lowest loss that every run ends with or below: the highest of their last ones.

    Args:
        runs: at least one.

    Returns:
        A validation loss; NaN where no run has one.
    """
    losses = [run.final_loss for run in runs if not math.isnan(run.final_loss)]
    return max(losses, default=math.nan)


def families(runs: Sequence[RunSummary]) -> list[list[int]]:
    """Sort runs into families: those that are one architecture and recipe in several regimes.

    Spectral Lens, section 2, sweeps the batch size within a family, each at its own learning rate.
    Here runs are of one family whose configurations agree in all but batch size, learning rate,
    seeds, steps and warm-up, and in what does not act on training (what is measured and kept).

    Args:
        runs: the runs.

    Returns:
        The indices of each family's runs, families and runs in the order in which they come.
    """
    return _grouped(runs, _varies_in_family)


def repeats(runs: Sequence[RunSummary]) -> list[list[int]]:
    """Sort runs into repetitions: those that differ in nothing that acts on training but seeds.

    Args:
        runs: the runs.

    Returns:
        The indices of each set, mostly of one run, in the order in which they come.
    """
    return _grouped(runs, lambda name: _varies_in_family(name) and _last(name) not in _RECIPE)


def _grouped(runs: Sequence[RunSummary], may_differ: Callable[[str], bool]) -> list[list[int]]:
    found: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, run in enumerate(runs):
        flat = flatten(run.config)
        rest = tuple(sorted((name, repr(flat[name])) for name in flat if not may_differ(name)))
        found.setdefault(rest, []).append(index)
    return list(found.values())


def _varies_in_family(name: str) -> bool:
    return name in _WITHIN_FAMILY or name.startswith("measurement/")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """In which options runs differ, those that only record aside.

    Args:
        runs: the runs.

    Returns:
        The value of each run ("absent" for none) by the option's name, for options that differ.
    """
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    shown = [n for n in names if not _varies_in_family(n) or _last(n) in _REGIME]
    values = {name: [one.get(name, "absent") for one in flat] for name in shown}
    return {name: found for name, found in values.items() if len({*map(repr, found)}) > 1}


def incomparable(runs: Sequence[RunSummary]) -> list[str]:
    """The options for which one loss does not mean the same in all runs (their data differ)."""
    return [name for name in differences(runs) if name in _LOSS_DEPENDS_ON]
