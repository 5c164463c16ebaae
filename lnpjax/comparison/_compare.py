"""Several runs next to each other: all that `lnpjax compare` prints and draws, as numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lnpjax._base.checks import require
from lnpjax.comparison._early import (
    CorrelationCurves,
    LayerCorrelations,
    correlation_over_fraction,
    correlation_over_layers,
    early_exponents,
)
from lnpjax.comparison._families import families, repeats
from lnpjax.comparison._matching import (
    At,
    Crossing,
    Gains,
    Match,
    gains,
    match,
    reachable_target,
    token_efficiency,
    tokens_to_target,
)
from lnpjax.comparison._rank import LEAST_RUNS, FamilyCorrelations, family_correlations
from lnpjax.comparison._taxonomy import (
    KINDS,
    Displacement,
    Head,
    Verdict,
    classify,
    displacement,
    seed_spread,
)
from lnpjax.runs import Kind, RunSummary


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """Where runs are compared.

    Attributes:
        at: "loss", "tokens" or "fraction": what is equal where spectra are compared.
        target: the loss to reach; by default the lowest that every run reaches.
        tokens: for ``at="tokens"``; by default those of the shortest run.
        fraction: how early the early exponent is read: this part of the way of a family's fastest
            run to the target; and for ``at="fraction"``, where runs are compared.
        crossing: how tokens to the target are counted (`tokens_to_target`).

    Example:
        >>> ComparisonOptions(at="tokens", tokens=1e6).check()
        >>> ComparisonOptions(fraction=2.0).check()
        Traceback (most recent call last):
            ...
        ValueError: fraction: expected a number in (0, 1], got 2.0
    """

    at: At = "loss"
    target: float | None = None
    tokens: float | None = None
    fraction: float = 0.2
    crossing: Crossing = "interpolated"

    def check(self) -> None:
        """Refuse invalid values.

        Raises:
            ValueError: if one is invalid; the message names the option.
        """
        fine = 0 < self.fraction <= 1
        require(fine, "fraction", expected="a number in (0, 1]", got=self.fraction)
        for name in ("target", "tokens"):
            value = getattr(self, name)
            fine = value is None or (math.isfinite(value) and value > 0)
            require(fine, name, expected="a finite number > 0", got=value)


@dataclasses.dataclass(frozen=True)
class Transition:
    """A change from one run to another, each a mean over runs that differ in their seeds only.

    Attributes:
        before: indices of the runs without the change.
        after: indices of the runs with it.
        gains: TokGain and ThrGain, and their logarithms, of geometric means.
        moved: how far the spectra of the activations and of the gradients moved; NaN without any.
        verdict: the label of the taxonomy, and why.

    Example:
        >>> from lnpjax.comparison import gains
        >>> brought = gains(2e6, 1e6, 100.0, 100.0)
        >>> verdict = classify(brought.log_token, brought.log_throughput, 5.0, 1.0)
        >>> Transition((0,), (1, 2), brought, {}, verdict).verdict.label
        'activation-led'
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    gains: Gains
    moved: Mapping[Kind, Displacement]
    verdict: Verdict


class EarlyPrediction(NamedTuple):
    """What the early tail exponents of one family say about its tokens to the target.

    Attributes:
        at_tokens: where they are read, in every run.
        exponents: `(run,)`.
        over_fraction: correlations over training (*Spectral Lens*, figure 8).
        over_layers: correlations over layers (figure 10).

    Example:
        >>> curves, layers = CorrelationCurves(np.ones(1), (), ()), LayerCorrelations((), (), 0.2)
        >>> early = EarlyPrediction(1e5, np.array([1.1, 1.3]), curves, layers)
        >>> early.exponents.argmin(), early.over_layers.late_advantage
        (np.int64(0), 0.2)
    """

    at_tokens: float
    exponents: Float[np.ndarray, " run"]
    over_fraction: CorrelationCurves
    over_layers: LayerCorrelations


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several runs, compared, made by `compare`; by run, where an attribute does not say else.

    Attributes:
        runs: the runs.
        options: where they are compared.
        families: indices of the runs of each family; the first is called "A".
        target: the loss to reach.
        value: where spectra are matched: a loss, tokens or a fraction, as `options.at` says.
        tokens: to the target; NaN where it is not reached.
        efficiencies: relative to the best of the family; 1 is the best.
        throughput: tokens per second; NaN where unknown.
        throughput_is_plain: whether measurements are left out of it; all runs or none.
        matches: the measured step that is compared; None where there is none.
        transitions: the changes.
        early: by family; None with fewer than three runs that have spectra and reach the target.
        correlations: of the other families; None where there is none.
    """

    runs: tuple[RunSummary, ...]
    options: ComparisonOptions
    families: tuple[tuple[int, ...], ...]
    target: float
    value: float
    tokens: Float[np.ndarray, " run"]
    efficiencies: Float[np.ndarray, " run"]
    throughput: Float[np.ndarray, " run"]
    throughput_is_plain: bool
    matches: tuple[Match | None, ...]
    transitions: tuple[Transition, ...]
    early: tuple[EarlyPrediction | None, ...]
    correlations: FamilyCorrelations | None

    def family_of(self, run: int) -> str:
        """Return the name of a run's family."""
        (number,) = (i for i, members in enumerate(self.families) if run in members)
        return family_name(number)


