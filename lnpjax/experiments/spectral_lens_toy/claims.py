"""What Spectral Lens claims of its toy (section 5; F.3; Figs. 4, 11), judged by a sweep.

Seeds are the unit: all errors are those of the scatter between runs that differ in their seeds
only, about the mean of their stage and batch size, pooled over the stages and batch sizes that an
estimate is made of. Batch sizes are those of the set-up, and no sample of any others.

H_S is judged on the bands that can decide (`bands.deciding_bands`), and as the share of the room
above chance that it takes, ``(H_S - chance) / (1 - chance)``: 0 for random states, 1 where nothing
but the task's modes is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.comparison import spearman
from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    Bounds,
    Uncertain,
    contrast,
    draws_of_means,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy import needs as needs_of
from lnpjax.experiments.spectral_lens_toy.bands import (
    MOST_CHANCE,
    band_name,
    deciding_bands,
)
from lnpjax.experiments.spectral_lens_toy.config import STAGES, Band
from lnpjax.experiments.spectral_lens_toy.results import (
    JUMP_FRACTIONS,
    TRANSITIONS,
    Curves,
    Groups,
    Matched,
    control_jump,
    early_exponents,
    matched_runs,
    modes_for_share,
    profiles_of,
    room_taken,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_toy.config import ToyConfig


NARROW_CYCLE = 16  # bands of shorter cycles are narrow
AT = 0.2  # of the way to the target
POSITIVE, NEGATIVE = Bounds(low=0.0), Bounds(high=0.0)
RANKED = Bounds(low=0.85)
"""Of the orders of five batch sizes, chance has 4 % in it: rho is 1 or 0.9."""
APART = Bounds(low=0.25)
TIMES = 3  # for "about five times"
FEW = 3
Profiles = Mapping[tuple[str, int], Sequence[tuple[np.ndarray, np.ndarray]]]


def judge(config: ToyConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the figures.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    shared = [needs_of.seeds(config), needs_of.steps(config)]
    learned = [*shared, needs_of.learned(config, sweep)]
    trained = [*learned, needs_of.occur(config, config.tracked_bands)]
    decide = deciding_bands(config.task, config.tracked_bands)
    what = f"a tracked band where chance gives H_S of at most {MOST_CHANCE}"
    decides = [*trained, Need(what, bool(decide), ", ".join(map(band_name, decide)))]
    muon, untied = (matched_runs(config, sweep, stage) for stage in ("muon", "untied"))
    early = early_exponents(sweep, "muon", muon, AT)
    peaks = Curves(config, sweep, "H_peak").groups(config.tracked_bands, *JUMP_FRACTIONS)
    first = Curves(config, sweep, "pc1_peak_mass")
    by_bands = {band: first.groups([band], 1.0) for band in config.bands}
    return [
        ranks_early(muon, early, [*shared, *needs_of.at_target(config, sweep, "muon")]),
        *concentrates(*room_taken(config, sweep, decide), decides),
        few_modes(
            {
                band_name(band): profiles_of(config, sweep, "untied", band)
                for band in config.tracked_bands
            },
            trained,
        ),
        spectra_differ(untied, [*shared, *needs_of.at_target(config, sweep, "untied")]),
        smaller_are_steeper(untied, [*shared, *needs_of.at_target(config, sweep, "untied")]),
        untying_jumps(peaks, trained),
        *by_band(by_bands, [*learned, needs_of.occur(config, config.bands)]),
        _control(config, sweep),
    ]


def ranks_early(
    runs: Sequence[Matched], early: Float[np.ndarray, " runs"], needs: list[Need]
) -> Claim:
    """Judge whether the early exponent ranks batch sizes by their cost.

    Args:
        runs: of the Muon stage.
        early: the exponent of each after `AT` of its way.
        needs: what the claim rests on.
    """
    exponents = _by_size(runs, early)
    logarithms = _by_size(runs, np.log([run.tokens for run in runs]))
    estimate = UNKNOWN
    if len(exponents) > 1 and min(map(len, exponents.values())) > 1:
        drawn = [
            draws_of_means(list(groups.values()), seed=seed).rows
            for seed, groups in enumerate((exponents, logarithms))
        ]
        rhos = _rank_correlations(*drawn)
        estimate = Uncertain(float(rhos[0]), draws=rhos[1:])
    return Claim(
        source="Fig. 4a",
        statement="In the Muon stage, the tail exponent at about 20 % of training ranks the batch "
        "sizes by the tokens that they need: rho = 1.",
        quantity="Spearman's rho of the means over seeds, over batch sizes, at 20 % of each run's "
        "way to the target; interval by draws of these means",
        findings=[Finding("", estimate, RANKED)],
        needs=needs,
    )


def concentrates(start: Groups, end: Groups, needs: list[Need]) -> list[Claim]:
    """Judge H_S at the start and at the end of all stages.

    Args:
        start: of training, the share of the room above chance.
        end: likewise.
        needs: what the claims rest on.
    """
    change = {regime: end[regime] - start[regime] for regime in end}
    return [
        Claim(
            source="Fig. 4b",
            statement="Task-band concentration H_S grows during training in every stage.",
            quantity="share of the room above chance that H_S takes, at the end less that at step "
            "0, mean over batch sizes",
            findings=[
                Finding(stage, _of_stages(change, {stage: 1.0}), POSITIVE) for stage in STAGES
            ],
            needs=needs,
        ),
        Claim(
            source="Fig. 4b",
            statement="H_S is ordered by stage: Baseline < RoPE < Muon < Untied.",
            quantity="share of the room above chance that H_S takes at the end, after equal "
            "tokens, of a stage less that of the one before, mean over batch sizes",
            findings=[
                Finding(
                    f"{first} to {second}",
                    _of_stages(end, {first: -1.0, second: 1.0}),
                    POSITIVE,
                )
                for first, second in TRANSITIONS
            ],
            needs=needs,
        ),
    ]


def few_modes(profiles: Mapping[str, Profiles], needs: list[Need]) -> Claim:
    """Judge how many modes carry the energy of the Untied stage.

    Args:
        profiles: at step 0 and at the end, of every run, by tracked band.
        needs: what the claim rests on.
    """
    findings = []
    for band, regimes in profiles.items():
        largest = _mapped(regimes, lambda _, last: float(np.sort(last)[-FEW:].sum()))
        fewer = _mapped(
            regimes, lambda first, last: np.log(modes_for_share(last) / modes_for_share(first))
        )
        findings += [
            Finding(
                f"{band}, share of {FEW} modes",
                _of_stages(largest, {"untied": 1.0}),
                Bounds(low=0.5),
            ),
            Finding(
                f"{band}, log of end over start",
                _of_stages(fewer, {"untied": 1.0}),
                Bounds(high=np.log(0.5)),
            ),
        ]
    return Claim(
        source="Fig. 4c",
        statement="The final Untied profile concentrates on a few Fourier modes; the initial one "
        "is diffuse.",
        quantity=f"share of energy of the {FEW} largest modes at the end; and log of the number of "
        "modes that hold half of the energy, end over start; mean over batch sizes",
        findings=findings,
        needs=needs,
    )


def spectra_differ(runs: Sequence[Matched], needs: list[Need]) -> Claim:
    """Judge whether spectra at one loss differ between the ends of the sweep."""
    groups = _by_size(runs, np.array([run.exponent for run in runs]))
    estimate = UNKNOWN
    if len(groups) > 1:
        estimate = contrast(groups, {min(groups): 1.0, max(groups): -1.0})
        estimate = Uncertain(abs(estimate.value), estimate.error, estimate.df)
    return Claim(
        source="Fig. 11a",
        statement="At matched loss, Untied runs of different batch sizes have different spectra.",
        quantity="absolute difference of the tail exponents at the target between the smallest and "
        "the largest batch",
        findings=[Finding("", estimate, APART)],
        needs=needs,
    )


def smaller_are_steeper(runs: Sequence[Matched], needs: list[Need]) -> Claim:
    """Judge the trend of the tail exponent over batch sizes at one loss."""
    groups = _by_size(runs, np.array([run.exponent for run in runs]))
    estimate = UNKNOWN
    if len(groups) > 1:
        doublings = np.log2(list(groups)) - np.mean(np.log2(list(groups)))
        slope = dict(zip(groups, doublings / np.sum(doublings**2), strict=True))
        estimate = contrast(groups, slope)
    return Claim(
        source="Fig. 11a",
        statement="Smaller batches have steeper tails at matched loss.",
        quantity="change of the tail exponent at the target with each doubling of the batch, by "
        "least squares through the means",
        findings=[Finding("", estimate, NEGATIVE)],
        needs=needs,
    )


def untying_jumps(peaks: Groups, needs: list[Need]) -> Claim:
    """Judge whether the last step raises H_peak by much more than the others.

    Args:
        peaks: H_peak of every run, mean over `JUMP_FRACTIONS` of it.
        needs: what the claim rests on.
    """
    *before, last = TRANSITIONS
    findings = []
    for step in before:
        weights = dict.fromkeys(STAGES, 0.0)
        for (first, second), times in ((last, 1.0), (step, -float(TIMES))):
            weights[first] -= times
            weights[second] += times
        used = {stage: weight for stage, weight in weights.items() if weight}
        findings.append(Finding(" to ".join(step), _of_stages(peaks, used), POSITIVE))
    return Claim(
        source="Fig. 11b",
        statement="The step from Muon to Untied raises H_peak about five times as much as either "
        "step before.",
        quantity=f"its rise less {TIMES} times that of a step before, mean over 10, 20, 30 % of "
        "the run and over batch sizes",
        findings=findings,
        needs=needs,
    )


def by_band(final: Mapping[Band, Groups], needs: list[Need]) -> list[Claim]:
    """Judge the peak mass of the first component over the bands.

    Args:
        final: at the end of every run, by band.
        needs: what the claims rest on.
    """

    def above(stage: str, other: str) -> list[Finding]:
        """By how much a stage exceeds another in every band."""
        weights = {stage: 1.0, other: -1.0}
        return [
            Finding(
                f"{stage} less {other}, {band_name(band)}", _of_stages(groups, weights), POSITIVE
            )
            for band, groups in final.items()
        ]

    *tied, last = STAGES
    base, *later = STAGES
    return [
        Claim(
            source="Fig. 11c",
            statement="Untied has the largest PC1 peak mass in every band.",
            quantity="its peak mass less that of another stage at the end, by band, mean over "
            "batch sizes",
            findings=[finding for stage in tied for finding in above(last, stage)],
            needs=needs,
        ),
        Claim(
            source="Fig. 11c",
            statement="Baseline has a uniformly small one.",
            quantity="that of another stage less its own, by band, mean over batch sizes",
            findings=[finding for stage in later for finding in above(stage, base)],
            needs=needs,
        ),
        Claim(
            source="Fig. 11c",
            statement="Muon peaks on the narrowest bands, where RoPE dips.",
            quantity=f"peak mass on cycles below {NARROW_CYCLE} less that on the others, mean over "
            "batch sizes",
            findings=[
                Finding("muon", _of_stages(_narrow_less_wide(final), {"muon": 1.0}), POSITIVE),
                Finding("rope", _of_stages(_narrow_less_wide(final), {"rope": 1.0}), NEGATIVE),
            ],
            needs=needs,
        ),
    ]


def _rank_correlations(
    x: Float[np.ndarray, "draws n"], y: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """Spearman's rho row by row: each order of y, sorted by x, is evaluated once."""
    ordered = np.take_along_axis(y, np.argsort(x), axis=1)
    orders, where = np.unique(ordered.argsort().argsort(), axis=0, return_inverse=True)
    places = np.arange(x.shape[1], dtype=float)
    return np.array([spearman(places, order.astype(float)).rho for order in orders])[where.ravel()]


