"""What Spectral Lens claims of its toy (section 5; F.3; Figs. 4, 11), judged by a sweep.

Runs of one batch size are averaged over seeds; intervals are over batch sizes, in pairs where
stages are compared, since these share batch sizes and seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lnpjax.experiments._harness.claims import Claim, Finding, Need, Observation
from lnpjax.experiments._harness.estimates import (
    UNKNOWN,
    Bounds,
    Uncertain,
    draws_of_log_means,
    mean_of,
    slope_of,
)
from lnpjax.experiments._harness.sweep import Sweep
from lnpjax.experiments.spectral_lens_toy.config import STAGES
from lnpjax.experiments.spectral_lens_toy.results import (
    FRACTIONS,
    TRANSITIONS,
    Matched,
    control_jump,
    early_prediction,
    final_by_band,
    matched_runs,
    modes_for_share,
    over_training,
    peak_jumps,
)

if TYPE_CHECKING:
    from lnpjax.experiments.spectral_lens_toy.config import ToyConfig


LEAST_BATCH_SIZES = 4
LEAST_SEEDS = 3
NARROW_BANDS = 2
AT = 0.2  # of the way to the target
POSITIVE, NEGATIVE = Bounds(low=0.0), Bounds(high=0.0)
RANKED = Bounds(low=0.8)
APART = Bounds(low=0.25)
TIMES = 3  # for "about five times"
FEW = 3


def judge(config: ToyConfig, sweep: Sweep) -> list[Claim | Observation]:
    """All claims, in the order of the figures.

    Args:
        config: the size of the experiment.
        sweep: its finished sweep.

    Returns:
        The claims, judged, and what is only observed.
    """
    rho = [early_prediction(sweep, "muon", seed)[FRACTIONS.index(AT)].rho for seed in config.seeds]
    concentration = {
        stage: np.stack(list(over_training(config, sweep, stage, "H_S").values()))[:, [0, -1]]
        for stage in STAGES
    }
    final = {stage: final_by_band(config, sweep, stage, "pc1_peak_mass") for stage in STAGES}
    jumps = {pair: values.mean(1) for pair, values in peak_jumps(config, sweep).items()}
    enough = [_batch_sizes(len(config.batch_sizes))]
    return [
        ranks_early(rho, [*_at_target(sweep, "muon"), _seeds(config)]),
        *concentrates(concentration, enough),
        few_modes(_profiles(config, sweep), enough),
        spectra_differ(matched_runs(sweep, "untied"), _at_target(sweep, "untied"), _seeds(config)),
        smaller_are_steeper(matched_runs(sweep, "untied"), _at_target(sweep, "untied")),
        untying_jumps(jumps, enough),
        *by_band(config, final, enough),
        _control(config, sweep),
    ]


def ranks_early(rho: list[float], needs: list[Need]) -> Claim:
    """Judge whether the early exponent ranks batch sizes by their cost."""
    return Claim(
        source="Fig. 4a",
        statement="In the Muon stage, the tail exponent at about 20 % of training ranks the batch "
        "sizes by the tokens that they need: rho = 1.",
        quantity="Spearman's rho over batch sizes at 20 % of each run's way to the target, mean "
        "over seeds",
        findings=[Finding("", mean_of(rho), RANKED)],
        needs=needs,
    )


def concentrates(
    concentration: dict[str, Float[np.ndarray, "batch_sizes 2"]], needs: list[Need]
) -> list[Claim]:
    """Judge H_S at the start and at the end of all stages."""
    return [
        Claim(
            source="Fig. 4b",
            statement="Task-band concentration H_S grows during training in every stage.",
            quantity="H_S at the end less that at step 0, mean over batch sizes, pairs",
            findings=[
                Finding(stage, mean_of(values[:, 1] - values[:, 0]), POSITIVE)
                for stage, values in concentration.items()
            ],
            needs=needs,
        ),
        Claim(
            source="Fig. 4b",
            statement="H_S is ordered by stage: Baseline < RoPE < Muon < Untied.",
            quantity="H_S at the end, after equal tokens, of a stage less that of the one before, "
            "mean over batch sizes, pairs",
            findings=[
                Finding(
                    f"{first} to {second}",
                    mean_of(concentration[second][:, 1] - concentration[first][:, 1]),
                    POSITIVE,
                )
                for first, second in TRANSITIONS
            ],
            needs=needs,
        ),
    ]


def few_modes(profiles: dict[str, list[tuple[np.ndarray, np.ndarray]]], needs: list[Need]) -> Claim:
    """Judge how many modes carry the energy of the Untied stage.

    Args:
        profiles: at step 0 and at the end, of every run, by tracked band.
        needs: what the claim rests on.
    """
    findings = []
    for band, runs in profiles.items():
        largest = [float(np.sort(last)[-FEW:].sum()) for _, last in runs]
        shrinking = [np.log(modes_for_share(last) / modes_for_share(first)) for first, last in runs]
        findings += [
            Finding(f"{band}, share of {FEW} modes", mean_of(largest), Bounds(low=0.5)),
            Finding(f"{band}, log of end over start", mean_of(shrinking), Bounds(high=np.log(0.5))),
        ]
    return Claim(
        source="Fig. 4c",
        statement="The final Untied profile concentrates on a few Fourier modes; the initial one "
        "is diffuse.",
        quantity=f"share of energy of the {FEW} largest modes at the end; and log of the number of "
        "modes that hold half of the energy, end over start; mean over runs",
        findings=findings,
        needs=needs,
    )


def spectra_differ(runs: list[Matched], at_target: list[Need], seeds: Need) -> Claim:
    """Judge whether spectra at one loss differ by more than seeds do."""
    groups = [
        np.array([run.exponent for run in runs if run.batch_size == size])
        for size in sorted({run.batch_size for run in runs})
    ]
    estimate = UNKNOWN
    if len(groups) > 1 and min(map(len, groups)) > 1:
        means = draws_of_log_means(groups)
        exponents = np.exp(means.rows)
        estimate = means.estimate(np.ptp(exponents, axis=1))
    elif len(groups) > 1:
        estimate = Uncertain(float(np.ptp(np.concatenate(groups))))
    return Claim(
        source="Fig. 11a",
        statement="At matched loss, Untied runs of different batch sizes have different spectra.",
        quantity="span of the tail exponents at the target over batch sizes; errors over seeds",
        findings=[Finding("", estimate, APART)],
        needs=[*at_target, seeds],
    )


def smaller_are_steeper(runs: list[Matched], needs: list[Need]) -> Claim:
    """Judge the trend of the tail exponent over batch sizes at one loss."""
    sizes = np.log2([run.batch_size for run in runs])
    slope = slope_of(sizes, np.array([run.exponent for run in runs]))
    return Claim(
        source="Fig. 11a",
        statement="Smaller batches have steeper tails at matched loss.",
        quantity="change of the tail exponent with each doubling of the batch, by least squares",
        findings=[Finding("", slope, NEGATIVE)],
        needs=needs,
    )


def untying_jumps(
    jumps: dict[tuple[str, str], Float[np.ndarray, " batch_sizes"]], needs: list[Need]
) -> Claim:
    """Judge whether the last step raises H_peak by much more than the others."""
    *before, last = TRANSITIONS
    return Claim(
        source="Fig. 11b",
        statement="The step from Muon to Untied raises H_peak about five times as much as either "
        "step before.",
        quantity=f"its rise less {TIMES} times that of a step before, mean over 10, 20, 30 % of "
        "the run and over batch sizes, pairs",
        findings=[
            Finding(f"{first} to {second}", mean_of(jumps[last] - TIMES * jumps[first, second]),
                    POSITIVE)
            for first, second in before
        ],
        needs=needs,
    )  # fmt: skip


def by_band(
    config: ToyConfig, final: dict[str, Float[np.ndarray, "batch_sizes bands"]], needs: list[Need]
) -> list[Claim]:
    """Judge the peak mass of the first component over the bands."""
    names = [f"{cycle}:{offset}" for cycle, offset in config.bands]

    def above(stage: str, others: list[str]) -> list[Finding]:
        """By how much a stage exceeds each of others in every band."""
        return [
            Finding(f"{stage} less {other}, {name}", mean_of(difference), POSITIVE)
            for other in others
            for name, difference in zip(names, (final[stage] - final[other]).T, strict=True)
        ]

    order = np.argsort([cycle for cycle, _ in config.bands])
    narrow, wide = order[:NARROW_BANDS], order[NARROW_BANDS:]
    contrasts = {
        stage: mean_of(values[:, narrow].mean(1) - values[:, wide].mean(1))
        if len(wide)
        else UNKNOWN
        for stage, values in final.items()
    }
    return [
        Claim(
            source="Fig. 11c",
            statement="Untied has the largest PC1 peak mass in every band.",
            quantity="its peak mass less that of another stage at the end, by band, mean over "
            "batch sizes, pairs",
            findings=above("untied", list(STAGES[:-1])),
            needs=needs,
        ),
        Claim(
            source="Fig. 11c",
            statement="Baseline has a uniformly small one.",
            quantity="that of another stage less its own, by band, mean over batch sizes, pairs",
            findings=[finding for stage in STAGES[1:] for finding in above(stage, ["baseline"])],
            needs=needs,
        ),
        Claim(
            source="Fig. 11c",
            statement="Muon peaks on the narrowest bands, where RoPE dips.",
            quantity=f"peak mass on the {NARROW_BANDS} shortest cycles less that on the others, "
            "mean over batch sizes",
            findings=[
                Finding("muon", contrasts["muon"], POSITIVE),
                Finding("rope", contrasts["rope"], NEGATIVE),
            ],
            needs=needs,
        ),
    ]


def _control(config: ToyConfig, sweep: Sweep) -> Observation:
    plain, control = control_jump(config, sweep)
    return Observation(
        source="Fig. 11b",
        statement="Untying the read-out raises H_peak because of what it can represent.",
        seen=f"at batch {config.control_batch_size} by {plain:+.3f}, and by {control:+.3f} where "
        f"embeddings start at {config.control_embedding_std:g} instead of "
        f"{config.embedding_std:g}, so that a tied read-out does not begin by predicting the "
        "current token",
    )


def _profiles(config: ToyConfig, sweep: Sweep) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Fourier profiles of the Untied runs at step 0 and at the end, by tracked band."""
    units = dict.fromkeys(
        row["unit"] for row in sweep.rows(kind="loss", stage="untied", control=False)
    )
    profiles = {}
    for cycle, offset in config.tracked_bands:
        band = f"{cycle}:{offset}"
        stored = [sweep.arrays(unit)[f"profiles/{band}"] for unit in units]
        profiles[band] = [(profile[0], profile[-1]) for profile in stored]
    return profiles


def _batch_sizes(count: int) -> Need:
    what = f"{LEAST_BATCH_SIZES} batch sizes"
    return Need(what, count >= LEAST_BATCH_SIZES, str(count))


def _at_target(sweep: Sweep, stage: str) -> list[Need]:
    count = len({run.batch_size for run in matched_runs(sweep, stage)})
    what = f"{LEAST_BATCH_SIZES} batch sizes that met the target loss"
    return [Need(what, count >= LEAST_BATCH_SIZES, str(count))]


def _seeds(config: ToyConfig) -> Need:
    count = len(config.seeds)
    return Need(f"{LEAST_SEEDS} seeds", count >= LEAST_SEEDS, str(count))