def family_name(index: int) -> str:
    """Name a family by its number: A, B, ..., Z, A1, B1, ...

    Example:
        >>> family_name(0), family_name(27)
        ('A', 'B1')
    """
    turn, letter = divmod(index, len(string.ascii_uppercase))
    return string.ascii_uppercase[letter] + (str(turn) if turn else "")


def compare(runs: Sequence[RunSummary], options: ComparisonOptions | None = None) -> Comparison:
    """Compare runs (*Spectral Lens*, sections 2 to 4).

    Changes lead from each family to the next in the order given, between the runs of one batch size
    (the paper: tier 8), or between the fastest of each family where no batch size is in both. Runs
    that differ in their seeds only count together, all of them; of other runs of one batch size,
    the fastest count. Within a single family changes lead from each such set of runs to the next.
    They have gains and no label: another batch size is no architecture or recipe that could help by
    activations or gradients.

    Args:
        runs: at least two.
        options: where to compare them.

    Returns:
        The comparison.

    Raises:
        ValueError: if there are fewer than two runs, an option is invalid, or no run has a
            validation loss.

    Example:
        >>> tokens = np.array([100.0, 10_000.0])
        >>> slow, fast = (
        ...     RunSummary(name, {"model": name}, tokens, losses, 1e4, 9e4, 9e4, ())
        ...     for name, losses in (("slow", np.array([3.0, 2.0])), ("fast", np.array([3.0, 1.0])))
        ... )
        >>> comparison = compare([slow, fast])
        >>> comparison.target, comparison.tokens, comparison.transitions[0].verdict.label
        (2.0, array([10000.,  1000.]), 'undecided')
    """
    options = ComparisonOptions() if options is None else options
    options.check()
    require(len(runs) >= 2, "runs", expected="at least two", got=len(runs))
    runs = tuple(runs)
    target = reachable_target(runs) if options.target is None else options.target
    require(not math.isnan(target), "runs", expected="a run with a validation loss", got="none")
    value = {
        "loss": target,
        "tokens": options.tokens or min(run.num_tokens for run in runs),
        "fraction": options.fraction,
    }.get(options.at, math.nan)
    matches = tuple(match(run, options.at, value) for run in runs)
    tokens = _tokens_of_all(runs, target, options.crossing)
    members = tuple(tuple(family) for family in families(runs))
    efficiencies = np.full(len(runs), math.nan)
    for family in members:
        efficiencies[list(family)] = token_efficiency(tokens[list(family)])
    throughput, is_plain = _throughput(runs)
    early = tuple(_early(runs, family, tokens, options.fraction) for family in members)
    return Comparison(
        runs=runs,
        options=options,
        families=members,
        target=target,
        value=value,
        tokens=tokens,
        efficiencies=efficiencies,
        throughput=throughput,
        throughput_is_plain=is_plain,
        matches=matches,
        transitions=_transitions(runs, members, tokens, throughput, matches),
        early=early,
        correlations=_correlations(members, early, efficiencies),
    )


def _tokens_of_all(
    runs: Sequence[RunSummary], target: float, crossing: Crossing
) -> Float[np.ndarray, " run"]:
    losses = [(run.validation_tokens, run.validation_losses) for run in runs]
    return np.array([tokens_to_target(*pair, target, crossing=crossing) for pair in losses])


def _throughput(runs: Sequence[RunSummary]) -> tuple[Float[np.ndarray, " run"], bool]:
    """Return tokens per second, and whether measurements are left out: of all runs or of none.

    Measuring is not part of a recipe, and speeds with and without it are not comparable.
    """
    plain = np.array([run.plain_tokens_per_second for run in runs])
    if np.all(np.isfinite(plain)):
        return plain, True
    return np.array([run.tokens_per_second for run in runs]), False


def _correlations(
    members: Sequence[Sequence[int]],
    early: Sequence[EarlyPrediction | None],
    efficiencies: Float[np.ndarray, " run"],
) -> FamilyCorrelations | None:
    predicted = [
        (of_family.exponents, efficiencies[list(family)])
        for of_family, family in zip(early, members, strict=True)
        if of_family is not None
    ]
    return family_correlations(*zip(*predicted, strict=True)) if predicted else None