def _narrow_less_wide(final: Mapping[Band, Groups]) -> Groups:
    narrow, wide = (
        [groups for (cycle, _), groups in final.items() if (cycle < NARROW_CYCLE) == inside]
        for inside in (True, False)
    )
    regimes = next(iter(final.values()))
    return {
        regime: np.mean([groups[regime] for groups in narrow], axis=0)
        - np.mean([groups[regime] for groups in wide], axis=0)
        if narrow and wide
        else np.full(len(values), np.nan)
        for regime, values in regimes.items()
    }


def _of_stages(groups: Groups, weights: Mapping[str, float]) -> Uncertain:
    """A weighted sum of stages, each the mean over its batch sizes; errors are theirs alone."""
    used = {regime: values for regime, values in groups.items() if regime[0] in weights}
    sizes = {stage: sum(regime[0] == stage for regime in used) for stage in weights}
    return contrast(used, {regime: weights[regime[0]] / sizes[regime[0]] for regime in used})


def _mapped(
    profiles: Profiles, value: Callable[[np.ndarray, np.ndarray], float]
) -> dict[tuple[str, int], np.ndarray]:
    """A number of every run, from its profiles."""
    return {
        regime: np.array([value(first, last) for first, last in runs])
        for regime, runs in profiles.items()
    }


def _by_size(
    runs: Sequence[Matched], values: Float[np.ndarray, " runs"]
) -> dict[int, Float[np.ndarray, " seeds"]]:
    sizes = np.array([run.batch_size for run in runs])
    return {size: values[sizes == size] for size in sorted({run.batch_size for run in runs})}


def _control(config: ToyConfig, sweep: Sweep) -> Observation:
    plain, control = control_jump(config, sweep)
    return Observation(
        source="Fig. 11b",
        statement="Untying the read-out raises H_peak because of what it can represent.",
        seen=f"at batch {config.control_batch_size}, seed {config.seeds[0]}, by {plain:+.3f}, and "
        f"by {control:+.3f} where embeddings start at {config.control_embedding_std:g} instead of "
        f"{config.embedding_std:g}, so that a tied read-out does not begin by predicting the "
        "current token",
    )