def _early(
    runs: Sequence[RunSummary],
    family: Sequence[int],
    tokens: Float[np.ndarray, " run"],
    fraction: float,
) -> EarlyPrediction | None:
    of_family, needed = [runs[i] for i in family], tokens[list(family)]
    reached = np.isfinite(needed)
    usable = [bool(run.spectra) and did for run, did in zip(of_family, reached, strict=True)]
    if sum(usable) < LEAST_RUNS:
        return None
    at_tokens = fraction * float(np.min(needed[reached]))
    return EarlyPrediction(
        at_tokens,
        early_exponents(of_family, at_tokens),
        correlation_over_fraction(of_family, needed),
        correlation_over_layers(of_family, needed, at_tokens=at_tokens),
    )


def _transitions(
    runs: Sequence[RunSummary],
    members: Sequence[Sequence[int]],
    tokens: Float[np.ndarray, " run"],
    throughput: Float[np.ndarray, " run"],
    matches: Sequence[Match | None],
) -> tuple[Transition, ...]:
    heads = {
        kind: [_head(run, matched, kind) for run, matched in zip(runs, matches, strict=True)]
        for kind in KINDS
    }
    alike = repeats(runs)
    spreads = {
        kind: seed_spread([np.array([of_runs[run].exponent for run in same]) for same in alike])
        for kind, of_runs in heads.items()
    }
    transitions = []
    for before, after in _steps(runs, members, alike, tokens):
        brought = gains(
            *(
                _geometric_mean(of_runs[list(side)])
                for of_runs in (tokens, throughput)
                for side in (before, after)
            )
        )
        # The spread of a run, for the difference of means over the seeds of both sides.
        fewer = math.sqrt((1 / len(before) + 1 / len(after)) / 2)
        moved = {
            kind: displacement(
                _mean_head([of_runs[run] for run in before]),
                _mean_head([of_runs[run] for run in after]),
                seed_spread=fewer * spreads[kind],
            )
            for kind, of_runs in heads.items()
        }
        sizes = [moved[kind].size for kind in KINDS]
        verdict = (
            Verdict("undecided", "another regime of one architecture and recipe")
            if len(members) == 1
            else classify(brought.log_token, brought.log_throughput, sizes[0], sizes[1])
        )
        transitions.append(Transition(before, after, brought, moved, verdict))
    return tuple(transitions)


def _geometric_mean(values: Float[np.ndarray, " run"]) -> float:
    """Return the mean over seeds; NaN if one of them has no value."""
    return math.exp(np.mean(np.log(values)))


def _mean_head(heads: Sequence[Head]) -> Head:
    """Average the heads of runs that differ in their seeds; of spectra, the shares of the trace."""
    spectra = [head.eigenvalues for head in heads]
    shapes = {None if spectrum is None else spectrum.shape for spectrum in spectra}
    stored = [spectrum for spectrum in spectra if spectrum is not None]
    return Head(
        exponent=float(np.mean([head.exponent for head in heads])),
        sem=math.hypot(*(head.sem for head in heads)) / len(heads),
        eigenvalues=np.mean([spectrum / spectrum.sum() for spectrum in stored], axis=0)
        if len(shapes) == 1 and stored
        else None,
    )


def _head(run: RunSummary, matched: Match | None, kind: Kind) -> Head:
    """Return the head exponent where runs match, interpolated so that drift does not count."""
    if matched is None:
        return Head(math.nan, math.nan, None)
    nearest = matched.spectra.number(kind, "alpha_head")
    (between,) = early_exponents([run], matched.wanted_tokens, quantity="alpha_head", kind=kind)
    return Head(
        exponent=nearest if math.isnan(between) else float(between),
        sem=matched.spectra.number(kind, "alpha_head_sem"),
        eigenvalues=matched.spectra.eigenvalues(kind),
    )


def _steps(
    runs: Sequence[RunSummary],
    members: Sequence[Sequence[int]],
    alike: Sequence[Sequence[int]],
    tokens: Float[np.ndarray, " run"],
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the pairs of runs that a transition leads between, with all seeds of each."""
    sets = [[tuple(same) for same in alike if same[0] in family] for family in members]
    if len(members) == 1:
        return list(itertools.pairwise(sets[0]))

    def fastest(candidates: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        means = [_geometric_mean(tokens[list(same)]) for same in candidates]
        return candidates[int(np.argmin(np.nan_to_num(means, nan=math.inf)))]

    def by_batch(family: Sequence[tuple[int, ...]]) -> dict[int | None, tuple[int, ...]]:
        sizes = [runs[same[0]].batch_size for same in family]
        return {
            size: fastest([same for same, its in zip(family, sizes, strict=True) if its == size])
            for size in dict.fromkeys(sizes)
        }

    pairs = []
    for before, after in itertools.pairwise(sets):
        old, new = by_batch(before), by_batch(after)
        shared = [size for size in old if size in new]
        pairs += [(old[size], new[size]) for size in shared] or [(fastest(before), fastest(after))]
    return pairs
